"""Options of a phase: what is trained, how, and what is scored then."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from xlt_scale.option_types import Count, Decay, Options, Positive, PositiveCount, Share


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
    objective: Literal["masked_token", "masked_next_token"] = Field(
        "masked_token",
        description="masked language modelling; masked_next_token: a masked token is predicted at the place before "
        "it, as decoders have learned to (LLM2Vec)",
    )
    pooling: Literal["auto", "first", "last", "mean"] = Field(
        "auto",
        description="what stands for a sequence in heads that read one: a token, or the mean of all; auto: as the "
        "model family does it (docs/ladders.md)",
    )
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
