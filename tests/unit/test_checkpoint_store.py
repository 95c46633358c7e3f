"""The disk under checkpoints: saves that fail or are interrupted, which checkpoints stay, and what memory it takes."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_disk import small_disk
from small_states import ALONE, FACTS, FILE, flip_bit, on_ranks, random_tensors, same, save_tensors

from xlt_scale.checkpoint.checksum import PIECE
from xlt_scale.checkpoint.manifest import COMPLETE, MANIFEST, read_manifest
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.store import (
    Retention,
    check_files,
    find_problem,
    list_checkpoints,
    step_folder,
    step_of,
)
from xlt_scale.checkpoint.writer import list_remains, remove_checkpoint, remove_remains, write_checkpoint
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError

OLD, NEW = random_tensors(1), random_tensors(2)


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    reader = CheckpointReader(folder)
    found = {
        key: reader.read(key, 0, tensor.numel).view(tensor.shape) for key, tensor in reader.manifest.tensors.items()
    }
    reader.close()
    return found


def failure(folder: Path, tensors: dict[str, torch.Tensor] = NEW) -> str:
    """The message of a save that fails."""
    with pytest.raises(UserError) as error:
        save_tensors(folder, tensors)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{folder} cannot be saved: ")
    return str(error.value)


@pytest.fixture(name="small_disk")
def mounted_small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own."""
    with small_disk(tmp_path / "disk", 2048) as folder:
        yield folder


def test_saving_again_replaces_what_was_there(tmp_path: Path) -> None:
    save_tensors(tmp_path / "step-1", OLD, size=3)
    save_tensors(tmp_path / "step-1", NEW)
    assert same(read_all(tmp_path / "step-1"), NEW)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert {path.name for path in (tmp_path / "step-1").iterdir()} == {FILE, MANIFEST, COMPLETE}


def test_ranks_that_hold_nothing_write_no_file(tmp_path: Path) -> None:
    tensors = {"param/bias": torch.ones(2)}
    save_tensors(tmp_path / "step-1", tensors, size=3)
    assert list(read_manifest(tmp_path / "step-1").files) == [FILE, "rank-00001.safetensors"]
    assert same(read_all(tmp_path / "step-1"), tensors)


def test_a_tensor_that_does_not_fit_on_the_disk_leaves_the_older_checkpoint_whole(small_disk: Path) -> None:
    save_tensors(small_disk / "step-1", OLD)
    message = failure(small_disk / "step-1", {"param/large": torch.ones(1_000_000)})
    assert message.endswith("No space left on device; free space or choose another output folder")
    assert same(read_all(small_disk / "step-1"), OLD)
    assert [path.name for path in small_disk.iterdir()] == ["step-1"]


@pytest.mark.parametrize("num_pages", [0, 1, 2], ids=["tensors", "manifest", "marker"])
@pytest.mark.parametrize("is_new", [False, True], ids=["over_an_older_one", "new_one"])
def test_a_disk_that_is_full_at_any_of_the_files_leaves_no_half_of_a_checkpoint(
    num_pages: int, is_new: bool, small_disk: Path
) -> None:
    """The first file takes a page, so does the manifest, so does the marker."""
    tensors = {"param/bias": torch.ones(5)}
    save_tensors(small_disk / "step-1", tensors)
    disk = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes((disk.f_bavail - num_pages) * disk.f_bsize))
    folder = small_disk / ("step-2" if is_new else "step-1")
    assert "No space left on device" in failure(folder, {"param/bias": torch.zeros(5)})
    assert same(read_all(small_disk / "step-1"), tensors)
    assert {path.name for path in small_disk.iterdir()} == {"step-1", "filler"}


def test_a_disk_that_is_full_under_one_rank_is_the_same_error_on_all(small_disk: Path) -> None:
    def save(world: World) -> None:
        size = 10 if world.is_main else 1_000_000
        ranges = {"param/large": (0, 10) if world.is_main else (10, 1_000_010)}
        write_checkpoint(
            world, small_disk / "step-1", {"param/large": (1_000_010,)}, ranges, [("param/large", torch.ones(size))], {}
        )

    answers = on_ranks(2, save)
    assert all(isinstance(answer, UserError) for answer in answers)
    assert len({str(answer) for answer in answers}) == 1
    assert "No space left on device" in str(answers[0])
    assert not list(small_disk.iterdir())


