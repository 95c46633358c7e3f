"""Checkpoint files: what lies in them, that all of it comes back, and that nothing damaged or foreign is loaded."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_models import PAIRS, plan_for
from small_states import (
    ALONE,
    EMBEDDINGS,
    FACTS,
    FILE,
    HEADS,
    PARAMETERS,
    change_manifest,
    flip_bit,
    make_engine,
    random_tensors,
    same,
    save_tensors,
    states_of,
    take_step,
)

from xlt_scale.checkpoint.manifest import COMPLETE, MANIFEST, read_manifest
from xlt_scale.checkpoint.reader import CheckpointReader, CheckpointWeights
from xlt_scale.checkpoint.training_state import StagedState, load_training_state, load_weights, save_weights
from xlt_scale.engines.interface import Engine
from xlt_scale.errors import UserError
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import describe_parameters


@pytest.fixture(scope="module")
def engine() -> Engine:
    """One that has taken a step; tests read it only."""
    engine = make_engine(1, learning_rate=0.003, weight_decay=0.1)
    take_step(engine, learning_rate=0.004)
    return engine


@pytest.fixture
def checkpoint(engine: Engine, tmp_path: Path) -> Path:
    folder = tmp_path / "step-00000007"
    StagedState(engine, PARAMETERS, copy=False).write(ALONE, folder, FACTS)
    return folder


def load(folder: Path, parameters: Any = PARAMETERS) -> Engine:
    """Into an engine of other settings that has taken a step of its own."""
    loaded = make_engine(2, learning_rate=0.5, weight_decay=0.9)
    take_step(loaded, learning_rate=0.2)
    reader = CheckpointReader(folder)
    try:
        load_training_state(loaded, reader, parameters)
    finally:
        reader.close()
    return loaded


def refusal(folder: Path, parameters: Any = PARAMETERS) -> str:
    with pytest.raises(UserError) as error:
        load(folder, parameters)
    message = str(error.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def embeddings_of(table: dict[str, Any]) -> dict[str, Any]:
    return table["tensors"][f"param/{EMBEDDINGS}"]


def test_weights_come_back_bit_by_bit(engine: Engine, tmp_path: Path) -> None:
    save_weights(engine, PARAMETERS, tmp_path / "result", FACTS)
    loaded = make_engine(2)
    load_weights(loaded, CheckpointReader(tmp_path / "result"), PARAMETERS)
    for name in PARAMETERS:
        assert torch.equal(states_of(loaded)[f"param/{name}"], states_of(engine)[f"param/{name}"])


def test_weights_alone_are_no_training_state(engine: Engine, tmp_path: Path) -> None:
    save_weights(engine, PARAMETERS, tmp_path / "result", FACTS)
    assert not read_manifest(tmp_path / "result").holds_training_state
    assert "holds weights only, no training state; use it as a parent" in refusal(tmp_path / "result")


@pytest.mark.parametrize("copy", [False, True], ids=["direct", "copied"])
def test_a_training_state_comes_back_with_its_settings_and_step(copy: bool, engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "step-00000001"
    StagedState(engine, PARAMETERS, copy).write(ALONE, folder, FACTS)
    loaded = load(folder)
    assert same(states_of(loaded), states_of(engine))
    assert loaded.group_settings() == engine.group_settings()
    assert loaded.group_settings()["decay"]["lr"] == 0.004
    assert loaded.num_steps == engine.num_steps == 1


def test_a_copied_state_is_that_of_the_moment_it_was_copied(tmp_path: Path) -> None:
    trained = make_engine(1)
    take_step(trained)
    before = states_of(trained)
    staged = StagedState(trained, PARAMETERS, copy=True)
    take_step(trained)
    staged.write(ALONE, tmp_path / "step-00000001", FACTS)
    loaded = load(tmp_path / "step-00000001")
    assert same(states_of(loaded), before)
    assert loaded.num_steps == 1
    assert not same(states_of(trained), before)


def test_a_loaded_state_trains_on_as_the_saved_one(tmp_path: Path) -> None:
    trained = make_engine(1)
    take_step(trained)
    StagedState(trained, PARAMETERS, copy=False).write(ALONE, tmp_path / "step-00000001", FACTS)
    loaded = load(tmp_path / "step-00000001")
    take_step(trained)
    take_step(loaded)
    assert same(states_of(loaded), states_of(trained))


def test_frozen_parameters_have_no_moments_in_the_file(tmp_path: Path) -> None:
    frozen = make_engine(1, freeze_embeddings=True)
    StagedState(frozen, PARAMETERS, copy=False).write(ALONE, tmp_path / "step-00000001", FACTS)
    tensors = read_manifest(tmp_path / "step-00000001").tensors
    assert f"param/{EMBEDDINGS}" in tensors
    assert f"exp_avg/{EMBEDDINGS}" not in tensors


def test_any_program_can_read_it(engine: Engine, checkpoint: Path) -> None:
    """One JSON file says where everything is, the rest is safetensors."""
    table = json.loads((checkpoint / MANIFEST).read_text())
    assert table["facts"].items() >= FACTS.items()
    assert table["facts"]["optimizer"]["groups"] == engine.group_settings()
    stored = load_file(checkpoint / FILE)
    states = states_of(engine)
    assert table["tensors"].keys() == stored.keys() == states.keys()
    for key, values in states.items():
        assert table["tensors"][key]["shape"] == list(PARAMETERS[key.partition("/")[2]].shape)
        assert torch.equal(stored[key], values)


@pytest.mark.parametrize("size", [1, 3])
def test_offsets_and_checksums_hold_for_plain_bytes(size: int, tmp_path: Path) -> None:
    tensors = random_tensors()
    save_tensors(tmp_path / "one", tensors, size=size)
    table = json.loads((tmp_path / "one" / MANIFEST).read_text())
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").glob("*.safetensors")}
    assert {name: {"num_bytes": len(data), "crc32": zlib.crc32(data)} for name, data in files.items()} == table["files"]
    for key, entry in table["tensors"].items():
        content = b""
        for part in entry["ranges"]:
            piece = files[part["file"]][part["offset"] : part["offset"] + 4 * (part["stop"] - part["start"])]
            assert zlib.crc32(piece) == part["crc32"]
            content += piece
        assert content == tensors[key].numpy().tobytes()
        assert read_manifest(tmp_path / "one").tensors[key].crc32 == zlib.crc32(content)


def test_the_marker_is_the_checksum_of_the_manifest(checkpoint: Path) -> None:
    assert int((checkpoint / COMPLETE).read_text()) == zlib.crc32((checkpoint / MANIFEST).read_bytes())


def test_a_finished_checkpoint_leaves_nothing_beside_it(checkpoint: Path) -> None:
    assert {path.name for path in checkpoint.iterdir()} == {FILE, MANIFEST, COMPLETE}
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_parts_of_several_ranks_are_read_as_one(tmp_path: Path) -> None:
    tensors = random_tensors()
    save_tensors(tmp_path / "three", tensors, size=3)
    reader = CheckpointReader(tmp_path / "three")
    flat = tensors["param/encoder.weight"].view(-1)
    assert torch.equal(reader.read("param/encoder.weight", 0, 210), flat)
    assert torch.equal(reader.read("param/encoder.weight", 69, 141), flat[69:141])
    assert not reader.read("param/encoder.weight", 5, 5).numel()
    reader.close()


def test_checksums_are_taken_only_of_what_they_are_asked_of(checkpoint: Path) -> None:
    key = f"param/{next(iter(PARAMETERS))}"
    reader = CheckpointReader(checkpoint)
    stored = reader.manifest.tensors[key]
    reader.read(key, 0, stored.numel)
    assert reader.checksum_of_read(key) == (0, 4 * stored.numel, stored.crc32)
    unasked = CheckpointReader(checkpoint)
    unasked.note_checksums(lambda key: False)
    unasked.read(key, 0, stored.numel)
    assert unasked.checksum_of_read(key) == (0, 0, 0)


def test_a_truncated_file_is_refused(checkpoint: Path) -> None:
    (checkpoint / FILE).write_bytes((checkpoint / FILE).read_bytes()[:-1000])
    assert f"{FILE} cannot be read (it ends too early)" in refusal(checkpoint)


def test_a_missing_file_is_refused(checkpoint: Path) -> None:
    (checkpoint / FILE).unlink()
    assert f"{FILE} cannot be read (No such file or directory)" in refusal(checkpoint)


@pytest.mark.parametrize("kind", ["param", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("name", [EMBEDDINGS, "heads.pairs.out_proj.bias"])
def test_a_flipped_bit_is_noticed_and_its_tensor_named(kind: str, name: str, checkpoint: Path) -> None:
    part = read_manifest(checkpoint).tensors[f"{kind}/{name}"].ranges[0]
    flip_bit(checkpoint / FILE, part.offset + 5, bit=3)
    assert f"{kind}/{name} did not arrive as it was saved" in refusal(checkpoint)


@pytest.mark.parametrize("bit", [0, 22, 23, 30, 31])
def test_each_bit_of_an_element_counts(bit: int, checkpoint: Path) -> None:
    part = read_manifest(checkpoint).tensors[f"param/{EMBEDDINGS}"].ranges[0]
    flip_bit(checkpoint / FILE, part.offset + 4 * 1234 + bit // 8, bit % 8)
    assert f"param/{EMBEDDINGS} did not arrive as it was saved" in refusal(checkpoint)


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


def test_a_manifest_that_was_changed_afterwards_is_refused(checkpoint: Path) -> None:
    text = (checkpoint / MANIFEST).read_text()
    (checkpoint / MANIFEST).write_text(text.replace('"step": 7', '"step": 8'))
    assert "it is not the one that COMPLETE was written for" in refusal(checkpoint)


def test_another_format_version_is_refused(checkpoint: Path) -> None:
    change_manifest(checkpoint, lambda table: table.update(version=99))
    assert refusal(checkpoint) == f"{checkpoint}: format version 99 is not 2; use a matching release"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda entry: entry["ranges"][0].update(start=10), "near 0 are missing"),
        (lambda entry: entry["ranges"][0].update(stop=4000), "ends at 4000 of 4320"),
        (lambda entry: entry["ranges"].clear(), "ends at 0 of 4320"),
        (lambda entry: entry["ranges"].append(entry["ranges"][0]), "near 4320 are stored twice"),
        (lambda entry: entry["ranges"][0].update(offset=10**9), f"lies outside of its file {FILE}"),
        (lambda entry: entry["ranges"][0].update(offset=-8), f"lies outside of its file {FILE}"),
        (lambda entry: entry["ranges"][0].update(file="other"), "lies outside of its file other"),
        (
            lambda entry: entry["ranges"].append(entry["ranges"][0] | {"start": 4320, "stop": 4000}),
            "has a range that ends before it begins",
        ),
    ],
    ids=["gap", "ends_early", "none", "twice", "behind_its_file", "before_its_file", "no_such_file", "backwards"],
)
def test_ranges_that_do_not_tile_their_tensor_are_refused(
    change: Callable[[dict[str, Any]], Any], complaint: str, checkpoint: Path
) -> None:
    change_manifest(checkpoint, lambda table: change(embeddings_of(table)))
    message = refusal(checkpoint)
    assert complaint in message
    assert EMBEDDINGS in message


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
    message = refusal(checkpoint, describe_parameters(plan_for("xlm-roberta", **fields), HEADS))
    assert complaint in message
    assert "the checkpoint is of another architecture" in message


def test_a_training_state_without_one_of_the_heads_is_of_another_phase(checkpoint: Path) -> None:
    parameters = describe_parameters(plan_for("xlm-roberta"), [*HEADS, HeadSpec("new", "classification", 2)])
    assert "the checkpoint is of another phase" in refusal(checkpoint, parameters)


def test_other_optimiser_groups_are_refused(checkpoint: Path) -> None:
    change_manifest(checkpoint, lambda table: table["facts"]["optimizer"]["groups"].pop("no_decay"))
    with pytest.raises(UserError, match="the optimiser has groups decay, no_decay, the checkpoint decay; give"):
        load(checkpoint)


def test_a_head_that_the_model_lacks_is_no_obstacle(checkpoint: Path) -> None:
    CheckpointWeights(CheckpointReader(checkpoint), describe_parameters(plan_for("xlm-roberta"), [PAIRS]))


def test_a_head_that_the_checkpoint_lacks_is_left_to_another_source(checkpoint: Path) -> None:
    parameters = describe_parameters(plan_for("xlm-roberta"), [HeadSpec("new", "classification", 2)])
    weights = CheckpointWeights(CheckpointReader(checkpoint), parameters)
    assert not weights.has("heads.new.dense.weight")
    assert weights.has(EMBEDDINGS)


def test_more_elements_than_are_stored_are_never_made_up(checkpoint: Path) -> None:
    weights = CheckpointWeights(CheckpointReader(checkpoint), PARAMETERS)
    with pytest.raises(UserError, match=r"heads.pairs.out_proj.weight has 144 elements, the model wants 145"):
        weights.read("heads.pairs.out_proj.weight", 0, 145)
