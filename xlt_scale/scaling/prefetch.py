"""What all jobs of a study will need: a run for each size, with every phase that needs something of its own."""

from xlt_scale.config import PhaseOptions, RunOptions
from xlt_scale.scaling.grid.design import design
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.study_config import SearchOptions, StudyOptions
from xlt_scale.training.prefetch import needs_of


def runs_of_study(study: StudyOptions) -> list[RunOptions]:
    """A run per size. Of its thousands of phases those stay that differ in what has to be fetched.

    The targets are among them also where a search has not chosen their learning rate yet.

    Raises:
        UserError: the study cannot work as it is written.
    """
    grids = [design(study)]
    if study.search.learning_rates:
        grids.append(design(study.model_copy(update={"search": SearchOptions()})))
    phases: dict[str, dict[str, PhaseOptions]] = {size.name: {} for size in study.sizes}
    for grid in grids:
        for planned in grid.phases.values():
            phases[planned.size].setdefault(needs_of(planned.options), planned.options)
    output = str(StudyFolder.of(study).root)
    return [
        grids[0].runs[size].model_copy(update={"phases": list(needed.values()), "output": output})
        for size, needed in phases.items()
    ]