def test_a_read_only_disk_is_named_in_one_line(small_disk: Path) -> None:
    save_tensors(small_disk / "step-1", OLD)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only file system; free space or choose another output folder" in failure(small_disk / "step-1")
    assert "Read-only file system" in failure(small_disk / "step-2")
    assert same(read_all(small_disk / "step-1"), OLD)


def test_a_file_where_the_folder_should_be_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "step-1").write_text("mine")
    assert "a file of that name is there" in failure(tmp_path / "step-1")
    assert (tmp_path / "step-1").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_a_file_in_place_of_a_parent_folder_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Not a directory" in failure(tmp_path / "file" / "step-1")


def test_a_state_that_cannot_be_read_is_no_checkpoint(tmp_path: Path) -> None:
    def values() -> Iterator[tuple[str, torch.Tensor]]:
        yield "param/bias", torch.ones(3)
        raise RuntimeError("out of memory")

    with pytest.raises(UserError, match="cannot be saved: RuntimeError: out of memory"):
        write_checkpoint(ALONE, tmp_path / "step-1", {"param/bias": (5,)}, {"param/bias": (0, 5)}, values(), FACTS)
    assert not list(tmp_path.iterdir())


def test_ranks_that_leave_elements_out_make_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="param/bias ends at 3 of 5"):
        write_checkpoint(
            ALONE,
            tmp_path / "step-1",
            {"param/bias": (5,)},
            {"param/bias": (0, 3)},
            [("param/bias", torch.ones(3))],
            FACTS,
        )
    assert not list(tmp_path.iterdir())


KILLED_WHILE_SAVING = """
import os, sys, torch
from pathlib import Path
from xlt_scale.checkpoint.writer import write_checkpoint
from xlt_scale.engines.world import World

def values():
    yield "param/bias", torch.ones(3)
    os._exit(9)

world = World(0, 1, 0, torch.device("cpu"))
write_checkpoint(world, Path(sys.argv[1]), {"param/bias": (5,)}, {"param/bias": (0, 5)}, values(), {})
"""


