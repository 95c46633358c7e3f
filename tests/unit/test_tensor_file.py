"""Safetensors files that are written and read piece by piece."""

import os
import zlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from xlt_scale.checkpoint import tensor_file
from xlt_scale.checkpoint.tensor_file import TensorFileWriter, TensorLayout, file_checksum, read_elements, read_into

LAYOUT = [TensorLayout("first", (4, 5)), TensorLayout("second", (3,)), TensorLayout("empty", (0, 2))]
FIRST, SECOND = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, -0.0, float("nan")])


def write(path: Path) -> TensorFileWriter:
    with TensorFileWriter(path, LAYOUT) as writer:
        writer.write("second", SECOND[:1])
        writer.write("first", FIRST.view(-1)[:13])
        writer.write("second", SECOND[1:])
        writer.write("first", FIRST.view(-1)[13:])
    return writer


@pytest.fixture(params=[1 << 24, 3], ids=["whole", "in_pieces_of_3"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tensor_file, "PIECE", request.param)
    return tmp_path / "one.safetensors"


def test_what_comes_in_pieces_and_in_any_order_is_one_file(path: Path) -> None:
    write(path)
    found = load_file(path)
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        tensor.name: tensor.shape for tensor in LAYOUT
    }
    assert torch.equal(found["first"], FIRST)
    assert torch.equal(found["second"].view(torch.int32), SECOND.view(torch.int32))


def test_its_size_offsets_and_checksums_are_known_without_reading_it(path: Path) -> None:
    writer = write(path)
    data = path.read_bytes()
    assert (writer.num_bytes, writer.checksum()) == (len(data), zlib.crc32(data))
    for name, values in (("first", FIRST), ("second", SECOND)):
        content = values.numpy().tobytes()
        assert data[writer.offsets[name] :].startswith(content)
        assert writer.checksum_of(name) == zlib.crc32(content)


def test_the_data_is_aligned_to_8_bytes(tmp_path: Path) -> None:
    for length in range(1, 9):
        with TensorFileWriter(tmp_path / "one", [TensorLayout("n" * length, (1,))]) as writer:
            writer.write("n" * length, torch.ones(1))
        assert writer.offsets["n" * length] % 8 == 0
        assert load_file(tmp_path / "one")["n" * length].item() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_types_and_metadata_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    with TensorFileWriter(tmp_path / "one", [TensorLayout("x", (2, 2), dtype)], {"format": "pt"}) as writer:
        writer.write("x", torch.ones(2, 2, dtype=dtype))
    with safe_open(tmp_path / "one", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("x").dtype == dtype


def test_a_tensor_that_was_not_written_whole_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="second was not written whole"):
        with TensorFileWriter(tmp_path / "one", LAYOUT) as writer:
            writer.write("first", FIRST)


def test_too_many_elements_never_reach_the_next_tensor(tmp_path: Path) -> None:
    writer = TensorFileWriter(tmp_path / "one", LAYOUT)
    with pytest.raises(AssertionError, match="first has more elements than its layout"), writer:
        writer.write("second", SECOND)
        writer.write("first", torch.zeros(21))
    data = (tmp_path / "one").read_bytes()
    assert data[writer.offsets["second"] :].startswith(SECOND.numpy().tobytes())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_leaves_no_file_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No space left"), TensorFileWriter(Path("/dev/full"), LAYOUT):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_elements_are_read_from_anywhere(tmp_path: Path) -> None:
    writer = write(tmp_path / "one")
    with open(tmp_path / "one", "rb") as file:
        found = read_elements(file.fileno(), writer.offsets["first"] + 4 * 6, 9)
        assert torch.equal(found, FIRST.view(-1)[6:15])
        assert not read_elements(file.fileno(), 0, 0).numel()


def test_what_is_there_is_filled_without_a_copy(tmp_path: Path) -> None:
    writer = write(tmp_path / "one")
    values = torch.zeros(12)
    with open(tmp_path / "one", "rb") as file:
        read_into(values[2:11], file.fileno(), writer.offsets["first"] + 4 * 6)
    assert torch.equal(values, torch.cat([torch.zeros(2), FIRST.view(-1)[6:15], torch.zeros(1)]))


def test_a_file_that_ends_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(10))
    with open(tmp_path / "one", "rb") as file, pytest.raises(EOFError, match="it ends too early"):
        read_elements(file.fileno(), 0, 3)


def test_a_files_checksum_is_that_of_its_bytes_and_tells_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(20 << 20) + b"end")
    pieces: list[int] = []
    assert file_checksum(tmp_path / "one", pieces.append) == (zlib.crc32(bytes(20 << 20) + b"end"), (20 << 20) + 3)
    assert sum(pieces) == (20 << 20) + 3
    assert len(pieces) > 1
