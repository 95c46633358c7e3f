"""One phase of a run, with everything about it that is decided before its first step."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

from xlt_scale.checkpoint.manifest import MANIFEST
from xlt_scale.config import PhaseOptions
from xlt_scale.data.counter_random import key_of
from xlt_scale.data.plan import BatchPlan
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.engines.deepspeed_config import quantised_communication
from xlt_scale.engines.interface import EngineRequest
from xlt_scale.errors import UserError
from xlt_scale.modeling.adapters import is_adapter
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import ParameterSpec, describe_parameters
from xlt_scale.modeling.pretrained import pretrained_folder
from xlt_scale.tasks.examples import Examples, RankingExamples
from xlt_scale.tasks.loading import find_origin
from xlt_scale.tasks.spec import TaskSpec
from xlt_scale.training.identity import hash_of, phase_identity
from xlt_scale.training.lineage import PHASE_FILE, continuation
from xlt_scale.training.loop import Stream
from xlt_scale.training.masked_tokens import foreign_mask_token, masking_of
from xlt_scale.training.mixing import stream_name, stream_weights
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
class Selection:
    """Dev examples that choose between checkpoints: of the first trained task that has some in its source language."""

    spec: TaskSpec
    language: str
    examples: Examples
    data: TokenizedData


@dataclass(frozen=True)
class PhaseJob:
    """A phase of a run; the same on every rank.

    Attributes:
        streams: data and plan of each stream of examples (mixing.py).
        weights: the share of the steps that each stream gets.
        selection: what is scored now and then; None where the phase has no such set.
        identity: everything that decides the phase's result.
    """

    setup: RunSetup
    phase: PhaseOptions
    seed: int
    parent: Parent
    streams: dict[str, Stream]
    weights: dict[str, float]
    selection: Selection | None
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
        return describe_parameters(self.setup.plan, self.heads, self.phase.adapter)

    @cached_property
    def saved_parameters(self) -> dict[str, ParameterSpec]:
        """Those that training checkpoints hold: beside adapters not the encoder's, which are the parent's."""
        request = self.engine_request()
        return {name: spec for name, spec in self.parameters.items() if not request.is_borrowed(name)}

    @cached_property
    def result_parameters(self) -> dict[str, ParameterSpec]:
        """Those that the result holds: adapters are merged into the encoder's."""
        return {name: spec for name, spec in self.parameters.items() if not is_adapter(name)}

    def engine_request(self) -> EngineRequest:
        return EngineRequest(
            world=self.setup.world,
            plan=self.setup.plan,
            heads=self.heads,
            parameters=self.parameters,
            options=self.setup.options.engine,
            phase=self.phase,
            precision=self.setup.precision,
            only_scores=not self.phase.trains and self.parent.checkpoint is not None,
            seed=self.seed,
        )

    def scoring_request(self) -> EngineRequest:
        """Of a phase with adapters, the engine that scores its result: the merged weights, which a child phase and an
        export have too.
        """
        return replace(
            self.engine_request(),
            parameters=self.result_parameters,
            phase=self.phase.model_copy(update={"adapter": None}),
            only_scores=True,
        )

    def origins(self) -> dict[str, dict[str, dict[str, str]]]:
        """By task and language the file or hub data set that is trained on, and the revision that was resolved."""
        setup, phase = self.setup, self.phase
        found: dict[str, dict[str, dict[str, str]]] = {}
        for task in phase.tasks:
            whole = setup.catalogue[task]
            for language in setup.training_languages(phase, task):
                for spec in whole.part_tasks or [whole]:
                    origin = find_origin(spec, phase.train_split, language, setup.preparer.source)
                    facts = {"from": str(origin)} | ({"revision": origin.revision} if origin.hub else {})
                    found.setdefault(spec.name, {})[language] = facts
        return found

    def was_dropped(self) -> bool:
        """Whether an earlier start has trained and scored this very phase and then removed its weights."""
        facts = read_json(self.folder / PHASE_FILE)
        return facts.get("hash") == self.hash and facts["checkpoint"] is None

    def finished_checkpoint(self) -> Path | None:
        """The result of an earlier start, when it was this very phase and is still there."""
        facts = read_json(self.folder / PHASE_FILE)
        if facts.get("hash") != self.hash or facts["checkpoint"] is None:
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
    streams = plan_streams(setup, phase, seed)
    sizes: dict[str, dict[str, int]] = {task: {} for task in phase.tasks}
    for name, stream in streams.items():
        sizes[stream.spec.name][name] = len(stream.data)
    num_steps = _num_steps(phase, streams)
    selection = _find_selection(setup, phase)
    fingerprints = {name: stream.data.fingerprint for name, stream in streams.items()}
    if selection is not None and phase.keep == "best":
        fingerprints["selection"] = selection.data.fingerprint
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
        quantised=quantised_communication(setup.options.engine),
        float8=setup.options.engine.float8,
        mask_token=foreign_mask_token(setup, phase),
    )
    resumed = setup.options.resume if setup.resumed_phase == phase.name else ""
    if setup.options.resume != "never":
        folder = setup.phase_folder(phase.name)
        identity |= setup.world.share(lambda: continuation(folder, identity, resumed))
    weights = stream_weights(phase, sizes) if streams else {}
    return PhaseJob(setup, phase, seed, parent, streams, weights, selection, num_steps, identity)


