"""One phase of a run: weights from its parent, training, the result saved, scores."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt_scale.checkpoint.manifest import MANIFEST
from xlt_scale.checkpoint.reader import CheckpointWeights, check_arrival
from xlt_scale.checkpoint.writer import save_weights
from xlt_scale.config import PhaseOptions
from xlt_scale.data.assembly import Masking
from xlt_scale.data.counter_random import key_of
from xlt_scale.data.plan import BatchPlan
from xlt_scale.engines.build import build_engine
from xlt_scale.engines.interface import Engine, EngineRequest
from xlt_scale.errors import UserError
from xlt_scale.evaluation.score import SCORER_VERSIONS, Evaluator
from xlt_scale.modeling.encoder import EncoderPlan
from xlt_scale.modeling.parameters import ParameterSpec, describe_parameters
from xlt_scale.modeling.weights import FirstOf, FreshWeights, PretrainedWeights, WeightSource, pretrained_folder
from xlt_scale.training.environment import write_json
from xlt_scale.training.identity import phase_hash
from xlt_scale.training.loop import ModelCost, TaskTraining, Training, train
from xlt_scale.training.metrics import MetricsWriter
from xlt_scale.training.setup import PHASE_FILE, RunSetup, find_finished, origin_name, read_json, selection_task


@dataclass(frozen=True)
class Parent:
    """What a phase starts from: a checkpoint of an earlier phase, pre-trained files, or nothing."""

    checkpoint: Path | None
    pretrained: Path | None
    origin: str


def run_phase(setup: RunSetup, phase: PhaseOptions, metrics: MetricsWriter) -> None:
    """Train, save and score one phase, or take over what an earlier start of the same run finished; collective."""
    folder = setup.phase_folder(phase.name)
    seed = setup.options.seed if phase.seed is None else phase.seed
    parent = _find_parent(setup, phase, seed)
    tasks = task_trainings(setup, phase, seed)
    num_steps = _num_steps(phase, tasks)
    name = phase_hash(
        phase,
        plan=setup.plan,
        origin=parent.origin,
        data={task: training.data.fingerprint for task, training in tasks.items()},
        num_steps=num_steps,
        seed=seed,
        precision=setup.precision,
        max_length=setup.options.model.max_length,
    )
    finished = _finished_checkpoint(folder, name)
    if finished is not None and _scores_are_there(setup, folder, phase):
        setup.announce(f"phase {phase.name}: finished before ({name}), nothing to do")
        return

    parameters = describe_parameters(setup.plan, setup.heads(phase))
    engine = build_engine(
        EngineRequest(
            world=setup.world,
            plan=setup.plan,
            heads=setup.heads(phase),
            parameters=parameters,
            options=setup.options.engine,
            phase=phase,
            precision=setup.precision,
        )
    )
    try:
        result = finished or _train_phase(
            setup, phase, metrics, engine, parameters, parent, tasks, num_steps, seed, name
        )
        if finished is not None:
            setup.announce(f"phase {phase.name}: trained before ({name}), scoring")
        if finished is not None or phase.keep == "best":
            _load_exactly(engine, result, parameters)
        if setup.world.is_main:
            facts = {"name": phase.name, "hash": name, "checkpoint": str(result.resolve()), "num_steps": num_steps}
            write_json(folder / PHASE_FILE, facts | {"parent": parent.origin, "seed": seed})
        _score(setup, phase, engine, folder)
        # The next phase reads on every rank what rank 0 has written.
        setup.world.barrier()
    finally:
        engine.destroy()


def _train_phase(
    setup: RunSetup,
    phase: PhaseOptions,
    metrics: MetricsWriter,
    engine: Engine,
    parameters: dict[str, ParameterSpec],
    parent: Parent,
    tasks: dict[str, TaskTraining],
    num_steps: int,
    seed: int,
    name: str,
) -> Path:
    """Fill the engine from the parent, run the steps, save; the folder of the checkpoint that is the phase's result."""
    _load_parent(engine, setup.plan, parent, parameters, seed)
    folder = setup.phase_folder(phase.name)
    if not phase.trains and parent.checkpoint is not None:
        return parent.checkpoint
    if setup.world.is_main:
        shutil.rmtree(folder, ignore_errors=True)
    setup.world.barrier()
    selection = _Selection(setup, phase, metrics, engine, parameters, folder / "checkpoints", name)
    if phase.trains:
        what = " + ".join(phase.tasks)
        setup.announce(f"phase {phase.name}: {what}, {num_steps} steps of {phase.batch_size} examples, {name}")
        non_embedding = sum(
            spec.numel for key, spec in parameters.items() if key.startswith("encoder.") and not spec.is_embedding
        )
        train(
            Training(
                engine=engine,
                phase=phase,
                tasks=tasks,
                num_steps=num_steps,
                seed=key_of("training", seed),
                token_budget=setup.options.engine.max_tokens_per_micro_batch,
                padded=not setup.plan.unpadded,
                cost=ModelCost(non_embedding, setup.plan.num_layers, setup.plan.hidden_size),
                logging=setup.options.logging,
                metrics=metrics,
                evaluate=selection.evaluate,
            )
        )
    if selection.best is None or phase.keep == "last":
        selection.save(num_steps)
    assert selection.best is not None
    return selection.best


