"""Tasks that are the union of others."""

from collections.abc import Mapping
from dataclasses import replace

from xlt_scale.errors import UserError, nearest
from xlt_scale.tasks.examples import Examples, RankingExamples, TaggedExamples, TextExamples
from xlt_scale.tasks.spec import TaskSpec


def with_parts(spec: TaskSpec, catalogue: Mapping[str, TaskSpec]) -> TaskSpec:
    """The task with the declarations of its parts; without labels of its own it has those of the first part.

    Raises:
        UserError: a part is unknown, has parts itself, is of another kind, or has a label that the union lacks.
    """
    parts = []
    for name in spec.parts:
        if name not in catalogue:
            raise UserError(f"task {spec.name!r}: its part {name!r} is unknown; {nearest(name, catalogue)}")
        part = catalogue[name]
        if part.parts:
            raise UserError(f"task {spec.name!r}: its part {name!r} has parts itself; name those instead")
        if part.kind != spec.kind:
            raise UserError(f"task {spec.name!r} is of kind {spec.kind!r} but its part {name!r} is {part.kind!r}")
        parts.append(part)
    labels = spec.labels or parts[0].labels
    known = {*labels, *spec.label_aliases}
    for part in parts if spec.kind in ("classification", "tagging") else []:
        unknown = [label for label in part.labels if label not in known]
        if unknown:
            raise UserError(
                f"task {spec.name!r}: label {unknown[0]!r} of its part {part.name!r} is not one of "
                f"{', '.join(labels)}; declare it in [tasks.{spec.name}] labels or label_aliases"
            )
    return spec.model_copy(update={"part_tasks": parts, "labels": labels})


def as_part(spec: TaskSpec, part: TaskSpec, examples: Examples) -> Examples:
    """A part's examples as the union's: class numbers by the label's word, candidates named with the part."""
    if isinstance(examples, RankingExamples):
        return replace(
            examples,
            query_ids=[f"{part.name}/{name}" for name in examples.query_ids],
            gold=[[f"{part.name}/{name}" for name in names] for names in examples.gold],
            candidate_ids=[f"{part.name}/{name}" for name in examples.candidate_ids],
        )
    if spec.kind not in ("classification", "tagging") or part.labels == spec.labels:
        return examples
    numbers = {label: number for number, label in enumerate(spec.labels)}
    numbers |= {alias: numbers[label] for alias, label in spec.label_aliases.items()}
    mapped = [numbers[label] for label in part.labels]
    if isinstance(examples, TaggedExamples) and examples.tags is not None:
        return replace(examples, tags=[[mapped[tag] for tag in tags] for tags in examples.tags])
    if isinstance(examples, TextExamples) and examples.labels is not None:
        return replace(examples, labels=[mapped[int(label)] for label in examples.labels])
    return examples
