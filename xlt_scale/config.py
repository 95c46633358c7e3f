"""Run options, declared once.

A run is one TOML file: the model, the engine, the data, and a list of phases. `load_run` reads it, applies
`--set key.path=value` on top, and refuses what it does not know.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, model_validator

from xlt_scale.config_files import apply_setting, read_toml, validate
from xlt_scale.errors import nearest
from xlt_scale.option_types import Count, Options, Positive, PositiveCount, Share
from xlt_scale.phase_options import AdapterOptions, PhaseOptions
from xlt_scale.presets import apply_preset

__all__ = [
    "AdapterOptions",
    "CheckpointOptions",
    "Count",
    "DataOptions",
    "EngineOptions",
    "FaultOptions",
    "LoggingOptions",
    "ModelOptions",
    "Options",
    "PhaseOptions",
    "Positive",
    "PositiveCount",
    "RunOptions",
    "Share",
    "load_run",
    "make_run",
]


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
    bidirectional: bool | None = Field(
        None,
        description="decoders: true, the default, reads them in both directions; false: each token sees those before "
        "it, as they were pre-trained (docs/ladders.md)",
    )
    mask_token: str = Field(
        "",
        description="what stands for a masked token; default: the tokenizer's own, else <mask>, <extra_id_0> or _, "
        "the first that its vocabulary has",
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
    precision: Literal["auto", "fp32", "bf16", "bf16_stochastic"] = Field(
        "auto",
        description="auto: bf16 compute with fp32 master weights on GPUs, fp32 on CPUs; bf16_stochastic: without "
        "masters, each update goes into the bf16 weights, rounded at random (docs/sharding.md)",
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
    def _adapters_have_masters(self) -> "RunOptions":
        with_adapter = [phase.name for phase in self.phases if phase.adapter is not None]
        if with_adapter and self.engine.precision == "bf16_stochastic":
            raise ValueError(
                f"engine.precision = 'bf16_stochastic' saves the masters of what is trained, and phase "
                f"{with_adapter[0]!r} trains an adapter, which is small; use 'bf16'"
            )
        return self

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
