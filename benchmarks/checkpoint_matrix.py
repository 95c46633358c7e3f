"""Saves a training state under each engine at 1 to 4 ranks, loads it under each, and prints what becomes of the losses.

    python benchmarks/checkpoint_matrix.py

The process groups are those of tests/distributed/test_checkpoint_across_worlds.py: every loading engine was built with
other weights and hyper-parameters, and had taken a step. Prints Markdown.
"""

import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests" / "distributed"
sys.path[:0] = [str(TESTS), str(TESTS / "workers")]

from agreement import relative_difference  # noqa: E402
from checkpoint_runs import SIZES, CheckpointRuns  # noqa: E402
from small_runs import ENGINES  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = CheckpointRuns(Path(folder))
        places = [(engine, size) for engine in ENGINES for size in SIZES]
        print("| saved \\ loaded |", " | ".join(f"{engine} {size}" for engine, size in places), "| states |")
        print("|---" * (len(places) + 2) + "|")
        for saver, saving in places:
            saved = runs.saved(saving)[saver][0]
            differences, states = [], []
            for loader, loading in places:
                found = runs.loaded(loading)[f"{loader} loads {saver} {saving}"][0]
                differences.append(relative_difference(found["losses"], saved["losses"]))
                states.append(found["checksums"] == saved["checksums"])
            cells = ["0" if difference == 0 else f"{difference:.0e}" for difference in differences]
            print(f"| {saver} {saving} |", " | ".join(cells), f"| {sum(states)} of {len(states)} equal |", flush=True)


if __name__ == "__main__":
    main()
