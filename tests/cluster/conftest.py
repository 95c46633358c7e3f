"""The cluster of all tests here, or why there is none."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from two_nodes import TwoNodes, two_nodes, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[TwoNodes]:
    """Two nodes under SLURM, up for the whole session."""
    # The number tells apart test sessions on one machine.
    yield from _up(100 + os.getpid() % 150)


@pytest.fixture(scope="module")
def cluster_with_gpus() -> Iterator[TwoNodes]:
    """Two more, whose SLURM has four GPUs on each to give out."""
    yield from _up(50 + os.getpid() % 50, gpus=4)


def _up(number: int, gpus: int = 0) -> Iterator[TwoNodes]:
    reason = why_not()
    if reason and os.environ.get("CI"):
        pytest.fail(f"no cluster in an automatic check: {reason}")
    if reason:
        pytest.skip(reason)
    # A short path, since sockets lie in it.
    folder = Path(tempfile.mkdtemp(prefix="xlt-"))
    try:
        with two_nodes(folder, number, gpus) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)
