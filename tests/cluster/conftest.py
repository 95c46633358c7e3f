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
    reason = why_not()
    if reason and os.environ.get("CI"):
        pytest.fail(f"no cluster in an automatic check: {reason}")
    if reason:
        pytest.skip(reason)
    # A short path, since sockets lie in it; the number tells apart test sessions on one machine.
    folder = Path(tempfile.mkdtemp(prefix="xlt-"))
    try:
        with two_nodes(folder, 100 + os.getpid() % 150) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)
