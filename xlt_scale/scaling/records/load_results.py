"""From a study's records to what its analysis reads (`StudyResults`)."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from xlt_scale.scaling.grid.design import PlannedPhase, StudyGrid
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.records.facts import study_facts
from xlt_scale.scaling.records.item_source import IndexedItems
from xlt_scale.scaling.records.job_events import JobHistory
from xlt_scale.scaling.records.plan_places import waiting_runs
from xlt_scale.scaling.records.record_index import RecordIndex
from xlt_scale.scaling.results import RUN_COLUMNS, StudyResults

logger = logging.getLogger(__name__)

Notify = Callable[[str], None]
CURVE_COLUMNS = ["record", "size", "arm", "target", "phase", "step", "share", "loss", "dev"]
MISSING_COLUMNS = ["size", "arm", "target", "intermediate_seed", "target_seed", "why"]
_OF_SIZE = (
    "size",
    "model_type",
    "is_pre_norm",
    "is_bidirectional_decoder",
    "num_parameters",
    "num_non_embedding_parameters",
)
_OF_RUN = ("rule", "first_loss", "last_loss", "gpu_hours", "tokens", "steps")
_SOFTWARE = ("git_revision", "engine", "precision", "device")


def load_results(folder: StudyFolder, grid: StudyGrid, notify: Notify = logger.warning) -> StudyResults:
    """Everything that the study has measured: of its records those that the grid plans, in the places that it gives.

    Args:
        notify: called with what was left out and why, once each.
    """
    index = RecordIndex(folder, notify)
    phases = _planned(index.table("phases", ["record", *_OF_SIZE, *_OF_RUN, "hash", "versions", *_SOFTWARE]), grid)
    rows = {name: row for row, name in enumerate(phases["record"].to_pylist())}
    runs = _runs(index, phases, rows, grid, notify)
    return StudyResults(
        facts=study_facts(grid.study, measured_sizes(phases)),
        runs=runs,
        items=IndexedItems(index),
        curves=_curves(index, phases, rows, grid),
        missing=_missing(folder, grid, index.recorded, set(runs["record"])),
        record_paths={name: f"records/{name}.json" for name in rows},
        software=_software(phases),
    )


def measured_sizes(phases: pa.Table) -> dict[str, dict[str, Any]]:
    """By size what the records say of its model, from the index's table of phases."""
    columns = {name: _plain(phases[name]) for name in _OF_SIZE}
    distinct = pa.table(columns).group_by(list(_OF_SIZE)).aggregate([])
    return {row["size"]: {name: row[name] for name in _OF_SIZE[1:]} for row in distinct.to_pylist()}


def _planned(table: pa.Table, grid: StudyGrid) -> pa.Table:
    return table.filter(pa.array([name in grid.phases for name in table["record"].to_pylist()], pa.bool_()))


def _runs(
    index: RecordIndex, phases: pa.Table, rows: Mapping[str, int], grid: StudyGrid, notify: Notify
) -> pd.DataFrame:
    """A row per target phase, scored task and language (`RUN_COLUMNS`)."""
    columns = ["record", "task", "language", "score", "chance", "scorer", "is_trained_language", "same_data"]
    wanted = pa.array([name for name in rows if grid.phases[name].role == "target"], pa.string())
    scores = index.table("scores", columns)
    scores = scores.filter(pc.is_in(scores["record"].cast(pa.string()), wanted))
    scores = _in_order(_of_one_scorer(_asked(_scored(scores, notify), grid), notify), grid)
    names = scores["record"].cast(pa.string()).to_numpy(zero_copy_only=False)
    found, places = np.unique(names.astype(object), return_inverse=True)
    of_runs = [grid.phases[name] for name in found]
    of_phases = pa.array([rows[name] for name in found], pa.int64())
    facts = phases.take(of_phases).select(["rule", "first_loss", "last_loss", "gpu_hours", "tokens"]).to_pandas()
    hours = dict(zip(rows, phases["gpu_hours"].to_numpy(), strict=True))
    frame = facts.assign(
        record=found,
        size=[phase.size for phase in of_runs],
        arm=[phase.arm for phase in of_runs],
        target=[phase.target for phase in of_runs],
        intermediate_seed=np.array([phase.pair[0] for phase in of_runs], np.int64),
        target_seed=np.array([phase.pair[1] for phase in of_runs], np.int64),
        arm_gpu_hours=[_arm_hours(grid, phase, hours) for phase in of_runs],
    )
    frame = frame.iloc[places].reset_index(drop=True)
    for name in ("task", "language", "score", "chance", "is_trained_language", "same_data"):
        frame[name] = _plain(scores[name]).to_pandas()
    frame["rule"] = frame["rule"].astype(str)
    return frame[list(RUN_COLUMNS)]


def _scored(scores: pa.Table, notify: Notify) -> pa.Table:
    """Without rows that have no score, for want of gold labels."""
    without = scores.filter(pc.is_null(scores["score"]))
    languages: dict[str, list[str]] = {}
    for row in without.select(["task", "language"]).group_by(["task", "language"]).aggregate([]).to_pylist():
        languages.setdefault(row["task"], []).append(row["language"])
    for task, codes in sorted(languages.items()):
        notify(f"{task}: no gold labels in {', '.join(sorted(codes))}; left out")
    return scores.filter(pc.is_valid(scores["score"]))


