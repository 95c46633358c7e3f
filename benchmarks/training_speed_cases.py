"""What can be measured, as one table of options, and the suites: lists of cases, the most important first."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from xlt_scale.errors import UserError, nearest
from xlt_scale.sizes import ModelSize, find_size

CHOICES = {
    "work": ("train", "evaluate", "numerics", "overhead", "losses"),
    "stack": ("ours", "deepspeed", "accelerate", "trainer", "torch"),
    "engine": ("fsdp2", "zero3"),
    "precision": ("bf16", "fp32", "bf16_stochastic"),
    "batching": ("padded", "grouped"),
    "lengths": ("nli", "qa", "even"),
    "optimizer": ("adamw", "adamw_8bit"),
    "checkpointing": ("none", "full", "selective"),
    "offload": ("none", "optimizer", "paged"),
    "keep_gathered": ("auto", "true", "false"),
    "adapter": ("none", "lora", "nf4"),
}


@dataclass(frozen=True)
class Case:
    """One configuration, measured in a process of its own.

    Attributes:
        work: training steps; forward passes only; gradients against fp32; our loop beside bare PyTorch; loss curves.
        stack: ours, or Hugging Face's sequence classifier under DeepSpeed ZeRO-3, accelerate's FSDP2, the Trainer, or
            a plain loop.
        engine, budget: ours alone: tokens of a micro-batch at most.
        adapter: ours alone: LoRA of rank 16 beside frozen weights in bf16 ('lora') or in four bits ('nf4').
        batching, micro_batch: the stock stacks alone: padded to the longest allowed, or grouped by length and padded to
            the longest of each micro-batch; examples of a micro-batch.
        size: a name of the ladder ('xlmr-xl'), one with fewer layers ('xlmr-xl:4'), or LAYERSxHIDDEN ('4x256').
        batch: examples per optimiser step.
        spread: standard deviation of the logarithm of the lengths.
    """

    work: str = "train"
    stack: str = "ours"
    engine: str = "fsdp2"
    size: str = "xlmr-xl"
    precision: str = "bf16"
    batching: str = "padded"
    lengths: str = "nli"
    batch: int = 512
    budget: int = 16_384
    micro_batch: int = 64
    optimizer: str = "adamw"
    checkpointing: str = "none"
    checkpoint_every: int = 1
    compile: bool = False
    float8: bool = False
    offload: str = "none"
    keep_gathered: str = "auto"
    adapter: str = "none"
    steps: int = 20
    warmup: int = 5
    seed: int = 1
    spread: float = 0.42
    device: str = "auto"
    trace: bool = False

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)!r} is none of {', '.join(allowed)}")
        for name in ("steps", "warmup", "batch", "micro_batch", "budget", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)!r} must be 1 or more")

    @property
    def is_ours(self) -> bool:
        return self.stack == "ours"

    @property
    def label(self) -> str:
        """What tells the case from others of its table."""
        if self.work in ("numerics", "overhead", "losses"):
            return f"{self.work} {self.size} {self.engine} {self.precision}"
        parts = [self.size, f"{self.stack}/{self.engine}" if self.is_ours else f"{self.stack} {self.batching}"]
        parts += [self.precision] if self.precision != "bf16" else []
        parts += [self.lengths] if self.lengths != "nli" else []
        parts += ["evaluate"] if self.work == "evaluate" else []
        parts += [f"batch {self.batch}"]
        parts += [f"budget {self.budget}" if self.is_ours else f"micro-batch {self.micro_batch}"]
        parts += [self.optimizer] if self.optimizer != "adamw" else []
        parts += [name for name in ("compile", "float8") if getattr(self, name)]
        if self.checkpointing != "none":
            parts.append(f"checkpointing {self.checkpointing}/{self.checkpoint_every}")
        parts += [f"offload {self.offload}"] if self.offload != "none" else []
        parts += [f"keep_gathered {self.keep_gathered}"] if self.keep_gathered != "auto" else []
        parts += [self.adapter] if self.adapter != "none" else []
        return ", ".join(parts)

    @property
    def max_length(self) -> int:
        return 384 if self.lengths == "qa" else 128

    @property
    def shape(self) -> ModelSize:
        """The encoder's shape.

        Raises:
            UserError: there is no such size.
        """
        name, _, layers = self.size.partition(":")
        depth, is_free, width = name.partition("x")
        if is_free and depth.isdigit() and width.isdigit():
            hidden = int(width)
            return ModelSize(
                name, "xlm-roberta", int(depth), hidden, max(1, hidden // 64), 4 * hidden, 8_000, 514, further_fields={}
            )
        found = find_size(name)
        return replace(found, num_layers=int(layers)) if layers else found

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_cases(text: str, defaults: Case) -> list[Case]:
    """The cases of one `--case` argument: 'name=value name=value,value ...', every combination of the values.

    Raises:
        UserError: a name or value is unknown.
    """
    types = {item.name: type(getattr(defaults, item.name)) for item in fields(Case)}
    wanted: dict[str, list[Any]] = {}
    for part in text.split():
        name, equals, values = part.partition("=")
        if name not in types or not equals:
            raise UserError(f"--case: {part!r}: write name=value; {nearest(name, types)}")
        wanted[name] = [_value(types[name], value, part) for value in values.split(",")]
    combinations = itertools.product(*wanted.values())
    return [replace(defaults, **dict(zip(wanted, values, strict=True))) for values in combinations]


def _value(kind: type, text: str, part: str) -> Any:
    try:
        return {"true": True, "false": False}[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise UserError(f"--case: {part!r}: {text!r} is not a {kind.__name__}") from None


def suite(name: str, defaults: Case) -> list[Case]:
    """The cases of a suite, in the order in which they are measured."""
    return list(_SUITES[name](defaults))


def suite_names() -> list[str]:
    return list(_SUITES)


def _cpu(base: Case) -> Iterator[Case]:
    base = replace(base, device="cpu", size="4x256", batch=16, budget=1024, micro_batch=16, warmup=2)
    yield replace(base, work="numerics", size="4x128", batch=16)
    for precision in ("fp32", "bf16"):
        at = replace(base, precision=precision)
        yield at
        yield replace(at, engine="zero3")
        yield replace(at, stack="torch")
        yield replace(at, stack="torch", batching="grouped")
    stock = replace(base, precision="fp32")
    for stack in ("deepspeed", "accelerate", "trainer"):
        for batching in ("padded", "grouped"):
            yield replace(stock, stack=stack, batching=batching)
    scoring = replace(base, work="evaluate", precision="fp32", steps=5, warmup=1)
    yield scoring
    yield replace(scoring, stack="torch", batching="grouped")
    realistic = replace(base, work="overhead", batch=48, budget=4096, steps=30)
    for engine in ("fsdp2", "zero3"):
        yield replace(realistic, precision="fp32", engine=engine)
    yield replace(realistic, precision="bf16")
    for engine in ("fsdp2", "zero3"):
        yield replace(base, work="overhead", precision="fp32", engine=engine, size="2x64", batch=8, steps=100)
    yield replace(base, work="losses", size="micro-small", precision="fp32", batch=32, steps=200)


def _gpu_quick(base: Case) -> Iterator[Case]:
    """The anchors of XL, in ten minutes."""
    large = replace(base, batch=1024, budget=16_384)
    yield replace(base, work="numerics", size="xlmr-xl:4", batch=32)
    yield replace(large, compile=True, trace=True)
    yield replace(base, stack="deepspeed", batching="grouped", batch=1024, micro_batch=128, trace=True)
    yield large
    yield replace(base, stack="deepspeed", batch=1024, micro_batch=128)
    yield replace(large, engine="zero3", compile=True)
    small_states = {"optimizer": "adamw_8bit", "precision": "bf16_stochastic"}
    for batch in (32, 128):
        yield replace(base, batch=batch, compile=True, trace=batch == 32)
        yield replace(base, stack="deepspeed", batching="grouped", batch=batch, micro_batch=min(batch, 128))
        yield replace(base, batch=batch, compile=True, trace=batch == 32, **small_states)


def _gpu_xl(base: Case) -> Iterator[Case]:
    yield from _gpu_quick(base)
    selective = {"checkpointing": "selective", "compile": True}
    yield replace(base, batch=1024, budget=32_768, **selective)
    for budget in (8_192, 24_576):
        yield replace(base, batch=1024, budget=budget, compile=True)
    yield replace(base, engine="zero3", batch=1024, budget=32_768, trace=True, **selective)
    yield replace(base, lengths="qa", batch=128, budget=16_384, compile=True)
    yield replace(base, lengths="qa", batch=128, budget=32_768, **selective)
    yield replace(base, lengths="qa", stack="deepspeed", batch=128, micro_batch=32)
    scoring = replace(base, work="evaluate", budget=65_536, steps=5, warmup=1)
    yield scoring
    yield replace(scoring, compile=True)
    yield replace(scoring, stack="torch", batching="grouped", micro_batch=512)
    for stack in ("accelerate", "trainer"):
        for batching in ("grouped", "padded"):
            yield replace(base, stack=stack, batching=batching, batch=1024, micro_batch=128)
    for batch in (32, 128):
        yield replace(base, batch=batch)
        yield replace(base, batch=batch, engine="zero3")
        yield replace(base, batch=batch, optimizer="adamw_8bit", compile=True)
    yield replace(base, batch=2048, budget=65_536, checkpointing="full", checkpoint_every=2, compile=True)
    yield replace(base, batch=1024, budget=16_384, float8=True, compile=True)


def _gpu_large(base: Case) -> Iterator[Case]:
    base = replace(base, size="xlmr-large")
    for is_compiled in (True, False):
        yield replace(base, batch=2048, budget=65_536, compile=is_compiled, trace=is_compiled)
    yield replace(base, stack="deepspeed", batching="grouped", batch=2048, micro_batch=256)
    yield replace(base, stack="deepspeed", batch=2048, micro_batch=256)
    yield replace(base, engine="zero3", batch=2048, budget=65_536)
    for batch in (32, 128):
        yield replace(base, batch=batch, compile=True)
        yield replace(base, stack="deepspeed", batching="grouped", batch=batch, micro_batch=batch)
    for budget in (16_384, 32_768, 131_072):
        yield replace(base, batch=4096, budget=budget, compile=True)
    yield replace(base, work="evaluate", budget=131_072, steps=5, warmup=1)
    yield replace(base, lengths="qa", batch=512, budget=65_536, compile=True)


def _gpu_xxl(base: Case) -> Iterator[Case]:
    base = replace(base, size="xlmr-xxl", optimizer="adamw_8bit", steps=20, warmup=3)
    full = {"checkpointing": "full", "compile": True}
    selective = {"checkpointing": "selective", "compile": True}
    without_masters = replace(base, precision="bf16_stochastic")
    yield replace(without_masters, batch=1024, budget=8_192, trace=True, **selective)
    yield replace(base, batch=1024, budget=16_384, trace=True, **full)
    yield replace(base, batch=1024, budget=16_384, float8=True, **full)
    yield replace(without_masters, batch=1024, budget=8_192, float8=True, **selective)
    yield replace(base, batch=1024, budget=8_192, engine="zero3", **full)
    yield replace(without_masters, batch=1024, budget=4_096, engine="zero3", compile=True)
    for batch in (32, 128):
        yield replace(without_masters, batch=batch, budget=16_384, trace=batch == 32, compile=True)
        yield replace(base, batch=batch, budget=8_192, keep_gathered="true", **full)
        yield replace(base, batch=batch, budget=8_192, **full)
    yield replace(base, batch=1024, budget=8_192, checkpointing="full", checkpoint_every=2, compile=True)
    yield replace(base, batch=1024, budget=16_384, offload="paged", **full)
    yield replace(base, work="evaluate", budget=65_536, optimizer="adamw", steps=5, warmup=1)
    yield replace(base, stack="deepspeed", batching="grouped", batch=1024, micro_batch=32, **full | {"compile": False})


def _gpu_beyond(base: Case) -> Iterator[Case]:
    """Models above 12 billion parameters on one card, decoders read in both directions: adapters, and all of their
    states where they fit.
    """
    base = replace(base, batch=128, budget=8_192, checkpointing="full", steps=20, warmup=3)
    yield replace(base, size="qwen3-14b", adapter="lora", trace=True)
    yield replace(base, size="qwen3-14b", adapter="lora", compile=True)
    yield replace(base, size="gemma3-12b", adapter="lora")
    yield replace(base, size="gemma3-27b", adapter="nf4")
    yield replace(base, size="qwen3-32b", adapter="nf4")
    yield replace(base, size="gemma3-27b", adapter="lora")
    yield replace(base, size="qwen3-8b", optimizer="adamw_8bit")
    yield replace(base, size="qwen3-14b", optimizer="adamw_8bit", offload="paged", batch=32)
    for size in ("qwen3-14b", "planned-20b"):
        yield replace(base, size=size, optimizer="adamw_8bit", precision="bf16_stochastic", batch=32)


def _gpu_checks(base: Case) -> Iterator[Case]:
    """Loss curves and our loop's overhead, with shapes that take a minute."""
    yield replace(base, work="losses", size="micro-small", batch=32, steps=200)
    yield replace(base, work="overhead", size="xlmr-large", batch=64, budget=4096, steps=40)
    yield replace(base, work="overhead", size="xlmr-large", batch=64, budget=4096, steps=40, engine="zero3")


_SUITES = {
    "cpu": _cpu,
    "gpu-quick": _gpu_quick,
    "gpu-xl": _gpu_xl,
    "gpu-large": _gpu_large,
    "gpu-xxl": _gpu_xxl,
    "gpu-beyond": _gpu_beyond,
    "gpu-checks": _gpu_checks,
    "none": lambda base: iter(()),
}
