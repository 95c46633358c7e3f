"""A few kills of a study at random moments; benchmarks/study_kills.py makes more."""

import re
import sys
from pathlib import Path

import pytest
from runs import ROOT, start


@pytest.mark.distributed
def test_a_killed_study_ends_with_the_records_of_one_that_nobody_disturbed(tmp_path: Path) -> None:
    campaign = [sys.executable, str(ROOT / "benchmarks" / "study_kills.py"), "--folder", str(tmp_path), "--small"]
    ended = start([*campaign, "--kills", "3", "--seed", "5"], limit=280)
    assert ended.code == 0, ended.output
    assert "# 3 kills" in ended.output and "Failures: none." in ended.output
    assert re.search(
        r"(\d+) of \1 studies ended with the same records .* 0 finished phases were trained again", ended.output
    )
