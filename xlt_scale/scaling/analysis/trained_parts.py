"""Whether runs that are compared train the same parts of the model: all weights, or adapters of one kind."""

from collections.abc import Mapping, Sequence

from xlt_scale.scaling.analysis.wording import by_kind, listed
from xlt_scale.scaling.results import StudyFacts

_ALL_WEIGHTS = "all weights"


def adapter_caveats(facts: StudyFacts, sizes: Sequence[str]) -> list[str]:
    """What mixes adapters (or their kinds) with the training of all weights: between sizes, between the arms of a size,
    and between an arm's intermediate phases and the target phases, which are all that the baseline trains.
    """
    adapters = facts.adapters
    found = []
    of_targets = {size: adapters.get((size, ""), "") for size in sizes}
    if len(set(of_targets.values())) > 1:
        found.append(
            f"Size is mixed up with what is trained in the target phases: {_by_kind(of_targets)}. Adapters are another "
            "experimental condition; compare sizes of one kind."
        )
    arms = [arm.name for arm in facts.arms if arm.tasks]
    for arm in arms:
        of_sizes = {size: adapters.get((size, arm), "") for size in sizes}
        if len(set(of_sizes.values())) > 1:
            found.append(f"Size is mixed up with what the intermediate phases of {arm} train: {_by_kind(of_sizes)}.")
    for size in sizes:
        of_arms = {arm: adapters.get((size, arm), "") for arm in arms}
        if len(set(of_arms.values())) > 1:
            found.append(
                f"At {size} the intermediate phases of the arms train different parts: {_by_kind(of_arms)}; "
                "differences between these arms are of that too."
            )
        unlike = [arm for arm, kind in of_arms.items() if kind != of_targets[size]]
        if unlike:
            kinds = list(dict.fromkeys(of_arms[arm] or _ALL_WEIGHTS for arm in unlike))
            found.append(
                f"At {size} {listed(unlike)} {'train' if len(unlike) > 1 else 'trains'} {listed(kinds)} in the "
                f"intermediate phases, while every target phase, the baseline's too, trains "
                f"{of_targets[size] or _ALL_WEIGHTS}."
            )
    return found


def _by_kind(kinds: Mapping[str, str]) -> str:
    return by_kind({place: kind or _ALL_WEIGHTS for place, kind in kinds.items()})
