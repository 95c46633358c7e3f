"""What the distributed tests share: one set of process groups."""

import sys

import pytest
from small_runs import SmallRuns

from launch import WORKERS

sys.path.insert(0, str(WORKERS))  # some tests compare with the workers' own small run


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory: pytest.TempPathFactory) -> SmallRuns:
    return SmallRuns(tmp_path_factory.mktemp("small-runs"))
