"""What a phase is scored on, checked before any training."""

from collections.abc import Sequence

from xlt_scale.config import PhaseOptions
from xlt_scale.errors import UserError, nearest
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.tasks.loading import DataSource, available_languages, scored_split
from xlt_scale.tasks.spec import Split, TaskSpec


def plan_scoring(
    specs: Sequence[TaskSpec], phase: PhaseOptions, heads: Sequence[HeadSpec] | None, source: DataSource
) -> dict[str, tuple[Split, list[str]]]:
    """What will be scored, checked before any training: the split and the languages of each task of `phase.evaluate`.

    Args:
        specs: the declarations of those tasks.
        heads: those that the phase trains, or its parent if it only scores; None where the parent is not known yet.

    Raises:
        UserError: a task needs a head that the phase does not train, cannot be scored, or has no data; or a wanted
            language is in none of the tasks.
    """
    plan: dict[str, tuple[Split, list[str]]] = {}
    everywhere: set[str] = set()
    for spec in specs:
        _check_scorable(spec, heads, phase.name)
        split = scored_split(spec, source, phase.evaluate_split)
        there = available_languages(spec, split, source)
        if not there:
            root = source.roots.get(spec.generator)
            place = f"below {root}" if root else "because neither data.root nor XLT_SCALE_DATA is set"
            raise UserError(f"phase {phase.name!r}: no {split} files of task {spec.name!r} found {place}")
        everywhere |= set(there)
        wanted = phase.evaluate_languages
        plan[spec.name] = split, [language for language in there if not wanted or language in wanted]
    for language in phase.evaluate_languages:
        if language not in everywhere:
            raise UserError(
                f"phase {phase.name!r}: evaluate_languages has {language!r}, but no evaluated task has data in it; "
                f"{nearest(language, everywhere)}"
            )
    for task, (_, languages) in plan.items():
        if not languages:
            raise UserError(
                f"phase {phase.name!r}: task {task!r} has data in none of evaluate_languages; remove one of them"
            )
    return plan


def _check_scorable(spec: TaskSpec, heads: Sequence[HeadSpec] | None, phase: str) -> None:
    if spec.metric == "loss":
        raise UserError(f"phase {phase!r}: task {spec.name!r} ({spec.kind}) has no score; remove it from evaluate")
    if not spec.is_trainable or heads is None:
        return
    head = next((head for head in heads if head.name == spec.head), None)
    if head is None:
        trained = ", ".join(sorted(head.name for head in heads)) or "none"
        raise UserError(
            f"phase {phase!r} cannot be scored on {spec.name!r}: it needs a head {spec.head!r}, "
            f"the phase trains: {trained}"
        )
    if (head.kind, head.num_labels) != (spec.kind, spec.num_classes):
        raise UserError(
            f"phase {phase!r} cannot be scored on {spec.name!r}: it needs a {spec.kind} head of {spec.num_classes} "
            f"classes, {head.name!r} is one of {head.kind} with {head.num_labels}"
        )