def _asked(scores: pa.Table, grid: StudyGrid) -> pa.Table:
    """Without tasks and languages that the plan no longer asks for."""
    wanted = {
        name: (set(phase.options.evaluate), set(phase.options.evaluate_languages))
        for name, phase in grid.phases.items()
        if phase.role == "target"
    }
    columns = (_plain(scores[name]).to_pylist() for name in ("record", "task", "language"))
    kept = []
    for record, task, language in zip(*columns, strict=True):
        tasks, languages = wanted[record]
        kept.append(task in tasks and (not languages or language in languages))
    return scores.filter(pa.array(kept, pa.bool_()))


def _of_one_scorer(scores: pa.Table, notify: Notify) -> pa.Table:
    """Without rows of an earlier version of a task's scorer where there are some of a later: a difference between them
    would be one of scorers.
    """
    versions: dict[str, Counter[str]] = {}
    counted = scores.select(["task", "scorer"]).group_by(["task", "scorer"]).aggregate([([], "count_all")])
    for row in counted.to_pylist():
        versions.setdefault(row["task"], Counter())[row["scorer"]] = row["count_all"]
    for task, found in versions.items():
        if len(found) == 1:
            continue
        kept = _current_scorer(task, found)
        others = sum(count for version, count in found.items() if version != kept)
        notify(f"{task}: {others} scores are by another scorer than {kept}; left out, run the study to score them anew")
        is_other = pc.and_(
            pc.equal(scores["task"].cast(pa.string()), task), pc.not_equal(scores["scorer"].cast(pa.string()), kept)
        )
        scores = scores.filter(pc.invert(is_other))
    return scores


def _current_scorer(task: str, versions: Counter[str]) -> str:
    """The program's own version where there are scores of it, else the one that most are of."""
    from xlt_scale.evaluation.scorers import SCORERS

    own = [version for version in versions if version in {scorer.version for scorer in SCORERS.values()}]
    return own[0] if own else versions.most_common(1)[0][0]


def _in_order(scores: pa.Table, grid: StudyGrid) -> pa.Table:
    """Records as the grid has them, however the index came about."""
    order = {name: number for number, name in enumerate(grid.phases)}
    places = np.array([order[name] for name in _plain(scores["record"]).to_pylist()], np.int64)
    return scores.take(pa.array(np.argsort(places, kind="stable")))


def _arm_hours(grid: StudyGrid, phase: PlannedPhase, hours: Mapping[str, float]) -> float:
    """Of the intermediate phases above; nan while one of them has no record."""
    above = [one.name for one in grid.ancestors(phase.name) if one.role == "intermediate"]
    return float(sum(hours.get(name, float("nan")) for name in above))


def _curves(index: RecordIndex, phases: pa.Table, rows: Mapping[str, int], grid: StudyGrid) -> pd.DataFrame:
    """Learning curves of the intermediate and target phases."""
    table = index.table("curves")
    codes, names = pd.factorize(_plain(table["record"]).to_numpy(zero_copy_only=False))
    shown = np.array([name in rows and grid.phases[name].role in ("intermediate", "target") for name in names], bool)
    kept = shown[codes] if len(codes) else np.zeros(0, bool)
    places = [grid.phases[name] if is_shown else None for name, is_shown in zip(names, shown, strict=True)]
    steps = dict(zip(rows, phases["steps"].to_numpy().astype(float), strict=True))
    of_names = {
        "record": list(names),
        "size": [phase.size if phase else "" for phase in places],
        "arm": [phase.arm if phase else "" for phase in places],
        "target": [phase.target if phase else "" for phase in places],
        "phase": ["+".join(phase.options.tasks) if phase else "" for phase in places],
        "steps": [steps.get(name, np.nan) for name in names],
    }
    frame = pd.DataFrame(of_names).iloc[codes[kept]].reset_index(drop=True)
    for name in ("step", "loss", "dev"):
        frame[name] = table[name].to_numpy()[kept]
    frame["share"] = frame["step"] / frame["steps"].clip(lower=1)
    return frame[CURVE_COLUMNS]


def _missing(folder: StudyFolder, grid: StudyGrid, there: set[str], used: set[str]) -> pd.DataFrame:
    """Planned runs without scores.

    Args:
        there: phases with a record.
        used: those with a score.
    """
    failed = JobHistory.read(folder).reasons(there)
    rows: list[tuple[Any, ...]] = []
    for name, phase in grid.phases.items():
        if phase.role != "target" or name in used:
            continue
        chain = [name, *(above.name for above in grid.ancestors(name))]
        why = next((f"failed: {failed[one]}" for one in chain if one in failed), "not run yet")
        if name in there:
            why = "its record cannot be read, or has no scores"
        rows.append((phase.size, phase.arm, phase.target, *phase.pair, why))
    rows += [
        (size, arm, target, *pair, "the search has not chosen its learning rate yet")
        for size, arm, target, pair in waiting_runs(grid)
    ]
    return pd.DataFrame(rows, columns=MISSING_COLUMNS)


def _software(phases: pa.Table) -> pd.DataFrame:
    """Versions and revisions, and how many records each has."""
    counts: Counter[tuple[str, str]] = Counter()
    for name in _SOFTWARE:
        counts.update((name, str(value)) for value in _plain(phases[name]).to_pylist() if value)
    for text, number in Counter(_plain(phases["versions"]).to_pylist()).items():
        for name, value in json.loads(text).items():
            counts[name, value] += number
    rows = [(name, value, number) for (name, value), number in sorted(counts.items())]
    return pd.DataFrame(rows, columns=["name", "value", "records"])


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Names in place of numbers into a dictionary."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
