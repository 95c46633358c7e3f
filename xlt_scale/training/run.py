"""A run from its options to its table: the phases one after another."""

import contextlib
from dataclasses import replace
from datetime import timedelta
from functools import cache

from rich.console import Console

from xlt_scale.cluster.allocation import allocation_end
from xlt_scale.cluster.mark import Mark
from xlt_scale.cluster.stop_request import StopRequest
from xlt_scale.cluster.verdict import Limits
from xlt_scale.cluster.watch import Watch
from xlt_scale.config import FaultOptions, RunOptions
from xlt_scale.engines.meeting import Meeting
from xlt_scale.engines.repeatable import use_repeatable_kernels
from xlt_scale.engines.world import World, join_world
from xlt_scale.tasks.spec import TaskSpec
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
        StoppedError: a signal, a stop file or the end of the allocation stopped it; what there is is saved.
        LostError: other ranks have not come. One that is lost later ends this process at once (`Watch`).
    """
    catalogue = check_before_launch(options)
    if options.engine.repeatable:
        use_repeatable_kernels()
    stop = StopRequest()
    limits = _limits(options.faults)
    with stop.listening(), contextlib.ExitStack() as watching:

        def watch(meeting: Meeting) -> Mark:
            mark = Mark()
            watching.enter_context(Watch(meeting.rank, meeting.size, meeting.share, limits, mark))
            return mark

        world = join_world(
            options.engine.device,
            meet=timedelta(minutes=options.faults.meet_minutes),
            # The watch speaks first: it can say who is missing.
            timeout=timedelta(seconds=limits.lost_after + max(limits.standstill, limits.step) + 300),
            met=watch,
        )
        if world.is_main:
            stop.watch_the_clock(allocation_end(), options.checkpoints.seconds_before_end)
        with notes_announced(announcer(world.is_main, options.logging)):
            _set_up_and_carry_out(options, catalogue, world, stop)


def _set_up_and_carry_out(options: RunOptions, catalogue: dict[str, TaskSpec], world: World, stop: StopRequest) -> None:
    setup = replace(set_up(options, catalogue, world), stop=stop)
    try:
        _carry_out(setup)
    finally:
        if setup.lock is not None:
            setup.lock.release()


def _limits(faults: FaultOptions) -> Limits:
    return Limits(faults.lost_after, 60 * faults.first_step_minutes, 60 * faults.step_minutes)


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
