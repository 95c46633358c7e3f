"""Passing weights from one phase to the next: all of the encoder's, bit by bit, and new heads said so."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from xlt_scale.checkpoint.reader import CheckpointWeights
from xlt_scale.checkpoint.training_state import check_arrival, load_weights, open_together
from xlt_scale.engines.interface import Engine
from xlt_scale.modeling.weights import FirstOf, FreshWeights, PretrainedWeights, WeightSource
from xlt_scale.training.job import PhaseJob


def load_parent(job: PhaseJob, engine: Engine) -> None:
    """Fill the engine with the encoder of the phase's parent, and new heads; collective.

    The head of masked language modelling belongs to the pre-trained model and travels with it; every other head starts
    anew (X-STILTs, Phang et al. 2020, section 2), but for `keep_heads` and phases that only score.

    Raises:
        UserError: an encoder weight is missing, has another shape, or did not arrive as it was saved.
    """
    parent, parameters = job.parent, job.parameters
    fresh = FreshWeights(parameters, job.seed)
    if parent.checkpoint is not None:
        reader = open_together(job.setup.world, parent.checkpoint)
        weights = CheckpointWeights(reader, parameters)
        keeps_heads = job.phase.keep_heads or not job.phase.trains
        travelling = ("encoder.", "heads.") if keeps_heads else ("encoder.", "heads.mlm.")
        kept = [name for name in parameters if name.startswith(travelling) and weights.has(name)]
        reader.note_checksums(engine.quantises)
        engine.load_parameters(FirstOf([_Some(weights, kept), fresh]))
        check_arrival(engine, reader, [f"param/{name}" for name in kept])
        reader.close()
        _say_what_is_new(job, kept)
    elif parent.pretrained is not None:
        pretrained = PretrainedWeights(parent.pretrained, parameters, job.setup.plan.prefix)
        engine.load_parameters(FirstOf([pretrained, fresh]))
        _say_what_is_new(job, [name for name in parameters if pretrained.has(name)])
    else:
        engine.load_parameters(fresh)
        job.setup.announce(f"phase {job.phase.name}: fresh weights of seed {job.seed}")


def load_result(job: PhaseJob, engine: Engine, folder: Path) -> None:
    """Fill the engine with all weights of a checkpoint of this very phase, or of the parent that it only scores;
    collective.
    """
    reader = open_together(job.setup.world, folder)
    load_weights(engine, reader, job.parameters)
    reader.close()


def _say_what_is_new(job: PhaseJob, kept: Sequence[str]) -> None:
    new = sorted({name.split(".")[1] for name in job.parameters if name.startswith("heads.")} - _heads(kept))
    origin = job.phase.parent or job.setup.options.model.name
    heads = f", new head: {', '.join(new)}" if new else ""
    job.setup.announce(f"phase {job.phase.name}: encoder of {origin}{heads}")


def _heads(names: Sequence[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("heads.")}


class _Some:
    """A source cut down to some names."""

    def __init__(self, source: WeightSource, names: Sequence[str]) -> None:
        self._source, self._names = source, set(names)

    def has(self, name: str) -> bool:
        return name in self._names

    def read(self, name: str, start: int, stop: int) -> Tensor:
        return self._source.read(name, start, stop)
