"""One phase of a run: weights from its parent, training, the result saved, scores."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from xlt_scale.checkpoint.finding import RESULT
from xlt_scale.config import PhaseOptions
from xlt_scale.data.counter_random import key_of
from xlt_scale.engines.build import build_engine
from xlt_scale.engines.interface import Engine, EngineRequest
from xlt_scale.training.environment import write_json
from xlt_scale.training.handoff import load_parent, load_result
from xlt_scale.training.job import PhaseJob, plan_phase
from xlt_scale.training.keeper import PhaseKeeper, remove_training_checkpoints
from xlt_scale.training.lineage import PHASE_FILE
from xlt_scale.training.loop import ModelCost, Progress, Training, train
from xlt_scale.training.metrics import MetricsWriter
from xlt_scale.training.resume import Start, find_start, load_start
from xlt_scale.training.scoring import is_scored, score
from xlt_scale.training.setup import RunSetup, read_json, stop_between_steps
from xlt_scale.training.training_facts import training_facts


def run_phase(setup: RunSetup, phase: PhaseOptions, metrics: MetricsWriter, record: Callable[[], None]) -> bool:
    """Train, save and score one phase; take over what an earlier start of the same run finished, and go on where it was
    interrupted. Collective.

    Args:
        record: called before anything is done.

    Returns:
        whether there was anything to do.
    """
    setup.world.mark.at("reading data", phase=phase.name, step=0)
    job = plan_phase(setup, phase)
    result = setup.world.share(job.finished_checkpoint) if setup.options.resume != "never" else None
    if result is not None and setup.world.is_main:
        _tidy(job)
    was_dropped = result is None and setup.options.resume != "never" and setup.world.share(job.was_dropped)
    if (result is not None or was_dropped) and is_scored(job):
        setup.announce(f"phase {phase.name}: finished before ({job.hash}), nothing to do")
        return False
    if was_dropped:
        setup.announce(f"phase {phase.name}: its weights were removed when it was scored; trained again to score more")
    start = find_start(job) if result is None else Start()
    record()
    for note in start.notes:
        setup.announce(f"phase {phase.name}: {note}")
    stop_between_steps(setup, f"phase {phase.name} goes on when the same command is started again")
    if result is not None:
        setup.announce(f"phase {phase.name}: trained before ({job.hash}), scoring")
    elif phase.adapter is not None:
        with _engine_of(job, job.engine_request()) as engine:
            _make_result(job, engine, metrics, start)
        result = job.folder / RESULT
    if phase.adapter is None or not is_scored(job):
        with _engine_of(job, job.engine_request() if phase.adapter is None else job.scoring_request()) as engine:
            if result is not None:
                load_result(job, engine, result)
            else:
                _make_result(job, engine, metrics, start)
            score(job, engine)
    if phase.weights == "drop":
        setup.world.share(lambda: _drop_weights(job))
    # The next phase reads on every rank what rank 0 has written.
    setup.world.barrier()
    return True


@contextlib.contextmanager
def _engine_of(job: PhaseJob, request: EngineRequest) -> Iterator[Engine]:
    """An engine that is gone when the block ends. Collective."""
    job.setup.world.mark.at("building the engine")
    engine = build_engine(request)
    try:
        yield engine
    finally:
        engine.destroy()


def _make_result(job: PhaseJob, engine: Engine, metrics: MetricsWriter, start: Start) -> None:
    """Fill the engine from a checkpoint or the parent, run the steps that are left, save what the phase ends with."""
    job.setup.world.share(lambda: job.folder.mkdir(parents=True, exist_ok=True))
    found = load_start(job, engine, start)
    progress, best = found or (Progress(), None)
    job.setup.world.share(lambda: metrics.rewind(job.phase.name, progress.step))
    if found is None:
        load_parent(job, engine)
    if not job.phase.trains and (job.parent.checkpoint is not None or job.phase.weights == "drop"):
        _write_phase_file(job, job.parent.checkpoint, progress)
        return
    keeper = PhaseKeeper(job, engine, metrics, best)
    try:
        if job.phase.trains:
            progress = _train(job, engine, metrics, keeper, progress)
        job.setup.world.mark.at("saving the result")
        _write_phase_file(job, keeper.result(progress), progress)
        if job.setup.world.is_main:
            _tidy(job)
    finally:
        keeper.close()


def _train(job: PhaseJob, engine: Engine, metrics: MetricsWriter, keeper: PhaseKeeper, progress: Progress) -> Progress:
    setup, phase = job.setup, job.phase
    shares = dict.fromkeys(phase.tasks, 0.0)
    for name, share in job.weights.items():
        shares[job.streams[name].spec.name] += share
    what = ", ".join(f"{task} ({share:.1%} of the steps)" if share < 0.9995 else task for task, share in shares.items())
    setup.announce(f"phase {phase.name}: {what}, {job.num_steps} steps of {phase.batch_size} examples, {job.hash}")
    request = job.engine_request()
    # Of the six operations for a parameter and token, two are for its gradient, which what stands beside adapters has
    # none of.
    operations = sum(
        spec.numel * (4 if request.is_borrowed(name) else 6)
        for name, spec in job.parameters.items()
        if name.startswith("encoder.") and not spec.is_embedding
    )
    return train(
        Training(
            engine=engine,
            phase=phase,
            streams=job.streams,
            weights=job.weights,
            num_steps=job.num_steps,
            seed=key_of("training", job.seed),
            token_budget=setup.options.engine.max_tokens_per_micro_batch,
            padded=not setup.plan.unpadded,
            cost=ModelCost(operations // 6, setup.plan.num_layers, setup.plan.attention_width),
            logging=setup.options.logging,
            metrics=metrics,
            keeper=keeper,
            start=progress,
            stop=setup.stop,
        )
    )


def _write_phase_file(job: PhaseJob, result: Path | None, progress: Progress) -> None:
    """What a child phase and a later start look for: written by rank 0 when the weights are whole. Collective."""
    training = training_facts(job, progress)
    facts = {
        "name": job.phase.name,
        "hash": job.hash,
        "identity": job.identity,
        # Relative, so that a run's folder can be moved.
        "checkpoint": None if result is None else os.path.relpath(result, job.folder),
        "num_steps": job.num_steps,
        "parent": job.parent.origin,
        "shares": job.weights,
        "seed": job.seed,
        "keep_every": job.setup.options.checkpoints.keep_every,
        "training": training,
    }
    job.setup.world.share(lambda: write_json(job.folder / PHASE_FILE, facts | {"data": job.origins()}))


def _drop_weights(job: PhaseJob) -> None:
    """Remove the weights of a scored phase. Called on rank 0. phase.json comes first: a kill between the two leaves
    weights that nobody reads, and not a phase that names weights which are gone.
    """
    facts = read_json(job.folder / PHASE_FILE)
    write_json(job.folder / PHASE_FILE, facts | {"checkpoint": None})
    shutil.rmtree(job.folder / RESULT, ignore_errors=True)


def _tidy(job: PhaseJob) -> None:
    """Remove the training checkpoints that a finished phase needs no more. Called on rank 0, not before phase.json is
    written: a phase that is killed without either begins anew. What a kill leaves here, a later start removes.
    """
    facts = read_json(job.folder / PHASE_FILE)
    if "keep_every" in facts:
        remove_training_checkpoints(job.folder, facts["keep_every"])
