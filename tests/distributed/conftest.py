"""What the distributed tests share: process groups that are started once."""

import sys

import pytest
from checkpoint_runs import CheckpointRuns
from small_runs import SmallRuns

from launch import WORKERS

sys.path.insert(0, str(WORKERS))  # some tests compare with the workers' own small run


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory: pytest.TempPathFactory) -> SmallRuns:
    return SmallRuns(tmp_path_factory.mktemp("small-runs"))


@pytest.fixture(scope="session")
def checkpoint_runs(tmp_path_factory: pytest.TempPathFactory) -> CheckpointRuns:
    return CheckpointRuns(tmp_path_factory.mktemp("checkpoint-runs"))