class _Selection:
    """Scores the source language's dev set now and then, and keeps the weights that the phase ends with."""

    def __init__(
        self,
        setup: RunSetup,
        phase: PhaseOptions,
        metrics: MetricsWriter,
        engine: Engine,
        parameters: dict[str, ParameterSpec],
        folder: Path,
        name: str,
    ) -> None:
        self._setup, self._phase, self._metrics = setup, phase, metrics
        self._engine, self._parameters, self._folder, self._name = engine, parameters, folder, name
        self._spec = selection_task(setup, phase)
        self._best_value = float("-inf")
        self.best: Path | None = None
        if self._spec is not None:
            self._data = setup.preparer.split(self._spec, "dev", self._spec.source_language, phase.evaluation_examples)

    def evaluate(self, step: int) -> None:
        """Score the dev set; keep the weights when they are the best so far and the phase wants those. Collective."""
        if self._spec is None:
            return
        value = _evaluator(self._setup, self._phase, self._engine).score_data(self._spec, self._data)
        self._metrics.write({"phase": self._phase.name, "step": step, "dev_accuracy": value, "task": self._spec.name})
        self._setup.announce(f"phase {self._phase.name}  step {step}  dev accuracy {value:.1f} ({self._spec.name})")
        if self._phase.keep == "best" and value > self._best_value:
            self._best_value = value
            self.save(step)

    def save(self, step: int) -> None:
        """Save the weights as the phase's result, in place of earlier ones. Collective."""
        previous, self.best = self.best, self._folder / f"step-{step:08d}"
        facts = {
            "phase": self._phase.name,
            "hash": self._name,
            "step": step,
            "model": self._setup.plan.config.to_dict(),
            "heads": [vars(head) for head in self._setup.heads(self._phase)],
            "engine": self._setup.options.engine.name,
            "world_size": self._setup.world.size,
            "precision": self._setup.precision,
        }
        save_weights(self._engine, self._parameters, self.best, facts)
        if previous is not None and self._setup.world.is_main:
            shutil.rmtree(previous, ignore_errors=True)


def _find_parent(setup: RunSetup, phase: PhaseOptions, seed: int) -> Parent:
    if not phase.parent:
        options = setup.options.model
        pretrained = pretrained_folder(options.name, options.revision) if options.name else None
        return Parent(None, pretrained, origin_name(setup.options, pretrained, seed))
    inside_this_run = phase.parent in [other.name for other in setup.options.phases]
    folder = setup.phase_folder(phase.parent) if inside_this_run else Path(phase.parent)
    checkpoint, origin = find_finished(folder, phase.name)
    return Parent(checkpoint, None, origin)


def _load_parent(
    engine: Engine, plan: EncoderPlan, parent: Parent, parameters: dict[str, ParameterSpec], seed: int
) -> None:
    """Encoder weights from the parent, and that of masked language modelling, which belongs to the pre-trained model;
    other heads anew. Every encoder weight must have arrived, bit by bit. Collective.
    """
    fresh = FreshWeights(parameters, seed)
    if parent.checkpoint is not None:
        weights = CheckpointWeights(parent.checkpoint, parameters)
        kept = [name for name in parameters if _travels(name) and weights.has(name)]
        engine.load_parameters(FirstOf([_Only(weights, kept), fresh]))
        check_arrival(engine, weights, kept)
    elif parent.pretrained is not None:
        engine.load_parameters(FirstOf([PretrainedWeights(parent.pretrained, parameters, plan.prefix), fresh]))
    else:
        engine.load_parameters(fresh)


