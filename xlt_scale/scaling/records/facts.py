"""What a study is about, from its options and the task catalogue."""

from collections.abc import Mapping
from typing import Any

from xlt_scale.config import ModelOptions, PhaseOptions
from xlt_scale.errors import UserError
from xlt_scale.evaluation.scorers import SCORERS
from xlt_scale.planning.shapes import size_of_model
from xlt_scale.scaling.grid.design import run_of_size
from xlt_scale.scaling.records.study_tasks import (
    Catalogue,
    adapters_of,
    family_of_model,
    phase_of_tables,
    study_catalogue,
    trained_languages,
)
from xlt_scale.scaling.results import ArmFacts, SizeFacts, StudyFacts, TargetFacts, TaskFacts
from xlt_scale.sizes import SIZES
from xlt_scale.study_config import ArmOptions, SizeOptions, StudyOptions, TargetOptions
from xlt_scale.tasks.catalogue import find_task
from xlt_scale.tasks.spec import TaskSpec


def study_facts(study: StudyOptions, measured: Mapping[str, Mapping[str, Any]] | None = None) -> StudyFacts:
    """The facts of a study.

    Args:
        measured: by size what the records say of its model (`size` of records.py): it holds for checkpoints and
            architectures that are no size of the ladder. Parameters of a size that is not known at all are 0.

    Raises:
        UserError: an unknown task, or a size that has no model.
    """
    catalogue = study_catalogue(study)
    targets = [_target(study, target, catalogue) for target in study.targets]
    scored = dict.fromkeys(task for target in targets for task in target.tasks)
    return StudyFacts(
        name=study.name,
        question=study.question,
        kind=study.kind,
        baseline=study.baseline,
        sizes=tuple(_size(study, size, (measured or {}).get(size.name, {})) for size in study.sizes),
        arms=tuple(_arm(study, arm, catalogue) for arm in study.arms),
        targets=tuple(targets),
        tasks=tuple(_task(find_task(catalogue, name)) for name in scored),
        reference_size=study.reference_size or study.sizes[0].name,
        seeds={
            size.name: list(dict.fromkeys(pair for arm in study.arms for pair in study.pairs(size, arm)))
            for size in study.sizes
        },
        adapters=_adapters(study),
        numbers={size.name: _numbers(study, size) for size in study.sizes},
    )


def _adapters(study: StudyOptions) -> dict[tuple[str, str], str]:
    found = {}
    for size in study.sizes:
        found[size.name, ""] = adapters_of(_target_phases(study, size))
        for arm in study.arms:
            found[size.name, arm.name] = adapters_of(_intermediate_phases(study, size, arm))
    return {place: word for place, word in found.items() if word}


def _numbers(study: StudyOptions, size: SizeOptions) -> str:
    engine = run_of_size(study, size).engine
    phases = [*_target_phases(study, size)]
    for arm in study.arms:
        phases += _intermediate_phases(study, size, arm)
    kinds: list[str] = ["the device's precision" if engine.precision == "auto" else engine.precision]
    kinds += ["float8 products"] if engine.float8 else []
    kinds += sorted({phase.optimizer for phase in phases if phase.trains})
    return " + ".join(kinds)


def _target_phases(study: StudyOptions, size: SizeOptions) -> list[PhaseOptions]:
    return [phase_of_tables(study.target, size.target, target.phase) for target in study.targets]


def _intermediate_phases(study: StudyOptions, size: SizeOptions, arm: ArmOptions) -> list[PhaseOptions]:
    return [phase_of_tables(study.intermediate, size.intermediate, table) for table in arm.phases]


def _size(study: StudyOptions, size: SizeOptions, measured: Mapping[str, Any]) -> SizeFacts:
    model = run_of_size(study, size).model
    shape = size_of_model(model)
    if measured and not _is_published(model):
        return _size_of_record(size.name, model, measured)
    if shape is None:
        return SizeFacts(size.name, "", False, 0, 0)
    is_asked_for = shape.is_decoder and model.bidirectional is not False
    return SizeFacts(
        name=size.name,
        family=shape.family if _is_published(model) else family_of_model(model, shape.model_type),
        is_pre_norm=shape.is_pre_norm,
        num_parameters=shape.num_parameters,
        num_non_embedding_parameters=shape.num_non_embedding_parameters,
        is_bidirectional_decoder=bool(measured.get("is_bidirectional_decoder", is_asked_for)),
    )


def _is_published(model: ModelOptions) -> bool:
    """Whether the model is one whose parameters are known exactly: a size of the ladder as it is."""
    if model.name:
        return model.name in {size.hub_name for size in SIZES.values()}
    return model.size in SIZES and not model.architecture


def _size_of_record(name: str, model: ModelOptions, measured: Mapping[str, Any]) -> SizeFacts:
    return SizeFacts(
        name=name,
        family=family_of_model(model, measured["model_type"]),
        is_pre_norm=measured["is_pre_norm"],
        num_parameters=measured["num_parameters"],
        num_non_embedding_parameters=measured["num_non_embedding_parameters"],
        is_bidirectional_decoder=measured["is_bidirectional_decoder"],
    )


def _arm(study: StudyOptions, arm: ArmOptions, catalogue: Catalogue) -> ArmFacts:
    phases = [phase_of_tables(study.intermediate, table) for table in arm.phases]
    tasks = tuple(dict.fromkeys(task for phase in phases for task in phase.tasks))
    return ArmFacts(
        name=arm.name,
        label=arm.label or arm.name,
        tasks=tasks,
        languages=tuple(dict.fromkeys(code for phase in phases for code in trained_languages(phase, catalogue))),
        group=arm.group or (find_task(catalogue, tasks[0]).type if tasks else ""),
    )


def _target(study: StudyOptions, target: TargetOptions, catalogue: Catalogue) -> TargetFacts:
    phase = phase_of_tables(study.target, target.phase)
    return TargetFacts(
        name=target.name,
        label=target.label or target.name,
        trained="+".join(phase.main_tasks),
        tasks=tuple(target.evaluate),
        group=target.group or find_task(catalogue, target.evaluate[0]).type,
        languages=tuple(trained_languages(phase, catalogue)),
    )


def _task(spec: TaskSpec) -> TaskFacts:
    if spec.metric not in SCORERS:
        raise UserError(f"task {spec.name!r} has no score; remove it from the targets' evaluate")
    scorer = SCORERS[spec.metric]
    return TaskFacts(spec.name, spec.type, scorer.headline, scorer.version, spec.parallel, spec.source_language)
