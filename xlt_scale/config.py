"""Run options, declared once.

A run is one TOML file: the model, the engine, the data, and a list of phases. `load_run` reads it, applies
`--set key.path=value` on top, and refuses what it does not know.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from xlt_scale.config_files import apply_setting, read_toml, validate
from xlt_scale.errors import nearest
from xlt_scale.presets import apply_preset

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
PositiveCount = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Options(BaseModel):
    """Base of every options table: unknown keys and values of another type are refused, also when set later."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, strict=True, allow_inf_nan=False)


class ModelOptions(Options):
    """Which encoder the first phase starts from."""

    name: str = Field("", description="Hugging Face hub name or folder of a pre-trained encoder")
    revision: str = Field("", description="revision of the hub name (a commit is best: it cannot move)")
    size: str = Field("", description="from scratch in the shape of this size (see `xlt-scale sizes`)")
    architecture: dict[str, Any] = Field(
        default_factory=dict,
        description="from scratch in a free shape: `model_type` and fields of that Hugging Face configuration; "
        "together with `size` it overrides single fields",
    )
    tokenizer: str = Field("", description="hub name or folder of the tokenizer, or 'micro'; default: that of `name`")
    max_length: PositiveCount = Field(128, description="tokens per sequence; longer ones are cut")
    dropout: Share | None = Field(None, description="overrides every dropout rate of the encoder and the heads")
    attention: Literal["auto", "unpadded", "padded"] = Field(
        "auto", description="auto: unpadded where the packed-against-padded self-check passes"
    )

    @model_validator(mode="after")
    def _has_one_origin(self) -> "ModelOptions":
        if self.name and (self.size or self.architecture):
            raise ValueError("model.name (pre-trained) and model.size / model.architecture (from scratch) exclude")
        if not (self.name or self.size or self.architecture):
            raise ValueError("give model.name (pre-trained), or model.size or model.architecture (from scratch)")
        if not self.name and not self.tokenizer:
            raise ValueError("a model from scratch needs model.tokenizer (a hub name, a folder, or 'micro')")
        return self


