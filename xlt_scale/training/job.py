"""One phase of a run, with everything about it that is decided before its first step."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from xlt_scale.checkpoint.manifest import MANIFEST
from xlt_scale.config import PhaseOptions
from xlt_scale.data.assembly import Masking
from xlt_scale.data.counter_random import key_of
from xlt_scale.data.plan import BatchPlan
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.engines.interface import EngineRequest
from xlt_scale.errors import UserError
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import ParameterSpec, describe_parameters
from xlt_scale.modeling.pretrained import pretrained_folder
from xlt_scale.tasks.spec import TaskSpec
from xlt_scale.training.identity import hash_of, phase_identity
from xlt_scale.training.lineage import PHASE_FILE, continuation
from xlt_scale.training.loop import TaskTraining
from xlt_scale.training.setup import RunSetup, find_finished, origin_name, read_json, selection_task


@dataclass(frozen=True)
class Parent:
    """What a phase starts from: a checkpoint of an earlier phase, pre-trained files, or fresh weights (neither).

    Attributes:
        origin: what to call it in the hash of the phase.
    """

    checkpoint: Path | None
    pretrained: Path | None
    origin: str


@dataclass(frozen=True)
class PhaseJob:
    """A phase of a run; the same on every rank.

    Attributes:
        tasks: data and plan of each trained task.
        selection: the task whose source-language dev set is scored now and then, with those examples; None without one.
        identity: everything that decides the phase's result.
    """

    setup: RunSetup
    phase: PhaseOptions
    seed: int
    parent: Parent
    tasks: dict[str, TaskTraining]
    selection: tuple[TaskSpec, TokenizedData] | None
    num_steps: int
    identity: dict[str, Any]

    @cached_property
    def hash(self) -> str:
        """The name of the phase's result."""
        return hash_of(self.identity)

    @property
    def folder(self) -> Path:
        return self.setup.phase_folder(self.phase.name)

    @cached_property
    def heads(self) -> list[HeadSpec]:
        return self.setup.heads(self.phase)

    @cached_property
    def parameters(self) -> dict[str, ParameterSpec]:
        """Every parameter of the phase's model by name."""
        return describe_parameters(self.setup.plan, self.heads)

    def engine_request(self) -> EngineRequest:
        return EngineRequest(
            world=self.setup.world,
            plan=self.setup.plan,
            heads=self.heads,
            parameters=self.parameters,
            options=self.setup.options.engine,
            phase=self.phase,
            precision=self.setup.precision,
        )

    def finished_checkpoint(self) -> Path | None:
        """The result of an earlier start, when it was this very phase and is still there."""
        facts = read_json(self.folder / PHASE_FILE)
        if facts.get("hash") != self.hash:
            return None
        checkpoint = self.folder / facts["checkpoint"]
        return checkpoint if (checkpoint / MANIFEST).is_file() else None


def plan_phase(setup: RunSetup, phase: PhaseOptions) -> PhaseJob:
    """Read a phase's data, find its parent, and name its result; called on every rank.

    Raises:
        UserError: data are missing or broken, the parent is not finished, or there are more ranks than examples in a
            batch.
    """
    seed = setup.options.seed if phase.seed is None else phase.seed
    parent = _find_parent(setup, phase, seed)
    tasks = task_trainings(setup, phase, seed)
    num_steps = _num_steps(phase, tasks)
    spec = selection_task(setup, phase)
    selection = None
    if spec is not None:
        data = setup.preparer.split(spec, "dev", spec.source_language, phase.evaluation_examples)
        selection = spec, data
    fingerprints = {task: training.data.fingerprint for task, training in tasks.items()}
    if selection is not None and phase.keep == "best":
        fingerprints["selection"] = selection[1].fingerprint
    identity = phase_identity(
        phase,
        plan=setup.plan,
        heads=setup.heads(phase),
        origin=parent.origin,
        data=fingerprints,
        num_steps=num_steps,
        seed=seed,
        precision=setup.precision,
        max_length=setup.options.model.max_length,
    )
    resumed = setup.options.resume if setup.resumed_phase == phase.name else ""
    if setup.options.resume != "never":
        folder = setup.phase_folder(phase.name)
        identity |= setup.world.share(lambda: continuation(folder, identity, resumed))
    return PhaseJob(setup, phase, seed, parent, tasks, selection, num_steps, identity)


def task_trainings(setup: RunSetup, phase: PhaseOptions, seed: int) -> dict[str, TaskTraining]:
    """The data and plan of each task that a phase trains; called on every rank.

    Raises:
        UserError: data are missing or broken, or there are fewer examples in a batch than ranks.
    """
    if phase.trains and phase.batch_size < setup.world.size:
        raise UserError(
            f"phase {phase.name!r}: batch_size = {phase.batch_size} leaves some of {setup.world.size} processes "
            f"without an example; start at most {phase.batch_size}, or raise batch_size"
        )
    trainings = {}
    for name in phase.tasks:
        spec = setup.catalogue[name]
        data = setup.preparer.training_data(spec, phase.languages, phase.max_examples)
        masking = None
        if spec.kind == "masked_language_modeling":
            masking = Masking.for_tokenizer(setup.preparer.tokenizer, phase.masking, key_of("masking", seed, name))
        plan = BatchPlan(data.lengths, phase.batch_size, key=(seed, name, data.fingerprint))
        trainings[name] = TaskTraining(spec, data, plan, masking)
    return trainings


def _num_steps(phase: PhaseOptions, tasks: dict[str, TaskTraining]) -> int:
    if not phase.trains:
        return 0
    num_examples = sum(len(training.data) for training in tasks.values())
    return phase.steps or max(1, -int(-phase.epochs * num_examples // phase.batch_size))


def _find_parent(setup: RunSetup, phase: PhaseOptions, seed: int) -> Parent:
    if not phase.parent:
        options = setup.options.model
        pretrained = pretrained_folder(options.name, options.revision) if options.name else None
        return Parent(None, pretrained, origin_name(setup.options, pretrained, seed))
    inside_this_run = phase.parent in [other.name for other in setup.options.phases]
    folder = setup.phase_folder(phase.parent) if inside_this_run else Path(phase.parent)
    checkpoint, origin = find_finished(folder, phase.name)
    return Parent(checkpoint, None, origin)
