"""From a run's options to what the planner needs to know of each phase."""

from dataclasses import dataclass, field, replace
from math import ceil
from typing import Literal

from xlt_scale.config import AdapterOptions, PhaseOptions, RunOptions
from xlt_scale.errors import UserError
from xlt_scale.planning.layer_kinds import is_known, kind_of
from xlt_scale.planning.layer_time import layer_products
from xlt_scale.planning.published import scored_items, typical_lengths
from xlt_scale.planning.shapes import shape_of, size_of_model
from xlt_scale.planning.task_data import DataFacts, mixed
from xlt_scale.planning.workload import Lengths, Shape, Workload

# Their attention has no interface for packed sequences, or ignores what it needs (docs/decisions.md).
_PADDED_FAMILIES = ("xlnet", "t5", "mt5", "umt5", "deberta-v2", "rembert")


@dataclass(frozen=True)
class PhaseWork:
    """What a phase does.

    Attributes:
        workload: its training; None where it only scores.
        num_steps: of training.
        scored_tokens: real tokens of all forward passes that only score.
    """

    name: str
    workload: Workload | None
    num_steps: int
    scored_tokens: float


@dataclass
class RunDescription:
    """What a run does, phase by phase.

    Args:
        on_processors: no GPU: 'auto' precision is fp32 there.
    """

    run: RunOptions
    facts: DataFacts
    on_processors: bool
    _work: dict[str, PhaseWork] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = size_of_model(self.run.model)
        if size is None:
            raise UserError(
                f"model.name = {self.run.model.name!r}: its shape is not known here; give the folder of the model, or "
                "model.size or model.architecture"
            )
        self.shape: Shape = shape_of(size, bidirectional=self.run.model.bidirectional is not False)
        self._has_tied_words = bool(size.further_fields.get("tie_word_embeddings", True))
        if not is_known(size.model_type):
            nearest = "EuroBERT's" if self.shape.is_rms_normed else "XLM-R's"
            self.facts.note(f"layers of type {size.model_type!r} are counted as if they were {nearest}")
        attention = self.run.model.attention
        self.unpadded = attention != "padded" and size.model_type not in _PADDED_FAMILIES
        if not self.unpadded and attention == "auto":
            self.facts.note(f"models of type {size.model_type!r} are taken to run padded")

    @property
    def precision(self) -> Literal["fp32", "bf16", "bf16_stochastic"]:
        """That weights are computed in, and whether they have fp32 masters."""
        if self.run.engine.precision != "auto":
            return self.run.engine.precision
        return "fp32" if self.on_processors else "bf16"

    def trained(self) -> list[PhaseWork]:
        """The phases that train something."""
        return [work for work in map(self.work, self.run.phases) if work.workload is not None]

    def work(self, phase: PhaseOptions) -> PhaseWork:
        """One phase's work; phases that differ in their name or seed alone are described once."""
        key = phase.model_dump_json(exclude={"name", "parent", "seed", "learning_rate", "baseline"})
        if key not in self._work:
            self._work[key] = self._describe(phase)
        known = self._work[key]
        return PhaseWork(phase.name, known.workload, known.num_steps, known.scored_tokens)

    def _describe(self, phase: PhaseOptions) -> PhaseWork:
        scored = self._scored_tokens(phase)
        if not phase.trains:
            return PhaseWork(phase.name, None, 0, scored)
        data = {task: self.facts.of(phase, task) for task in phase.tasks}
        lengths = mixed([(share, data[task].lengths) for task, share in self._shares(phase).items()])
        num_main = sum(data[task].num_examples for task in phase.main_tasks)
        passes = phase.epochs * num_main / phase.batch_size / (1.0 - sum(phase.joint.values()))
        num_steps = phase.steps or max(1, ceil(passes))
        if phase.evaluate_every:
            num_scorings = num_steps // phase.evaluate_every
            scored += num_scorings * (phase.evaluation_examples or num_main / 20) * lengths.mean
        return PhaseWork(phase.name, self._workload(phase, lengths), num_steps, scored)

    def _workload(self, phase: PhaseOptions, lengths: Lengths) -> Workload:
        kinds = {self.facts.catalogue[task].kind for task in phase.tasks}
        predicts_words = "masked_language_modeling" in kinds
        shape = self._shape_with_words() if predicts_words and not self._has_tied_words else self.shape
        trained = shape.num_non_embedding_parameters / shape.num_parameters if phase.freeze_embeddings else 1.0
        if phase.adapter is not None:
            trained = _adapter_parameters(shape, phase.adapter) / shape.num_parameters
        dropout = self.run.model.dropout
        return Workload(
            shape=shape,
            lengths=replace(lengths, padding=1.0) if self.unpadded else lengths,
            batch_size=phase.batch_size,
            precision=self.precision,
            optimizer=phase.optimizer,
            unpadded=self.unpadded,
            dropout=kind_of(shape).dropout if dropout is None else dropout,
            trained_share=trained,
            trains_embeddings=not phase.freeze_embeddings and phase.adapter is None,
            # Of a mixture the whole share too: memory is counted at the step that takes the most.
            masked_share=phase.masking if predicts_words else 0.0,
            four_bit=phase.adapter is not None and phase.adapter.base == "nf4",
        )

    def _shape_with_words(self) -> Shape:
        """With an output matrix beside the word table, as large as it."""
        words = self.shape.vocab_size * self.shape.hidden_size
        return replace(
            self.shape,
            num_parameters=self.shape.num_parameters + words,
            num_embedding_parameters=self.shape.num_embedding_parameters + words,
        )

    def _shares(self, phase: PhaseOptions) -> dict[str, float]:
        """Of the steps, by task; of a list all tasks alike, as its weights come from data."""
        joint = sum(phase.joint.values())
        weights = phase.mixture if isinstance(phase.mixture, dict) else dict.fromkeys(phase.mixture, 1.0)
        weights = weights or {phase.task: 1.0}
        total = sum(weights.values())
        return {task: (1.0 - joint) * weight / total for task, weight in weights.items()} | phase.joint

    def _scored_tokens(self, phase: PhaseOptions) -> float:
        total = 0.0
        for task in phase.evaluate:
            spec = self.facts.catalogue[task]
            items = scored_items(spec, len(phase.evaluate_languages))
            if phase.evaluate_examples:
                items = min(
                    items, phase.evaluate_examples * (len(phase.evaluate_languages) or len(spec.languages) or 1)
                )
            total += items * typical_lengths(spec, self.facts.length_of(spec, phase)).mean
        return total


