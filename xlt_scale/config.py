"""Run options, declared once.

A run is one TOML file: the model, the engine, the data, and a list of phases. `load_run` reads it, applies
`--set key.path=value` on top, and refuses what it does not know.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from xlt_scale.errors import UserError, nearest

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
    replicas: PositiveCount = Field(
        1, description="fsdp2: hybrid sharding; so many groups of processes each hold the whole model"
    )
    repeatable: bool = Field(
        False, description="only kernels that give the same bits every time, on one kind of machine; slower on GPUs"
    )
    activation_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is a GPU")


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


class PhaseOptions(Options):
    """One phase: train one task, or a mixture, from its parent's encoder; then score."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    parent: str = Field("", description="earlier phase by name, or another run's phase by folder; '' = the model")
    task: str = Field("", description="task to train; '' = only score the parent")
    mixture: dict[str, Positive] = Field(default_factory=dict, description="task = weight; one task per step")
    languages: list[str] = Field(default_factory=list, description="training languages; default: the task's source")
    max_examples: Count = Field(0, description="train on the first so many examples of each language; 0 = all")
    steps: Count = Field(0, description="optimiser steps; 0 = from `epochs`")
    epochs: Annotated[float, Field(ge=0)] = Field(0.0, description="passes over the data; used when `steps` is 0")
    batch_size: PositiveCount = Field(32, description="examples per optimiser step, over all ranks together")
    seed: int | None = Field(None, description="overrides the run's seed in this phase")

    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="adamw_8bit: matrices' states in 8 bits (bitsandbytes); embeddings and norms keep 32"
    )
    learning_rate: Positive = Field(1e-5)
    schedule: Literal["linear", "cosine", "constant"] = Field("linear")
    warmup: Share = Field(0.1, description="share of the steps over which the learning rate rises from 0")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.01, description="on matrices; not on biases, norms")
    # Not strict, because TOML has lists and no tuples; the numbers in it are checked strictly all the same.
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), strict=False)
    epsilon: Positive = Field(1e-8)
    gradient_clipping: Annotated[float, Field(ge=0)] = Field(1.0, description="global norm; 0 = no clipping")
    freeze_embeddings: bool = Field(False, description="word and position embeddings keep their values")
    masking: Share = Field(0.15, description="share of tokens that masked language modelling predicts")
    pooling: Literal["first", "mean"] = Field("first", description="what a sentence classifier reads")

    evaluate_every: Count = Field(0, description="steps between scores on the source language's dev set; 0 = at end")
    evaluation_examples: Count = Field(500, description="dev examples used for that; 0 = all")
    keep: Literal["last", "best"] = Field("last", description="weights the phase ends with; best = on that dev set")
    evaluate: list[str] = Field(default_factory=list, description="tasks scored at the end")
    evaluate_languages: list[str] = Field(default_factory=list, description="default: all the task has files for")
    evaluate_split: Literal["auto", "dev", "test"] = Field("auto", description="auto: test where it is labelled")
    retrieval_depth: Share = Field(7 / 12, description="relative depth of the layer that retrieval reads")
    baseline: str = Field("", description="earlier phase whose scores the gain is taken against")

    @model_validator(mode="after")
    def _is_complete(self) -> "PhaseOptions":
        if self.task and self.mixture:
            raise ValueError(f"phase {self.name!r} has both task and mixture: keep one of them")
        if self.trains and not (self.steps or self.epochs):
            raise ValueError(f"phase {self.name!r} trains {self.tasks}: give steps or epochs")
        if not self.trains and not self.evaluate:
            raise ValueError(f"phase {self.name!r} does nothing: give task, mixture or evaluate")
        if self.keep == "best" and not self.evaluate_every:
            raise ValueError(f"phase {self.name!r} has keep = 'best': set evaluate_every to the steps between scores")
        return self

    @property
    def tasks(self) -> list[str]:
        """The tasks that are trained, in a fixed order."""
        return [self.task] if self.task else sorted(self.mixture)

    @property
    def trains(self) -> bool:
        return bool(self.task or self.mixture)


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
    path = Path(path)
    table = read_toml(path)
    for setting in settings or []:
        _apply_setting(table, setting)
    try:
        return RunOptions.model_validate(table)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error, RunOptions)}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; a missing or broken file is a `UserError`."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a TOML file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def validate(model: type[Options], table: dict[str, Any], place: str) -> Any:
    """Build `model` from a table; what does not fit is a `UserError` that begins with `place`."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise UserError(f"{place}: {_explain(error, model)}") from None


def _apply_setting(table: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    *parents, last = _key_parts(key) if equals else [""]
    if not last:
        raise UserError(f"--set {setting!r}: write key.path=value")
    value = _setting_value(text)
    place: Any = table
    for position, part in enumerate(parents):
        if isinstance(place, list):
            place = _list_item(place, part, ".".join(parents[: position + 1]))
        else:
            place = place.setdefault(part, {})
        if not isinstance(place, dict | list):
            raise UserError(f"--set {key}: {'.'.join(parents[: position + 1])} is a value, not a table")
    if not isinstance(place, list):
        place[last] = value
    elif last.isdecimal() and int(last) < len(place) and not isinstance(place[int(last)], dict):
        place[int(last)] = value
    elif any(isinstance(item, dict) for item in place):
        raise UserError(f"--set {key}: name one of the items, as in {'.'.join(parents)}.NAME.{last}=...")
    else:
        raise UserError(f"--set {key}: no such item; the list has {len(place)}, counted from 0")


def _key_parts(key: str) -> list[str]:
    """The parts of a dotted key as TOML reads it; [""] when it is no key."""
    if "\n" in key:
        return [""]
    try:
        table = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return [""]
    parts: list[str] = []
    while isinstance(table, dict) and table:
        part, table = next(iter(table.items()))
        parts.append(part)
    return parts or [""]


def _setting_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _list_item(items: list[Any], part: str, key: str) -> Any:
    names = {item["name"]: item for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)}
    if part in names:
        return names[part]
    if part.isdecimal() and int(part) < len(items):
        return items[int(part)]
    raise UserError(f"--set {key}: no such item; {nearest(part, names)}")


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One problem of a validation in one line: the key, what is wrong, and the mend.

    An unknown key goes first: when it is a misspelt one, the right one is missing too, and that would tell less.
    """
    problems = error.errors(include_url=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    location = problem["loc"]
    key = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {nearest(str(location[-1]), _field_names(model, location[:-1]))}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    if problem["type"] == "missing":
        return f"key {key!r} is missing"
    if problem["type"] in ("model_type", "dict_type"):
        return f"{key} = {problem['input']!r}: it should be a table"
    return f"{key} = {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _field_names(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the table at `location` below `model`."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation
        inner = [argument for argument in getattr(annotation, "__args__", ()) if isinstance(argument, type)]
        current = next((a for a in [annotation, *inner] if isinstance(a, type) and issubclass(a, BaseModel)), current)
    return list(current.model_fields)
