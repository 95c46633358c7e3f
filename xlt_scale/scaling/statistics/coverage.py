"""Coverage of the 95 % intervals on simulated studies of known truth, for the report to print beside its own design.

Made by `benchmarks/study_statistics.py --studies 1000 --seed 1` (defaults otherwise) on 2026-11-21: four sizes of
XLM-R, one arm, a parallel task of 600 items in five languages, once without a gain and once with one that falls with
size. Shares of 1,000 studies of each; a share of 0.95 is known to about 0.007. Intervals of a cell and of a mean over
languages are of the gain at one size; slopes are over the last three sizes and over all four. With one intermediate
seed the intervals do not know how intermediate seeds differ, and cover too rarely.
"""

Design = tuple[int, int]
"""Intermediate seeds, target seeds within each."""

COVERAGE: dict[Design, dict[str, float]] = {
    (1, 3): {"cell": 0.913, "mean": 0.887, "slope3": 0.899, "slope4": 0.882},
    (2, 2): {"cell": 0.924, "mean": 0.925, "slope3": 0.967, "slope4": 0.978},
    (3, 2): {"cell": 0.952, "mean": 0.948, "slope3": 0.962, "slope4": 0.955},
    (3, 3): {"cell": 0.943, "mean": 0.952, "slope3": 0.960, "slope4": 0.968},
    (5, 2): {"cell": 0.954, "mean": 0.952, "slope3": 0.948, "slope4": 0.936},
    (10, 2): {"cell": 0.945, "mean": 0.945, "slope3": 0.952, "slope4": 0.952},
}
"""By design the share of intervals that hold the truth."""


def nearest_design(num_intermediate: int, num_target: int) -> Design | None:
    """The largest simulated design with no more seeds of either kind; None where there is none."""
    smaller = [design for design in COVERAGE if design[0] <= num_intermediate and design[1] <= num_target]
    return max(smaller, default=None)


def coverage_line(num_intermediate: int, num_target: int) -> str:
    """A sentence about a study's own design."""
    design = nearest_design(num_intermediate, num_target)
    if design is None:
        return f"Intervals with {num_intermediate} x {num_target} seeds have not been tried on simulated studies."
    shares = {name: f"{100 * share:.1f}" for name, share in COVERAGE[design].items()}
    own = "" if design == (num_intermediate, num_target) else " (the nearest design that was tried)"
    return (
        f"In simulated studies with {design[0]} x {design[1]} seeds{own} 95 % intervals held the truth in "
        f"{shares['cell']} % of cells, {shares['mean']} % of means over languages, and {shares['slope3']} % and "
        f"{shares['slope4']} % of slopes over three and four sizes."
    )
