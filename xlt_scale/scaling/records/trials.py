"""The learning-rate search, from the records of its trials."""

from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from xlt_scale.scaling.grid.design import PlannedPhase, StudyGrid, design
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.search import Choice, SearchCell, Trial, choose
from xlt_scale.scaling.records.record_index import RecordIndex
from xlt_scale.scaling.records.study_tasks import study_catalogue
from xlt_scale.study_config import StudyOptions


def search_trials(folder: StudyFolder, grid: StudyGrid, index: RecordIndex | None = None) -> list[Trial]:
    """The trials that are recorded: the headline score of the trained task on the dev set of its source language."""
    planned = {name: phase for name, phase in grid.phases.items() if phase.role == "search"}
    if not planned:
        return []
    scores = (index or RecordIndex(folder)).table("scores", ["record", "task", "language", "score"])
    scores = scores.filter(pc.is_in(scores["record"].cast(pa.string()), pa.array(list(planned), pa.string())))
    source = {name: spec.source_language for name, spec in study_catalogue(grid.study).items()}
    found = []
    for row in scores.to_pylist():
        phase = planned[row["record"]]
        is_meant = row["task"] == phase.options.evaluate[0] and row["language"] == source[row["task"]]
        if is_meant and row["score"] is not None:
            found.append(Trial(_cell(grid, phase), phase.learning_rate, phase.pair[1], row["score"]))
    return found


def choices(
    folder: StudyFolder, plan: StudyOptions | StudyGrid, index: RecordIndex | None = None
) -> dict[SearchCell, Choice]:
    """The learning rate of each cell whose trials are all recorded: what `design` names the target phases with."""
    grid = plan if isinstance(plan, StudyGrid) else design(plan)
    return choose(search_trials(folder, grid, index), expected_trials(grid))


def expected_trials(grid: StudyGrid) -> Mapping[SearchCell, int]:
    """How many trials each cell will have."""
    return Counter(_cell(grid, phase) for phase in grid.phases.values() if phase.role == "search")


def _cell(grid: StudyGrid, phase: PlannedPhase) -> SearchCell:
    arm = "" if grid.study.search.per == "size" else phase.arm
    return SearchCell(phase.size, arm, phase.target)
