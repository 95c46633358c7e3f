"""Fixtures of the tests that start runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from interruption import IN_PROCESS, RUN

from xlt_scale.config import load_run
from xlt_scale.engines.world import World, join_world
from xlt_scale.training.run import run


@pytest.fixture(scope="module")
def world() -> World:
    """This process alone."""
    return join_world("cpu")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The short run of two phases."""
    path = tmp_path_factory.mktemp("short") / "run.toml"
    path.write_text(RUN)
    return path


@pytest.fixture(scope="module")
def go(world: World, run_file: Path, cache: Path) -> Callable[..., None]:
    """Carry out the short run in this process: one rank, FSDP2 where nothing else is set."""

    def go(folder: Path, *settings: str) -> None:
        run(load_run(run_file, [f"output={folder}", f"data.cache={cache}", *IN_PROCESS, *settings]))

    return go
