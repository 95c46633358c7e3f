"""Checkpoint files: what lies in them, and that nothing damaged, unfinished or foreign is ever loaded."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_models import MLM, PAIRS, plan_for

from xlt_scale.checkpoint import writer
from xlt_scale.checkpoint.digest import add_digests, range_digest
from xlt_scale.checkpoint.manifest import COMPLETE, MANIFEST, read_manifest
from xlt_scale.checkpoint.reader import CheckpointWeights, check_arrival, state_digests
from xlt_scale.checkpoint.writer import save_weights
from xlt_scale.config import EngineOptions, PhaseOptions
from xlt_scale.engines.fsdp2 import Fsdp2Engine
from xlt_scale.engines.interface import Engine, EngineRequest
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.modeling.weights import FreshWeights

ALONE = World(0, 1, 0, torch.device("cpu"))
HEADS = [MLM, PAIRS]
PARAMETERS = describe_parameters(plan_for("xlm-roberta"), HEADS)
FILE = "rank-00000.safetensors"
FACTS = {"phase": "target", "step": 7}


def make_engine(seed: int) -> Engine:
    phase = PhaseOptions(name="target", task="pairs", steps=1)
    request = EngineRequest(
        ALONE, plan_for("xlm-roberta"), HEADS, PARAMETERS, EngineOptions(name="fsdp2"), phase, "fp32"
    )
    engine = Fsdp2Engine(request)
    engine.load_parameters(FreshWeights(PARAMETERS, seed))
    return engine


@pytest.fixture
def engine() -> Engine:
    return make_engine(1)


@pytest.fixture
def checkpoint(engine: Engine, tmp_path: Path) -> Path:
    folder = tmp_path / "step-00000007"
    save_weights(engine, PARAMETERS, folder, FACTS)
    return folder


def load(folder: Path, parameters: Any = PARAMETERS) -> Engine:
    loaded = make_engine(2)
    weights = CheckpointWeights(folder, parameters)
    loaded.load_parameters(weights)
    check_arrival(loaded, weights, list(PARAMETERS))
    return loaded


def refusal(folder: Path, parameters: Any = PARAMETERS) -> str:
    with pytest.raises(UserError) as error:
        load(folder, parameters)
    message = str(error.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    table = json.loads((folder / MANIFEST).read_text())
    change(table)
    (folder / MANIFEST).write_text(json.dumps(table))


def a_range(table: dict[str, Any], name: str = "param/encoder.embeddings.word_embeddings.weight") -> dict[str, Any]:
    return table["tensors"][name]["ranges"][0]


def test_what_is_loaded_is_what_was_saved(engine: Engine, checkpoint: Path) -> None:
    names = list(PARAMETERS)
    assert state_digests(load(checkpoint), names) == state_digests(engine, names)
    assert state_digests(make_engine(2), names) != state_digests(engine, names)


def test_any_program_can_read_it(engine: Engine, checkpoint: Path) -> None:
    """One JSON file says where everything is, the rest is safetensors."""
    table = json.loads((checkpoint / MANIFEST).read_text())
    assert table["facts"] == FACTS
    assert table["tensors"].keys() == {f"param/{name}" for name in PARAMETERS}
    for name, spec in PARAMETERS.items():
        entry = table["tensors"][f"param/{name}"]
        assert entry["shape"] == list(spec.shape)
        assert [(part["start"], part["stop"], part["file"]) for part in entry["ranges"]] == [(0, spec.numel, FILE)]
        assert torch.equal(load_file(checkpoint / FILE)[f"param/{name}"], engine.read_parameter(name))


def test_a_finished_checkpoint_is_marked_and_leaves_nothing_beside_it(checkpoint: Path) -> None:
    assert {path.name for path in checkpoint.iterdir()} == {FILE, MANIFEST, COMPLETE}
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_saving_again_replaces_what_was_there(checkpoint: Path) -> None:
    other = make_engine(3)
    save_weights(other, PARAMETERS, checkpoint, FACTS)
    assert state_digests(load(checkpoint), list(PARAMETERS)) == state_digests(other, list(PARAMETERS))


def test_a_save_that_fails_leaves_the_earlier_checkpoint_whole(
    engine: Engine, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_write_tensors", full_disk)
    with pytest.raises(UserError, match=r"step-00000007 cannot be saved: No space left on device; free space"):
        save_weights(make_engine(3), PARAMETERS, checkpoint, FACTS)
    assert state_digests(load(checkpoint), list(PARAMETERS)) == state_digests(engine, list(PARAMETERS))


def test_a_folder_that_cannot_be_written_is_named_in_one_line(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as error:
        save_weights(engine, PARAMETERS, tmp_path / "file" / "step-1", FACTS)
    assert f"{tmp_path / 'file' / 'step-1'} cannot be saved: Not a directory" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_refused(checkpoint: Path) -> None:
    (checkpoint / FILE).write_bytes((checkpoint / FILE).read_bytes()[:-1000])
    assert f"{FILE} cannot be read" in refusal(checkpoint)


def test_a_missing_file_is_refused(checkpoint: Path) -> None:
    (checkpoint / FILE).unlink()
    assert f"{FILE} cannot be read" in refusal(checkpoint)


def test_a_file_without_a_tensor_of_the_manifest_is_refused(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / FILE)
    del tensors["param/heads.mlm.dense.weight"]
    save_file(tensors, checkpoint / FILE)
    assert f"{FILE} cannot be read" in refusal(checkpoint)


def test_a_tensor_shorter_than_its_range_is_refused(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / FILE)
    tensors["param/heads.mlm.dense.weight"] = torch.zeros(5)
    save_file(tensors, checkpoint / FILE)
    assert f"{FILE} cannot be read (heads.mlm.dense.weight has shape [5], not [2304])" in refusal(checkpoint)


@pytest.mark.parametrize("bit", [0, 23, 31], ids=["mantissa", "exponent", "sign"])
def test_a_flipped_bit_is_noticed_and_its_tensor_named(bit: int, checkpoint: Path) -> None:
    tensors = load_file(checkpoint / FILE)
    values = tensors["param/encoder.embeddings.word_embeddings.weight"]
    values.view(torch.int32)[1234] ^= -(1 << 31) if bit == 31 else 1 << bit
    save_file(tensors, checkpoint / FILE)
    assert "encoder.embeddings.word_embeddings.weight did not arrive as it was saved" in refusal(checkpoint)


def test_without_the_marker_it_is_unfinished(checkpoint: Path) -> None:
    (checkpoint / COMPLETE).unlink()
    assert "is unfinished" in refusal(checkpoint)


def test_an_empty_folder_holds_no_checkpoint(tmp_path: Path) -> None:
    assert "holds no checkpoint" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "\udcff"], ids=["empty", "torn", "list", "no_keys", "no_text"]
)
def test_a_broken_manifest_is_refused(content: str, checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_bytes(content.encode(errors="surrogateescape"))
    assert f"{checkpoint / MANIFEST} is broken" in refusal(checkpoint)


def test_another_format_version_is_refused(checkpoint: Path) -> None:
    change_manifest(checkpoint, lambda table: table.update(version=99))
    assert "format version 99 is not 1" in refusal(checkpoint)


def test_a_missing_range_is_refused(checkpoint: Path) -> None:
    change_manifest(checkpoint, lambda table: a_range(table).update(start=10))
    assert "elements of param/encoder.embeddings.word_embeddings.weight near 0 are missing" in refusal(checkpoint)


def test_a_range_that_ends_early_is_refused(checkpoint: Path) -> None:
    change_manifest(checkpoint, lambda table: a_range(table).update(stop=4000))
    assert "word_embeddings.weight ends at 4000 of 4320" in refusal(checkpoint)


def test_a_range_that_is_stored_twice_is_refused(checkpoint: Path) -> None:
    def double(table: dict[str, Any]) -> None:
        entry = table["tensors"]["param/encoder.embeddings.word_embeddings.weight"]
        entry["ranges"].append(entry["ranges"][0])

    change_manifest(checkpoint, double)
    assert "near 4320 are stored twice" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"hidden_size": 64}, "has shape [90, 48], the model wants [90, 64]"),
        ({"vocab_size": 100}, "has shape [90, 48], the model wants [100, 48]"),
        ({"num_hidden_layers": 5}, "encoder.encoder.layer.4.attention.self.query.weight is missing"),
        ({"num_hidden_layers": 3}, "the model has no encoder.encoder.layer.3.attention.self.query.weight"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_checkpoint_of_another_architecture_is_refused(
    fields: dict[str, int], complaint: str, checkpoint: Path
) -> None:
    parameters = describe_parameters(plan_for("xlm-roberta", **fields), HEADS)
    message = refusal(checkpoint, parameters)
    assert complaint in message
    assert "the checkpoint is of another architecture" in message


def test_a_head_that_the_model_lacks_is_no_obstacle(checkpoint: Path) -> None:
    CheckpointWeights(checkpoint, describe_parameters(plan_for("xlm-roberta"), [PAIRS]))


def test_a_head_that_the_checkpoint_lacks_is_left_to_another_source(checkpoint: Path) -> None:
    parameters = describe_parameters(plan_for("xlm-roberta"), [HeadSpec("new", "classification", 2)])
    weights = CheckpointWeights(checkpoint, parameters)
    assert not weights.has("heads.new.dense.weight")
    assert weights.has("encoder.embeddings.word_embeddings.weight")


def test_more_elements_than_are_stored_are_never_made_up(checkpoint: Path) -> None:
    weights = CheckpointWeights(checkpoint, PARAMETERS)
    with pytest.raises(UserError, match=r"heads.pairs.out_proj.weight has 144 elements, the model wants 145"):
        weights.read("heads.pairs.out_proj.weight", 0, 145)


values = torch.randn(3000, generator=torch.Generator().manual_seed(0))


@given(cuts=st.lists(st.integers(0, 3000), max_size=6))
def test_digests_of_ranges_add_up_to_that_of_the_whole(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 3000]
    total = 0
    for low, high in pairwise(edges):
        total = add_digests(total, range_digest(values[low:high], low))
    assert total == range_digest(values, 0)


def test_a_digest_tells_order_sign_and_length_apart() -> None:
    digest = range_digest(values, 0)
    assert range_digest(values.flip(0), 0) != digest
    assert range_digest(-values, 0) != digest
    assert range_digest(torch.cat([values, torch.zeros(1)]), 0) != digest
    assert range_digest(torch.tensor([0.0]), 0) != range_digest(torch.tensor([-0.0]), 0)


def test_the_digest_of_a_stored_tensor_is_that_of_its_content(engine: Engine, checkpoint: Path) -> None:
    for name, tensor in read_manifest(checkpoint).tensors.items():
        assert tensor.numel == math.prod(tensor.shape)
        assert tensor.digest == range_digest(engine.read_parameter(name.removeprefix("param/")), 0)
