"""Tensors in weight files: any range arrives as it was stored, and nothing but that range is read or held."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from xlt_scale.checkpoint.checksum import tensor_bytes
from xlt_scale.modeling import stored_tensors
from xlt_scale.modeling.stored_tensors import TensorInFile, TensorInMemory, bytes_of, find_tensors

ROWS, WIDTH = 40, 7


def values_of(dtype: torch.dtype) -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)


def save_safetensors(tensors: dict[str, Tensor], path: Path) -> Path:
    save_file(tensors, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def save_bin(tensors: dict[str, Tensor], path: Path) -> Path:
    torch.save(tensors, path.with_suffix(".bin"))
    return path.with_suffix(".bin")


def save_old_bin(tensors: dict[str, Tensor], path: Path) -> Path:
    torch.save(tensors, path.with_suffix(".bin"), _use_new_zipfile_serialization=False)
    return path.with_suffix(".bin")


Save = Callable[[dict[str, Tensor], Path], Path]
every_format = pytest.mark.parametrize("save", [save_safetensors, save_bin, save_old_bin])


def read(path: Path, name: str, start: int, stop: int, dtype: torch.dtype = torch.float32) -> Tensor:
    found = torch.full((stop - start,), float("nan"), dtype=dtype)
    find_tensors(path)[name].read_into(found, start)
    return found


@every_format
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_ranges_arrive_in_the_type_that_is_wanted(
    save: Save, stored: torch.dtype, wanted: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_tensors, "_PIECE", 16)
    values = values_of(stored)
    path = save({"before": torch.ones(3), "x": values}, tmp_path / "file")
    for start, stop in [(0, 1), (6, 8), (7, 21), (3, 200), (0, ROWS * WIDTH), (9, 9)]:
        assert torch.equal(read(path, "x", start, stop, wanted), values.flatten()[start:stop].to(wanted))


@given(edges=st.tuples(st.integers(0, ROWS * WIDTH), st.integers(0, ROWS * WIDTH)).map(sorted))
def test_rows_that_lie_across_in_memory_are_cut_anywhere(edges: list[int]) -> None:
    values, (start, stop) = values_of(torch.float32).t().contiguous().t(), edges
    found = torch.empty(stop - start)
    TensorInMemory(values).read_into(found, start)
    assert torch.equal(found, values.reshape(-1)[start:stop])


def test_tensors_of_a_pytorch_file_may_share_memory_or_lie_across_it(tmp_path: Path) -> None:
    whole = values_of(torch.float32)
    tensors = {"whole": whole, "tied": whole, "rows": whole[5:9], "across": whole.t(), "one": whole[3, 2]}
    path = save_bin(tensors, tmp_path / "file")
    for name, values in tensors.items():
        assert torch.equal(read(path, name, 0, values.numel()), values.reshape(-1)), name


@pytest.mark.parametrize("save", [save_safetensors, save_bin])
def test_only_the_bytes_of_a_range_are_read_and_no_file_is_mapped(save: Save, tmp_path: Path) -> None:
    path = save({"x": torch.zeros(5_000_000)}, tmp_path / "file")
    stored, found = find_tensors(path)["x"], torch.empty(1_000_000)
    assert isinstance(stored, TensorInFile)
    before = num_bytes_read()
    stored.read_into(found, 2_000_000)
    assert found.nbytes <= num_bytes_read() - before < found.nbytes + 10_000
    assert str(path) not in Path("/proc/self/maps").read_text()


def num_bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_what_is_no_floating_point_number_has_no_type(tmp_path: Path) -> None:
    for save in (save_safetensors, save_bin):
        path = save({"x": torch.ones(2, 3, dtype=torch.int8)}, tmp_path / "file")
        assert (find_tensors(path)["x"].dtype, find_tensors(path)["x"].shape) == (None, (2, 3))


def test_reading_takes_no_longer_than_the_library(tmp_path: Path) -> None:
    """Processor time, the better of several turns: a busy machine tells more of neither."""
    names = [f"x{number}" for number in range(4)]
    path = save_safetensors({name: torch.ones(8_000_000) for name in names}, tmp_path / "file")

    def ours() -> object:
        tensors = {name: torch.empty(8_000_000) for name in names}
        for name, stored in find_tensors(path).items():
            stored.read_into(tensors[name], 0)
        return tensors

    def theirs() -> object:
        return {name: values.clone() for name, values in load_file(path).items()}

    turns = [(processor_time(ours), processor_time(theirs)) for _ in range(6)]
    assert min(mine for mine, _ in turns) < 1.5 * min(other for _, other in turns)


def processor_time(action: Callable[[], object]) -> float:
    before = time.process_time()
    action()
    return time.process_time() - before


def test_memory_that_was_filled_and_looked_at_can_still_be_given_back(tmp_path: Path) -> None:
    """By `resize_`, as an engine that is destroyed does."""
    path = save_safetensors({"x": torch.ones(100)}, tmp_path / "file")
    found = torch.empty(100)
    find_tensors(path)["x"].read_into(found, 0)
    assert tensor_bytes(found) == torch.ones(100).numpy().tobytes()
    assert found.untyped_storage().resizable()


def test_bytes_outlive_the_tensor_that_they_are_of() -> None:
    view = bytes_of(torch.ones(100))
    assert bytes(view) == torch.ones(100).numpy().tobytes()