def plan_streams(setup: RunSetup, phase: PhaseOptions, seed: int) -> dict[str, Stream]:
    """The data and plan of each stream that a phase trains; called on every rank.

    Raises:
        UserError: data are missing or broken, or there are fewer examples in a batch than ranks.
    """
    if phase.trains and phase.batch_size < setup.world.size:
        raise UserError(
            f"phase {phase.name!r}: batch_size = {phase.batch_size} leaves some of {setup.world.size} processes "
            f"without an example; start at most {phase.batch_size}, or raise batch_size"
        )
    streams = {}
    preparer = setup.preparer_of(phase)
    for task in phase.tasks:
        spec = setup.catalogue[task]
        languages = setup.training_languages(phase, task)
        apart = phase.language_exponent < 1.0 and len(languages) > 1
        parts = {stream_name(task, language): [language] for language in languages} if apart else {task: languages}
        for name, chosen in parts.items():
            data = preparer.training_data(spec, chosen, phase.max_examples, phase.train_split)
            masking = None
            if spec.kind == "masked_language_modeling":
                masking = masking_of(setup, phase, key_of("masking", seed, name))
            # Only the balance of the ranks depends on the lengths, never which examples form a batch.
            lengths = data.lengths if setup.plan.unpadded else data.padded_lengths
            plan = BatchPlan(lengths, phase.batch_size, key=(seed, name, data.fingerprint))
            streams[name] = Stream(spec, data, plan, masking)
    return streams


def _find_selection(setup: RunSetup, phase: PhaseOptions) -> Selection | None:
    spec = selection_task(setup, phase)
    if spec is None:
        return None
    preparer = setup.preparer_of(phase)
    examples = preparer.examples(spec, "dev", spec.source_language, phase.evaluation_examples)
    # Mewsli-X's candidates are a million entities, too many to search every now and then.
    has_candidates = not isinstance(examples, RankingExamples) or bool(examples.candidates)
    if not examples.is_labelled or not has_candidates:
        if phase.evaluate_every:
            why = "has no gold labels" if has_candidates else "has no candidates of its own"
            raise UserError(
                f"phase {phase.name!r}: evaluate_every is set, but the dev split of {spec.name!r} {why}; remove it"
            )
        return None
    return Selection(spec, spec.source_language, examples, preparer.tokenize(spec, examples))


def _num_steps(phase: PhaseOptions, streams: dict[str, Stream]) -> int:
    """The phase's steps; epochs are passes over the main tasks, and joint tasks' steps come on top of theirs."""
    if not phase.trains:
        return 0
    if phase.steps:
        return phase.steps
    num_examples = sum(len(stream.data) for stream in streams.values() if stream.spec.name in phase.main_tasks)
    of_main_tasks = phase.epochs * num_examples / phase.batch_size
    return max(1, ceil(of_main_tasks / (1.0 - sum(phase.joint.values()))))


def _find_parent(setup: RunSetup, phase: PhaseOptions, seed: int) -> Parent:
    if not phase.parent:
        options = setup.options.model
        pretrained = pretrained_folder(options.name, options.revision) if options.name else None
        return Parent(None, pretrained, origin_name(setup.options, pretrained, seed))
    inside_this_run = phase.parent in [other.name for other in setup.options.phases]
    folder = setup.phase_folder(phase.parent) if inside_this_run else Path(phase.parent)
    checkpoint, origin = find_finished(folder, phase.name)
    return Parent(checkpoint, None, origin)
