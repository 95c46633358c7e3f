"""Passing weights from one phase to the next: all of the encoder's, bit by bit, and new heads said so."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from xlt_scale.checkpoint.reader import CheckpointReader, CheckpointWeights
from xlt_scale.checkpoint.training_state import check_arrival, load_weights, open_together
from xlt_scale.engines.interface import Engine
from xlt_scale.modeling.weights import FirstOf, FreshWeights, PretrainedWeights, WeightSource
from xlt_scale.training.job import PhaseJob


@dataclass(frozen=True)
class ParentWeights:
    """What a phase starts from.

    Attributes:
        source: gives every parameter: the parent's, and fresh ones.
        kept: those that come from the parent.
        reader: of the parent's checkpoint, where it is one.
    """

    source: WeightSource
    kept: Sequence[str]
    reader: CheckpointReader | None


@contextlib.contextmanager
def parent_weights(job: PhaseJob, engine: Engine) -> Iterator[ParentWeights]:
    """The weights that a phase starts from, open for reading; collective.

    The head of masked language modelling belongs to the pre-trained model and travels with it; every other head starts
    anew (X-STILTs, Phang et al. 2020, section 2), but for `keep_heads` and phases that only score.

    Raises:
        UserError: an encoder weight is missing or has another shape.
    """
    parent = job.parent
    # Adapters start anew, and no parent has any: its result is merged.
    parameters, fresh = job.result_parameters, FreshWeights(job.parameters, job.seed)
    if parent.checkpoint is not None:
        reader = open_together(job.setup.world, parent.checkpoint)
        try:
            weights = CheckpointWeights(reader, parameters)
            keeps_heads = job.phase.keep_heads or not job.phase.trains
            travelling = ("encoder.", "heads.") if keeps_heads else ("encoder.", "heads.mlm.")
            kept = [name for name in parameters if name.startswith(travelling) and weights.has(name)]
            reader.note_checksums(engine.quantises)
            yield ParentWeights(FirstOf([_Some(weights, kept), fresh]), kept, reader)
        finally:
            reader.close()
    elif parent.pretrained is not None:
        pretrained = PretrainedWeights(parent.pretrained, parameters, job.setup.plan.prefix)
        kept = [name for name in parameters if pretrained.has(name)]
        yield ParentWeights(FirstOf([pretrained, fresh]), kept, None)
    else:
        yield ParentWeights(fresh, [], None)


def load_parent(job: PhaseJob, engine: Engine, quietly: bool = False) -> None:
    """Fill the engine with the encoder of the phase's parent, and new heads; collective.

    Args:
        quietly: do not say what is new.

    Raises:
        UserError: an encoder weight is missing, has another shape, or did not arrive as it was saved.
    """
    with parent_weights(job, engine) as weights:
        engine.load_parameters(weights.source)
        if weights.reader is not None:
            check_arrival(engine, weights.reader, [f"param/{name}" for name in weights.kept])
    if quietly:
        return
    if job.parent.checkpoint is None and job.parent.pretrained is None:
        job.setup.announce(f"phase {job.phase.name}: fresh weights of seed {job.seed}")
    else:
        _say_what_is_new(job, weights.kept)


def load_result(job: PhaseJob, engine: Engine, folder: Path) -> None:
    """Fill the engine with all weights of a checkpoint of this very phase, or of the parent that it only scores;
    collective.
    """
    reader = open_together(job.setup.world, folder)
    load_weights(engine, reader, job.result_parameters)
    reader.close()


def _say_what_is_new(job: PhaseJob, kept: Sequence[str]) -> None:
    new = sorted({name.split(".")[1] for name in job.parameters if name.startswith("heads.")} - _heads(kept))
    origin = job.phase.parent or job.setup.options.model.name
    heads = f", new head: {', '.join(new)}" if new else ""
    adapters = "" if job.phase.adapter is None else f", frozen, with adapters ({job.phase.adapter.label})"
    job.setup.announce(f"phase {job.phase.name}: encoder of {origin}{adapters}{heads}")


def _heads(names: Sequence[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("heads.")}


class _Some(WeightSource):
    """A source cut down to some names."""

    def __init__(self, source: WeightSource, names: Sequence[str]) -> None:
        self._source, self._names = source, set(names)

    def has(self, name: str) -> bool:
        return name in self._names

    def read_into(self, destination: Tensor, name: str, start: int) -> None:
        self._source.read_into(destination, name, start)