def _travels(name: str) -> bool:
    return name.startswith(("encoder.", "heads.mlm."))


class _Only:
    """A source cut down to some names."""

    def __init__(self, source: WeightSource, names: Sequence[str]) -> None:
        self._source, self._names = source, set(names)
        self.read = source.read

    def has(self, name: str) -> bool:
        return name in self._names


def _load_exactly(engine: Engine, folder: Path, parameters: dict[str, ParameterSpec]) -> None:
    """All weights of a checkpoint of this very phase; collective."""
    weights = CheckpointWeights(folder, parameters)
    stored = [name for name in parameters if weights.has(name)]
    engine.load_parameters(weights)
    check_arrival(engine, weights, stored)


def task_trainings(setup: RunSetup, phase: PhaseOptions, seed: int) -> dict[str, TaskTraining]:
    """The data and plan of each task that a phase trains; called on every rank.

    Raises:
        UserError: data are missing or broken, or there are fewer examples in a batch than ranks.
    """
    trainings = {}
    for name in phase.tasks:
        spec = setup.catalogue[name]
        data = setup.preparer.training_data(spec, phase.languages, phase.max_examples)
        if phase.batch_size < setup.world.size:
            raise UserError(
                f"phase {phase.name!r}: batch_size = {phase.batch_size} leaves some of {setup.world.size} processes "
                f"without an example; start at most {phase.batch_size}, or raise batch_size"
            )
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


def _finished_checkpoint(folder: Path, name: str) -> Path | None:
    """The result of an earlier start, when it was this very phase and is still there."""
    facts = read_json(folder / PHASE_FILE)
    if facts.get("hash") != name:
        return None
    checkpoint = Path(facts["checkpoint"])
    return checkpoint if (checkpoint / MANIFEST).is_file() else None


def _evaluator(setup: RunSetup, phase: PhaseOptions, engine: Engine) -> Evaluator:
    return Evaluator(
        engine=engine,
        preparer=setup.preparer,
        token_budget=2 * setup.options.engine.max_tokens_per_micro_batch,
        padded=not setup.plan.unpadded,
        retrieval_layer=round(phase.retrieval_depth * setup.plan.num_layers),
    )


def _scoring_request(setup: RunSetup, phase: PhaseOptions) -> dict[str, Any]:
    """What is scored and how: scores of an earlier start count only when they answer the same request."""
    plan = setup.scoring(phase, [head.name for head in setup.heads(phase)])
    return {
        "tasks": {task: {"split": split, "languages": languages} for task, (split, languages) in plan.items()},
        "scorers": {task: SCORER_VERSIONS[setup.catalogue[task].kind] for task in plan},
        "retrieval_layer": round(phase.retrieval_depth * setup.plan.num_layers),
    }


def _scores_are_there(setup: RunSetup, folder: Path, phase: PhaseOptions) -> bool:
    return not phase.evaluate or read_json(folder / "scores.json").get("request") == _scoring_request(setup, phase)


def _score(setup: RunSetup, phase: PhaseOptions, engine: Engine, folder: Path) -> None:
    """Score the phase's tasks in all their languages; rank 0 writes scores and predictions. Collective."""
    if not phase.evaluate:
        return
    evaluator = _evaluator(setup, phase, engine)
    request = _scoring_request(setup, phase)
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for task, wanted in request["tasks"].items():
        spec, split = setup.catalogue[task], wanted["split"]
        setup.announce(f"phase {phase.name}: scoring {task} ({split}) in {', '.join(wanted['languages'])}")
        scores[task] = {
            language: evaluator.score(spec, split, language, folder / "predictions") for language in wanted["languages"]
        }
    if setup.world.is_main:
        write_json(folder / "scores.json", {"scores": scores, "request": request, "phase": phase.name})
