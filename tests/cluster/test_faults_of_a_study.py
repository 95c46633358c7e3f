"""A few faults of the campaign in benchmarks/: a study whose jobs take both nodes ends with all of its records."""

import subprocess
import sys
from pathlib import Path

import pytest
from two_nodes import TwoNodes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_on_two_nodes_ends_with_the_records_of_an_undisturbed_one(
    cluster: TwoNodes, cache: Path, tmp_path: Path
) -> None:
    # `cluster` is not used, but says why there is none; the campaign brings up its own.
    place = tmp_path / "campaign"
    place.mkdir()
    (place / "cache").symlink_to(cache)
    command = [sys.executable, str(ROOT / "benchmarks" / "cluster_faults.py")]
    options = ["--small", "--faults", "2", "--minutes", "8", "--keep", str(place)]
    # SLURM takes minutes to notice other kinds of faults.
    options += ["--kinds", "rank killed", "control process killed"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "* 2 faults: control process killed 1, rank killed 1" in done.stdout
    assert "equal to the undisturbed study's to the last bit: yes" in done.stdout
