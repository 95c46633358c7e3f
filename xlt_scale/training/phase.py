"""One phase of a run: weights from its parent, training, the result saved, scores."""

import os
import shutil
from pathlib import Path

from xlt_scale.config import PhaseOptions
from xlt_scale.data.counter_random import key_of
from xlt_scale.engines.build import build_engine
from xlt_scale.engines.interface import Engine
from xlt_scale.training.environment import write_json
from xlt_scale.training.handoff import load_parent, load_result
from xlt_scale.training.job import PhaseJob, plan_phase
from xlt_scale.training.loop import ModelCost, Training, train
from xlt_scale.training.metrics import MetricsWriter
from xlt_scale.training.scoring import ResultKeeper, is_scored, score
from xlt_scale.training.setup import PHASE_FILE, RunSetup


def run_phase(setup: RunSetup, phase: PhaseOptions, metrics: MetricsWriter) -> None:
    """Train, save and score one phase, or take over what an earlier start of the same run finished; collective."""
    job = plan_phase(setup, phase)
    result = job.finished_checkpoint()
    if result is not None and is_scored(job):
        setup.announce(f"phase {phase.name}: finished before ({job.hash}), nothing to do")
        return
    engine = build_engine(job.engine_request())
    try:
        if result is not None:
            setup.announce(f"phase {phase.name}: trained before ({job.hash}), scoring")
            load_result(job, engine, result)
        else:
            _make_result(job, engine, metrics)
        score(job, engine)
        # The next phase reads on every rank what rank 0 has written.
        setup.world.barrier()
    finally:
        engine.destroy()


def _make_result(job: PhaseJob, engine: Engine, metrics: MetricsWriter) -> None:
    """Fill the engine from the parent, run the steps, save what is kept and leave the engine with it."""
    load_parent(job, engine)
    if job.setup.world.is_main:
        shutil.rmtree(job.folder, ignore_errors=True)
        job.folder.mkdir(parents=True)
    job.setup.world.barrier()
    if not job.phase.trains and job.parent.checkpoint is not None:
        _write_phase_file(job, job.parent.checkpoint)
        return
    keeper = ResultKeeper(job, engine, metrics)
    if job.phase.trains:
        _train(job, engine, metrics, keeper)
    result = keeper.result()
    if job.phase.keep == "best":
        load_result(job, engine, result)
    _write_phase_file(job, result)


def _train(job: PhaseJob, engine: Engine, metrics: MetricsWriter, keeper: ResultKeeper) -> None:
    setup, phase = job.setup, job.phase
    what = " + ".join(phase.tasks)
    setup.announce(f"phase {phase.name}: {what}, {job.num_steps} steps of {phase.batch_size} examples, {job.hash}")
    num_non_embedding_parameters = sum(
        spec.numel for name, spec in job.parameters.items() if name.startswith("encoder.") and not spec.is_embedding
    )
    train(
        Training(
            engine=engine,
            phase=phase,
            tasks=job.tasks,
            num_steps=job.num_steps,
            seed=key_of("training", job.seed),
            token_budget=setup.options.engine.max_tokens_per_micro_batch,
            padded=not setup.plan.unpadded,
            cost=ModelCost(num_non_embedding_parameters, setup.plan.num_layers, setup.plan.hidden_size),
            logging=setup.options.logging,
            metrics=metrics,
            evaluate=keeper.evaluate,
        )
    )


def _write_phase_file(job: PhaseJob, result: Path) -> None:
    """What a child phase and a later start look for: written by rank 0 when the weights are whole."""
    if job.setup.world.is_main:
        facts = {
            "name": job.phase.name,
            "hash": job.hash,
            # Relative, so that a run's folder can be moved.
            "checkpoint": os.path.relpath(result, job.folder),
            "num_steps": job.num_steps,
            "parent": job.parent.origin,
            "seed": job.seed,
        }
        write_json(job.folder / PHASE_FILE, facts)
