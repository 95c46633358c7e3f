"""A run from its options to its table: the phases one after another."""

from functools import cache
from pathlib import Path

from rich.console import Console
from rich.table import Table

from xlt_scale.config import RunOptions
from xlt_scale.engines.repeatable import use_repeatable_kernels
from xlt_scale.engines.world import join_world
from xlt_scale.tasks.languages import describe
from xlt_scale.training.environment import write_json
from xlt_scale.training.metrics import MetricsWriter
from xlt_scale.training.phase import run_phase
from xlt_scale.training.setup import RunSetup, check_before_launch, read_json, record_start, set_up


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
    record = cache(lambda: record_start(setup))
    worked = [run_phase(setup, phase, metrics, record) for phase in options.phases]
    metrics.close()
    if not any(worked):
        setup.announce(f"{setup.folder}: this run was finished before; --resume never starts it anew")
    world.share(lambda: _publish_last_scores(setup))
    if world.is_main:
        Console().print(*score_tables(setup.folder, options), sep="\n")
    world.barrier()


def _publish_last_scores(setup: RunSetup) -> None:
    """The run's own scores and predictions are those of the last phase that was scored."""
    scored = [phase.name for phase in setup.options.phases if phase.evaluate]
    if not scored:
        return
    folder = setup.phase_folder(scored[-1])
    scores = read_json(folder / "scores.json")
    if read_json(setup.folder / "scores.json") != scores:
        write_json(setup.folder / "scores.json", scores)
    link = setup.folder / "predictions"
    if link.is_symlink():
        link.unlink()
    if not link.exists():
        link.symlink_to(Path("phases") / scored[-1] / "predictions")


def score_tables(folder: Path, options: RunOptions) -> list[Table]:
    """A table per scored task: languages by family, one column per phase, and the gain over a phase's baseline."""
    scores = {
        phase.name: read_json(folder / "phases" / phase.name / "scores.json").get("scores", {})
        for phase in options.phases
        if phase.evaluate
    }
    baselines = {phase.name: phase.baseline for phase in options.phases if phase.baseline}
    tasks = dict.fromkeys(task for found in scores.values() for task in found)
    return [_task_table(task, {p: s[task] for p, s in scores.items() if task in s}, baselines) for task in tasks]


def _task_table(task: str, scores: dict[str, dict[str, dict[str, float]]], baselines: dict[str, str]) -> Table:
    gains = [(phase, base) for phase, base in baselines.items() if phase in scores and base in scores]
    languages = sorted(
        {language for found in scores.values() for language in found}, key=lambda code: (describe(code).family, code)
    )
    table = Table(title=f"{task}: accuracy in percent", title_justify="left")
    table.add_column("language")
    table.add_column("family")
    table.add_column("chance", justify="right")
    for phase in scores:
        table.add_column(phase, justify="right", overflow="fold")
    for phase, base in gains:
        table.add_column(f"gain of {phase} over {base}", justify="right", overflow="fold")
    for language in languages:
        values = {phase: found[language]["accuracy"] for phase, found in scores.items() if language in found}
        chance = next(found[language]["chance"] for found in scores.values() if language in found)
        cells = [f"{values[phase]:.1f}" if phase in values else "" for phase in scores]
        differences = [
            f"{values[phase] - values[base]:+.1f}" if phase in values and base in values else ""
            for phase, base in gains
        ]
        table.add_row(language, describe(language).family, f"{chance:.1f}", *cells, *differences)
    return table
