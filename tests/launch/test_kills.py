"""A few kills at random moments; benchmarks/kill_campaign.py makes hundreds."""

import re
import sys
from pathlib import Path

import pytest
from runs import ROOT, start


@pytest.mark.distributed
def test_killed_runs_lose_nothing_but_the_steps_since_the_last_save(tmp_path: Path) -> None:
    campaign = [sys.executable, str(ROOT / "benchmarks" / "kill_campaign.py"), "--folder", str(tmp_path)]
    ended = start([*campaign, "--kills", "4", "--seed", "4", "--cases", "fsdp2:1:sync", "zero3:2:async"])
    assert ended.code == 0, ended.output
    assert "# 4 kills" in ended.output and "Failures: none." in ended.output
    trained, equal = re.findall(r"^(\d+) runs were .*; (\d+) of them ended in the same bits", ended.output, re.M)[0]
    assert trained == equal