class EngineOptions(Options):
    """How the model is spread over the processes."""

    name: Literal["zero3", "fsdp2"] = Field("zero3", description="DeepSpeed ZeRO-3 or PyTorch fully_shard")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 compute with fp32 master weights on GPUs, fp32 on CPUs"
    )
    deepspeed_config: str = Field("", description="DeepSpeed JSON file; default ds_configs/zero3.json of the package")
    max_tokens_per_micro_batch: PositiveCount = Field(8192, description="token budget of one forward pass on one rank")
    replicas: PositiveCount | Literal["nodes"] = Field(
        1,
        description="fsdp2: hybrid sharding; so many groups of processes each hold the whole model; nodes: one group "
        "per node",
    )
    repeatable: bool = Field(
        False, description="only kernels that give the same bits every time, on one kind of machine; slower on GPUs"
    )
    auto: bool = Field(
        False,
        description="let the planner choose what this table does not set (see `xlt-scale plan`); docs/planning.md",
    )
    compile: bool = Field(False, description="compile the encoder's layers; the first steps of a phase take longer")
    activation_checkpointing: bool | Literal["selective"] = Field(
        False,
        description="recompute activations in the backward pass; selective: all but matrix products and attention",
    )
    checkpoint_every: PositiveCount = Field(
        1, description="activation checkpointing of every so many-th layer; 2 = half of the layers"
    )
    keep_gathered: bool | Literal["auto"] = Field(
        "auto",
        description="keep gathered weights from the forward to the backward pass; auto: where they take less than a "
        "tenth of the device's memory",
    )
    float8: bool = Field(False, description="matrix products of the encoder's layers in float8 (H100 and later)")
    offload: Literal["none", "optimizer", "paged"] = Field(
        "none",
        description="optimizer: masters and optimiser states lie in host memory; paged: 8-bit states that CUDA moves "
        "there when memory is short",
    )
    scoring: Literal["auto", "replicated", "spread", "sharded"] = Field(
        "auto",
        description="phases that only score: a copy of the model in each process where it fits; else one process "
        "spreads it over its devices, several shard it",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is a GPU")

    @model_validator(mode="after")
    def _fits_together(self) -> "EngineOptions":
        if self.compile and self.repeatable:
            raise ValueError(
                "engine.compile and engine.repeatable exclude each other, since compilers choose the order of sums; "
                "set one of them to false"
            )
        if self.checkpoint_every > 1 and not self.activation_checkpointing:
            raise ValueError(
                f"engine.checkpoint_every = {self.checkpoint_every}, but nothing is checkpointed; "
                "set engine.activation_checkpointing too, or remove it"
            )
        return self


class DataOptions(Options):
    """Where task data come from."""

    source: Literal["auto", "files", "hub"] = Field(
        "auto", description="auto: published files under `root` where they exist, else the hub"
    )
    root: str = Field("", description="folder of published task files; default: environment variable XLT_SCALE_DATA")
    micro_world: Count = Field(200, description="seed of the micro benchmark's world")
    cache: str = Field("", description="tokenised data and generated worlds; default ~/.cache/xlt_scale")


class LoggingOptions(Options):
    """What is written and shown while a run goes on."""

    every: PositiveCount = Field(10, description="steps between rows of metrics.jsonl")
    tensorboard: bool = Field(True, description="write TensorBoard event files")
    progress: Literal["auto", "bar", "plain", "none"] = Field("auto", description="auto: bar on a terminal, else plain")


class CheckpointOptions(Options):
    """When the training state is saved within a phase, and what stays on disk."""

    every: Count = Field(0, description="steps between training checkpoints; 0 = by time alone")
    minutes: Annotated[float, Field(ge=0)] = Field(
        15.0, description="save at the first logged step after so many minutes without; 0 = by steps alone"
    )
    keep_last: PositiveCount = Field(2, description="newest checkpoints that stay while the phase trains")
    keep_every: Count = Field(0, description="checkpoints of every so many steps stay for good; 0 = none")
    asynchronous: bool = Field(True, description="copy the state to host memory and write it while training goes on")
    seconds_before_end: Annotated[float, Field(ge=0)] = Field(
        300.0, description="save and stop so long before the batch system's time limit (a quarter of short jobs' time)"
    )


class FaultOptions(Options):
    """How long processes wait for each other before the run ends by itself, to be started again."""

    lost_after: Positive = Field(60.0, description="seconds without a word from a process, its node or the link to it")
    meet_minutes: Positive = Field(10.0, description="minutes until all processes have come at the start")
    first_step_minutes: Positive = Field(
        30.0, description="minutes without any process getting on: while data are read, models loaded, scores computed"
    )
    step_minutes: Positive = Field(10.0, description="minutes without any process getting on between two steps")


class AdapterOptions(Options):
    """Train small matrices beside the frozen encoder's, in place of the encoder itself (docs/adapters.md)."""

    kind: Literal["lora"] = Field("lora", description="lora: W + alpha / rank * B A in place of W")
    rank: PositiveCount = Field(16, description="rows of A and columns of B")
    alpha: Positive = Field(32.0, description="B A is scaled by alpha / rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="on what A reads")
    targets: Literal["all"] | list[str] = Field(
        "all", description="all linear layers of the encoder, or endings of their names, as in ['query', 'value']"
    )
    base: Literal["full", "nf4"] = Field(
        "full", description="nf4: the encoder's matrices that are adapted lie in 4 bits, whole on every process"
    )

    @property
    def label(self) -> str:
        """What tables call it, in one word."""
        return f"{'nf4-' if self.base == 'nf4' else ''}{self.kind}-{self.rank}"


class PhaseOptions(Options):
    """One phase: train one task, or a mixture, from its parent's encoder; then score."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    parent: str = Field("", description="earlier phase by name, or another run's phase by folder; '' = the model")
    task: str = Field("", description="task to train; '' = only score the parent")
    mixture: dict[str, Positive] | list[str] = Field(
        default_factory=dict, description="several tasks, one per step: task = weight, or a list and `mixing`"
    )
    mixing: Literal["weights", "proportional", "temperature", "uniform"] = Field(
        "weights",
        description="how often each task of a list is drawn: by its examples n, as min(n, cap)^(1/T), or alike",
    )
    mixing_cap: Count = Field(131_072, description="examples of a task that count for proportional mixing; 0 = all")
    mixing_temperature: Positive = Field(1.0, description="T of mixing = 'temperature'")
    joint: dict[str, Share] = Field(
        default_factory=dict, description="further tasks and their share of the steps, as in { mlm = 0.5 }"
    )
    preset: str = Field(
        "", description="jiant or xtreme: what that code prescribes for the task, where the phase says nothing else"
    )
    languages: list[str] = Field(default_factory=list, description="training languages; default: the task's source")
    task_languages: dict[str, list[str]] = Field(
        default_factory=dict, description="training languages of single tasks, in place of `languages`"
    )
    language_exponent: Share = Field(
        1.0, description="below 1: one language per step, drawn by (its examples)^exponent; 1: all examples alike"
    )
    train_split: Literal["train", "dev", "test"] = Field(
        "train",
        description="published split that is trained on; another one where there is no training split to be had",
    )
    max_examples: Count = Field(0, description="train on the first so many examples of each language; 0 = all")
    steps: Count = Field(0, description="optimiser steps; 0 = from `epochs`")
    epochs: Annotated[float, Field(ge=0)] = Field(0.0, description="passes over the data; used when `steps` is 0")
    max_length: Count = Field(0, description="tokens per sequence; 0 = the task's own, or model.max_length")
    batch_size: PositiveCount = Field(32, description="examples per optimiser step, over all ranks together")
    seed: int | None = Field(None, description="overrides the run's seed in this phase")

    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="adamw_8bit: matrices' states in 8 bits (bitsandbytes); embeddings and norms keep 32"
    )
    learning_rate: Positive = Field(1e-5)
    schedule: Literal["linear", "cosine", "constant"] = Field("linear")
    warmup: Share = Field(0.1, description="share of the steps over which the learning rate rises from 0")
    warmup_steps: Count = Field(0, description="steps over which it rises, in place of that share")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.01, description="on matrices; not on biases, norms")
    # Not strict, because TOML has lists and no tuples; the numbers in it are checked strictly all the same.
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), strict=False)
    epsilon: Positive = Field(1e-8)
    gradient_clipping: Annotated[float, Field(ge=0)] = Field(1.0, description="global norm; 0 = no clipping")
    freeze_embeddings: bool = Field(False, description="word and position embeddings keep their values")
    masking: Share = Field(0.15, description="share of tokens that masked language modelling predicts")
    pooling: Literal["first", "mean"] = Field("first", description="what a sentence classifier reads")
    adapter: AdapterOptions | None = Field(
        None, description="train adapters and heads, not the encoder: [phases.adapter], docs/adapters.md; unset: all"
    )
    keep_heads: bool = Field(False, description="heads that the parent trained too go on, in place of new ones")
    weights: Literal["keep", "drop"] = Field(
        "keep", description="drop: the trained weights are removed once the phase is scored; no phase can start from it"
    )

    evaluate_every: Count = Field(0, description="steps between scores on the source language's dev set; 0 = at end")
    evaluation_examples: Count = Field(500, description="dev examples used for that; 0 = all")
    keep: Literal["last", "best"] = Field("last", description="weights the phase ends with; best = on that dev set")
    evaluate: list[str] = Field(default_factory=list, description="tasks scored at the end")
    evaluate_languages: list[str] = Field(default_factory=list, description="default: all the task has files for")
    evaluate_examples: Count = Field(
        0, description="score the first so many items of each language; 0 = all, as it should be"
    )
    evaluate_split: Literal["auto", "dev", "test"] = Field("auto", description="auto: test where it is labelled")
    retrieval_depth: Share = Field(7 / 12, description="relative depth of the layer that retrieval reads")
    retrieval_layers: Literal["depth", "all"] = Field(
        "depth", description="all: beside the layer at that depth the scores of every layer, raw and centred"
    )
    no_answer_threshold: float = Field(
        0.0, description="no answer is predicted where its score exceeds the best answer's by more than this"
    )
    max_answer_tokens: PositiveCount = Field(30, description="longest answer that a span task may predict")
    baseline: str = Field("", description="earlier phase whose scores the gain is taken against")

    @model_validator(mode="after")
    def _is_complete(self) -> "PhaseOptions":
        if self.task and self.mixture:
            raise ValueError(f"phase {self.name!r} has both task and mixture: keep one of them")
        self._check_mixing()
        if self.trains and not (self.steps or self.epochs):
            raise ValueError(f"phase {self.name!r} trains {self.tasks}: give steps or epochs")
        if not self.trains and not self.evaluate:
            raise ValueError(f"phase {self.name!r} does nothing: give task, mixture or evaluate")
        if self.adapter is not None and not self.trains:
            raise ValueError(f"phase {self.name!r} has an adapter but trains nothing; remove it, or give a task")
        if self.keep == "best" and not self.evaluate_every:
            raise ValueError(f"phase {self.name!r} has keep = 'best': set evaluate_every to the steps between scores")
        return self

    def _check_mixing(self) -> None:
        is_list = isinstance(self.mixture, list)
        if is_list and self.mixture and self.mixing == "weights":
            raise ValueError(
                f"phase {self.name!r}: mixture is a list; set mixing to proportional, temperature or uniform, or write "
                "task = weight"
            )
        if not is_list and self.mixing != "weights":
            raise ValueError(f"phase {self.name!r}: mixing = {self.mixing!r} is for a mixture that is a list of tasks")
        if len(set(self.mixture)) < len(self.mixture):
            raise ValueError(f"phase {self.name!r}: mixture names a task twice; remove one")
        for task, share in self.joint.items():
            if task in self.main_tasks:
                raise ValueError(f"phase {self.name!r}: {task!r} is in joint and trained anyway; remove one")
            if not share:
                raise ValueError(f"phase {self.name!r}: joint task {task!r} has the share 0; remove it")
        if self.joint and (not self.main_tasks or sum(self.joint.values()) >= 1):
            raise ValueError(f"phase {self.name!r}: joint tasks leave nothing for a main task; lower their shares")
        for task in self.task_languages:
            if task not in self.tasks:
                raise ValueError(f"phase {self.name!r}: task_languages has {task!r}, which the phase does not train")

    @model_serializer(mode="wrap")
    def _without_absent_adapter(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The names of phases are hashes of their options: those of phases that train everything stay what they were.
        return {key: value for key, value in handler(self).items() if key != "adapter" or value is not None}

    @property
    def main_tasks(self) -> list[str]:
        """The tasks that are trained beside the joint ones, in a fixed order."""
        return [self.task] if self.task else sorted(self.mixture)

    @property
    def tasks(self) -> list[str]:
        """The tasks that are trained, in a fixed order."""
        return [*self.main_tasks, *sorted(self.joint)]

    def languages_of(self, task: str) -> list[str]:
        """The training languages that the phase names for a task; [] where it leaves them to the task."""
        return self.task_languages.get(task, self.languages)

    @property
    def trains(self) -> bool:
        return bool(self.main_tasks)


class RunOptions(Options):
    """Everything that a run file says."""

    output: str = Field("", description="the run's folder")
    seed: int = Field(1)
    resume: str = Field(
        "auto",
        description="auto: go on where the output folder's last start ended; never: start anew, keeping what is there "
        "aside; PATH: go on from this checkpoint even if options or data have changed",
    )
    model: ModelOptions
    engine: EngineOptions = Field(default_factory=EngineOptions)
    data: DataOptions = Field(default_factory=DataOptions)
    checkpoints: CheckpointOptions = Field(default_factory=CheckpointOptions)
    faults: FaultOptions = Field(default_factory=FaultOptions)
    logging: LoggingOptions = Field(default_factory=LoggingOptions)
    tasks: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="tasks of the user's own, or fields of a catalogue task to override"
    )
    phases: list[PhaseOptions] = Field(min_length=1)

    @model_validator(mode="after")
    def _phases_fit_together(self) -> "RunOptions":
        seen: list[str] = []
        for phase in self.phases:
            if phase.name in seen:
                raise ValueError(f"two phases are named {phase.name!r}: rename one")
            for key, name in (("parent", phase.parent), ("baseline", phase.baseline)):
                looks_like_a_path = key == "parent" and ("/" in name or name.startswith("."))
                if name and name not in seen and not looks_like_a_path:
                    raise ValueError(
                        f"phase {phase.name!r}: {key} {name!r} is not an earlier phase; {nearest(name, seen)}"
                        if seen
                        else f"phase {phase.name!r}: {key} {name!r}, but no phase comes before it"
                    )
            seen.append(phase.name)
        return self

    def to_toml(self) -> str:
        """The resolved options as TOML, every default spelled out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def load_run(path: str | Path, settings: list[str] | None = None) -> RunOptions:
    """Read a run file and apply `key.path=value` settings on top.

    Args:
        path: the TOML file.
        settings: as given to `--set`. Values are TOML (`true`, `3`, `[1, 2]`); what is not TOML is taken as a string.
            A phase is addressed by its name, or by its number from 0: `phases.target.steps=100`. A name with a dot in
            it is quoted: `phases."lr-0.01".steps=100`.

    Raises:
        UserError: the file is missing or not TOML, a key is unknown, or a value does not fit.
    """
    return make_run(read_toml(Path(path)), settings or [], str(path))


def make_run(table: dict[str, Any], settings: Sequence[str], place: str) -> RunOptions:
    """A run's options from its tables, with settings applied on top (`load_run`); errors begin with `place`."""
    for setting in settings:
        apply_setting(table, setting)
    phases = table.get("phases")
    for number, phase in enumerate(phases if isinstance(phases, list) else []):
        if isinstance(phase, dict):
            apply_preset(phase, f"{place}: phase {phase.get('name', number)!r}")
    return validate(RunOptions, table, place)