# By the endings of their names in the families' classes: the places of a layer's matrices in `layer_products`.
_MATRICES = {
    **dict.fromkeys(("query", "query_proj", "q_proj", "q"), (0,)),
    **dict.fromkeys(("key", "key_proj", "k_proj", "k"), (1,)),
    **dict.fromkeys(("value", "value_proj", "v_proj", "v"), (2,)),
    **dict.fromkeys(("o_proj", "o"), (3,)),
    "Wqkv": (0, 1, 2),
    **dict.fromkeys(("gate_proj", "wi_0"), (4,)),
    **dict.fromkeys(("up_proj", "wi_1"), (-2,)),
    "Wi": (4, -2),
    **dict.fromkeys(("down_proj", "wo"), (-1,)),
    "Wo": (3, -1),
    "dense": (3, 4, -1),
}


def _adapter_parameters(shape: Shape, adapter: AdapterOptions) -> int:
    """Of both small matrices beside the linear layers that are named: inputs and outputs of each, times the rank."""
    sizes = [inputs + outputs for inputs, outputs in layer_products(shape)]
    if adapter.targets == "all":
        return shape.num_layers * adapter.rank * sum(sizes)
    # Longer endings, such as 'output.dense', are counted as what they end with; others as all of a layer.
    places = {
        place % len(sizes)
        for ending in adapter.targets
        for place in _MATRICES.get(ending.rpartition(".")[2], range(len(sizes)))
    }
    return shape.num_layers * adapter.rank * sum(sizes[place] for place in places)
