"""Whether sizes that are compared are trained in numbers of the same kinds."""

from collections.abc import Sequence

from xlt_scale.scaling.analysis.wording import by_kind
from xlt_scale.scaling.results import StudyFacts


def number_caveats(facts: StudyFacts, sizes: Sequence[str]) -> list[str]:
    """What mixes size with precision, float8 products or 8-bit states."""
    kinds = {size: facts.numbers.get(size, "") for size in sizes}
    if len(set(kinds.values())) < 2:
        return []
    return [
        f"Size is mixed up with the numbers that are trained in: {by_kind(kinds)}. They are other experimental "
        "conditions; compare sizes of one kind."
    ]