def test_a_save_that_is_killed_leaves_remains_that_are_no_checkpoint_and_are_removed(tmp_path: Path) -> None:
    save_tensors(tmp_path / "step-1", OLD)
    script = [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path / "step-1")]
    assert subprocess.run(script, check=False).returncode == 9
    assert len(list_remains(tmp_path)) == 1
    assert list_checkpoints(tmp_path) == [tmp_path / "step-1"]
    assert same(read_all(tmp_path / "step-1"), OLD)
    remove_remains(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_remains_of_a_removal_are_removed(tmp_path: Path) -> None:
    save_tensors(tmp_path / "step-1", OLD)
    (tmp_path / "step-1").rename(tmp_path / ".step-1.01234567.removed")
    (tmp_path / "notes.removed").mkdir()
    remove_remains(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.removed"]


def test_where_there_is_no_folder_there_are_no_remains(tmp_path: Path) -> None:
    remove_remains(tmp_path / "absent")
    assert list_checkpoints(tmp_path / "absent") == []


def test_a_removed_checkpoint_is_gone(tmp_path: Path) -> None:
    save_tensors(tmp_path / "step-1", OLD)
    remove_checkpoint(tmp_path / "step-1")
    assert not list(tmp_path.iterdir())
    remove_checkpoint(tmp_path / "step-1")


def test_checkpoints_are_listed_by_step(tmp_path: Path) -> None:
    for name in (
        "step-00000100",
        "step-00000020",
        "step-100000000",
        "step-last",
        "other",
        ".step-00000005.x.unfinished",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000007").write_text("a file")
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [20, 100, 100_000_000]
    assert step_folder(tmp_path, 20) in list_checkpoints(tmp_path)


def test_a_whole_checkpoint_has_no_problem(tmp_path: Path) -> None:
    save_tensors(tmp_path / "step-1", OLD, size=2)
    assert find_problem(tmp_path / "step-1") == find_problem(tmp_path / "step-1", read_all=True) == ""


def test_a_files_size_is_enough_to_find_it_truncated_or_missing(tmp_path: Path) -> None:
    save_tensors(tmp_path / "step-1", OLD)
    size = (tmp_path / "step-1" / FILE).stat().st_size
    os.truncate(tmp_path / "step-1" / FILE, 100)
    assert find_problem(tmp_path / "step-1").endswith(f"{FILE} has 100 bytes of {size:,}; use another checkpoint")
    (tmp_path / "step-1" / FILE).unlink()
    assert find_problem(tmp_path / "step-1").endswith(
        f"{FILE} cannot be read (No such file or directory); use another checkpoint"
    )


@pytest.mark.parametrize("position", [3, 20, -1], ids=["length_of_the_header", "header", "last_byte"])
def test_a_flipped_bit_anywhere_in_a_file_is_found_by_reading_it(position: int, tmp_path: Path) -> None:
    save_tensors(tmp_path / "step-1", OLD)
    path = tmp_path / "step-1" / FILE
    flip_bit(path, position % path.stat().st_size)
    assert find_problem(tmp_path / "step-1") == ""
    assert "is not as it was written (its checksum differs)" in find_problem(tmp_path / "step-1", read_all=True)


def test_reading_tells_how_far_it_is(tmp_path: Path) -> None:
    save_tensors(tmp_path / "step-1", OLD, size=2)
    manifest, pieces = read_manifest(tmp_path / "step-1"), []
    check_files(tmp_path / "step-1", manifest, read_all=True, advance=pieces.append)
    assert sum(pieces) == manifest.num_bytes


def test_the_last_ones_stay() -> None:
    assert Retention(last=2).removable([10, 20, 30, 40]) == [10, 20]
    assert Retention(last=0).removable([10, 20, 30, 40]) == [10, 20, 30]


def test_those_of_every_so_many_steps_stay() -> None:
    assert Retention(last=1, every=20).removable([10, 20, 30, 40, 50]) == [10, 30]


def test_the_best_one_stays() -> None:
    assert Retention(last=1).removable([10, 20, 30], best=10) == [20]


@given(
    whole=st.lists(st.integers(0, 1000), unique=True, min_size=1).map(sorted),
    last=st.integers(-1, 5),
    every=st.integers(0, 50),
    best=st.none() | st.integers(0, 1000),
)
def test_the_newest_is_never_removable(whole: list[int], last: int, every: int, best: int | None) -> None:
    removable = Retention(last, every).removable(whole, best)
    assert whole[-1] not in removable
    assert best not in removable
    assert len(whole) - len(removable) >= min(last, len(whole))
    assert removable == sorted(set(removable) & set(whole))


MEMORY = """
import sys, torch
from pathlib import Path
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.store import find_problem
from xlt_scale.checkpoint.writer import write_checkpoint
from xlt_scale.engines.interface import fill
from xlt_scale.engines.world import World

def status(key):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024

def save(folder, values):
    world = World(0, 1, 0, torch.device("cpu"))
    key, numel = "param/x", values.numel()
    write_checkpoint(world, folder, {key: (numel,)}, {key: (0, numel)}, [(key, values)], {})

folder = Path(sys.argv[1])
save(folder / "step-1", torch.ones(10))  # what is imported and allocated but once
values = torch.arange(75_000_000, dtype=torch.float32)
peaks = [status("VmHWM")]
save(folder / "step-2", values)
peaks.append(status("VmHWM"))
values.zero_()
fill(values, CheckpointReader(folder / "step-2"), "param/x", 0)
peaks.append(status("VmHWM"))
assert values[74_999_999] == 74_999_999 and values[0] == 0
assert find_problem(folder / "step-2", read_all=True) == ""
peaks.append(status("VmHWM"))
print("held", status("VmRSS"), "peaks", *peaks)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_writing_and_reading_hold_pieces_beside_the_tensors(tmp_path: Path) -> None:
    # Freed memory goes back to the system at once, so that what is measured is what is held.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    try:
        script = [sys.executable, "-c", MEMORY, str(tmp_path)]
        done = subprocess.run(script, env=os.environ | allocator, capture_output=True, text=True, check=False)
    finally:
        shutil.rmtree(tmp_path / "step-2", ignore_errors=True)
    assert done.returncode == 0, done.stderr
    held, before, written, read, verified = map(float, re.findall(r"[\d.]+", done.stdout))
    assert held > 300_000_000 / 2**20
    two_pieces = 2 * 4 * PIECE / 2**20
    assert written - before < two_pieces
    assert read - before < two_pieces
    assert verified - before < two_pieces
