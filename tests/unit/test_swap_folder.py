"""Optimiser states on NVMe lie where the user or the job says, in folders that leave nothing behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from xlt_scale.engines.swap_folder import SwapFolder, scratch_disk
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError

FILE = Path("own.json")
ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"XLT_SCALE_NVME": "/nvme", "SLURM_TMPDIR": "/job", "TMPDIR": "/tmp"}, "/nvme"),
        ({"SLURM_TMPDIR": "/job", "TMPDIR": "/tmp"}, "/job"),
        ({"TMPDIR": "/scratch"}, "/scratch"),
    ],
)
def test_auto_is_what_the_user_names_or_the_jobs_own_disk(environment: dict[str, str], folder: str) -> None:
    assert scratch_disk("auto", FILE, environment) == Path(folder)


@pytest.mark.parametrize("asked", ["$SCRATCH/swap", "${SCRATCH}/swap"])
def test_variables_in_the_path_are_those_of_the_job(asked: str) -> None:
    assert scratch_disk(asked, FILE, {"SCRATCH": "/fast"}) == Path("/fast/swap")


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [("auto", "none of XLT_SCALE_NVME, SLURM_TMPDIR, TMPDIR is set"), ("$SCRATCH/swap", "SCRATCH is not set")],
)
def test_a_disk_that_nobody_names_is_refused_in_one_line(asked: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as error:
        scratch_disk(asked, FILE, {})
    assert str(error.value).startswith("own.json: nvme_path")
    assert "\n" not in str(error.value)


def test_a_folder_of_its_own_is_made_and_removed(tmp_path: Path) -> None:
    disk = tmp_path / "not" / "there"
    first, second = (SwapFolder(str(disk), FILE, 10, ALONE) for _ in range(2))
    assert first.path.parent == disk and first.path != second.path
    (first.path / "states").write_text("")
    first.remove()
    assert [folder.name for folder in disk.iterdir()] == [second.path.name]
    second.remove()


def test_states_that_do_not_fit_are_refused_with_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"GB free, and the optimiser states of its processes take 16000000\.0 GB"):
        SwapFolder(str(tmp_path), FILE, 10**15, ALONE)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"own\.json: nvme_path .*file: File exists; name a folder that can be written"):
        SwapFolder(str(tmp_path / "file"), FILE, 10, ALONE)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    program = f"""
import time, torch
from pathlib import Path
from xlt_scale.engines.swap_folder import SwapFolder
from xlt_scale.engines.world import World
folder = SwapFolder({str(tmp_path)!r}, Path("own.json"), 10, World(0, 1, 0, torch.device("cpu")))
Path({str(tmp_path)!r}, "ready").write_text(str(folder.path))
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": os.getcwd()})
    try:
        while not (tmp_path / "ready").is_file():
            assert process.poll() is None
            time.sleep(0.05)
        left = next(tmp_path.glob("xlt-scale-swap-*"))
        SwapFolder(str(tmp_path), FILE, 10, ALONE).remove()
        assert left.is_dir()
    finally:
        process.kill()
        process.wait()
    SwapFolder(str(tmp_path), FILE, 10, ALONE).remove()
    assert not left.exists()
