"""A run from its options to its table: the phases one after another."""

from functools import cache

from rich.console import Console

from xlt_scale.config import RunOptions
from xlt_scale.engines.repeatable import use_repeatable_kernels
from xlt_scale.engines.world import join_world
from xlt_scale.training.data_check import check_data
from xlt_scale.training.metrics import MetricsWriter, announcer, notes_announced
from xlt_scale.training.phase import run_phase
from xlt_scale.training.publishing import publish_scores
from xlt_scale.training.setup import RunSetup, check_before_launch, record_start, set_up
from xlt_scale.training.tables import score_tables


def run(options: RunOptions) -> None:
    """Carry out a run; called on every rank. The result is the run's folder (docs/run_folder.md).

    Raises:
        UserError: the run cannot work as it is written.
        TrainingError: training went wrong.
    """
    catalogue = check_before_launch(options)
    if options.engine.repeatable:
        use_repeatable_kernels()
    world = join_world(options.engine.device)
    with notes_announced(announcer(world.is_main, options.logging)):
        setup = set_up(options, catalogue, world)
        try:
            _carry_out(setup)
        finally:
            if setup.lock is not None:
                setup.lock.release()


def _carry_out(setup: RunSetup) -> None:
    options, world = setup.options, setup.world
    path = "unpadded" if setup.plan.unpadded else "padded"
    where = f"{world.size} x {world.device.type}, {setup.precision}, {path} attention"
    setup.announce(f"{options.engine.name} on {where} -> {setup.folder}")
    metrics = MetricsWriter(setup.folder, options.logging, world.is_main)
    begin = cache(lambda: _begin(setup))
    worked = [run_phase(setup, phase, metrics, begin) for phase in options.phases]
    metrics.close()
    if not any(worked):
        setup.announce(f"{setup.folder}: this run was finished before; --resume never starts it anew")
    world.share(lambda: publish_scores(setup.folder, options))
    if world.is_main:
        Console().print(*score_tables(setup.folder, options), sep="\n")
    world.barrier()


def _begin(setup: RunSetup) -> None:
    """Before the first phase that has anything to do."""
    check_data(setup)
    record_start(setup)
