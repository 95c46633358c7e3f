"""A training state of any engine and world size goes on under any other; a damaged one under none."""

import json
from pathlib import Path

import pytest
from agreement import relative_difference
from checkpoint_runs import CROSSINGS, DAMAGES, ENGINES_OF_VARIANTS, SIZES, CheckpointRuns
from small_run import PHASE
from small_runs import ENGINES

pytestmark = [pytest.mark.distributed]

TOLERANCE = 1e-5


@pytest.mark.parametrize(("saver", "saving", "loader", "loading"), CROSSINGS)
def test_the_state_arrives_bit_by_bit_and_goes_on(
    saver: str, saving: int, loader: str, loading: int, checkpoint_runs: CheckpointRuns
) -> None:
    saved = checkpoint_runs.saved(saving)[saver][0]
    for found in checkpoint_runs.loaded(loading)[f"{loader} loads {saver} {saving}"]:
        assert found["checksums"] == found["stored"] == saved["checksums"]
        assert relative_difference(found["losses"], saved["losses"]) < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", SIZES)
def test_the_same_engine_and_world_size_go_on_with_the_same_bits(
    engine: str, size: int, checkpoint_runs: CheckpointRuns
) -> None:
    saved = checkpoint_runs.saved(size)[engine][0]
    found = checkpoint_runs.loaded(size)[f"{engine} loads {engine} {size}"][0]
    assert found["losses"] == saved["losses"]


def test_hyper_parameters_come_back_by_the_group_s_name(checkpoint_runs: CheckpointRuns) -> None:
    """The loading engine was built with others. Both groups must not get the settings of the first."""
    for saver, saving, loader, loading in CROSSINGS:
        if saver == loader:
            continue
        found = checkpoint_runs.loaded(loading)[f"{loader} loads {saver} {saving}"][0]
        assert found["num_steps"] == 5
        common = {"lr": PHASE["learning_rate"], "betas": [0.9, 0.999], "eps": 1e-8}
        assert found["settings"] == {
            "decay": common | {"weight_decay": PHASE["weight_decay"]},
            "no_decay": common | {"weight_decay": 0.0},
        }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_interrupted_run_is_the_undisturbed_one_bit_by_bit(
    engine: str, precision: str, checkpoint_runs: CheckpointRuns
) -> None:
    """With dropout, and as repeatable as the run option makes it."""
    found = checkpoint_runs.saved(2)[f"{engine} interrupted {precision}"][0]
    assert found["again"] == found["undisturbed"]
    assert found["resumed"] == found["undisturbed"]


def test_repeatable_runs_in_bf16_have_the_same_bits_under_both_engines(checkpoint_runs: CheckpointRuns) -> None:
    zero3, fsdp2 = (checkpoint_runs.saved(2)[f"{name} interrupted bf16"][0]["undisturbed"] for name in ENGINES)
    assert zero3 == fsdp2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_saved_while_training_goes_on_is_that_of_its_step(engine: str, checkpoint_runs: CheckpointRuns) -> None:
    saved = checkpoint_runs.saved(2)[f"{engine} asynchronous"][0]
    plain = checkpoint_runs.saved(2)[engine][0]
    found = checkpoint_runs.loaded(2)[f"{engine} asynchronous"][0]
    assert found["checksums"] == saved["checksums"] == plain["checksums"]
    assert found["losses"] == saved["losses"] == plain["losses"]


@pytest.mark.parametrize("loader", ENGINES)
@pytest.mark.parametrize(
    ("saver", "variant"), [(name, variant) for variant, names in ENGINES_OF_VARIANTS.items() for name in names]
)
def test_it_holds_with_other_options_too(
    saver: str, variant: str, loader: str, checkpoint_runs: CheckpointRuns
) -> None:
    saved = checkpoint_runs.saved(2)[f"{saver} {variant}"][0]
    found = checkpoint_runs.loaded(2)[f"{loader} loads {saver} {variant}"][0]
    assert found["stored"] == saved["checksums"]
    if variant == "8-bit states" and loader != saver:
        # Moments are quantised again, in blocks that are cut elsewhere.
        assert _masters(found["checksums"]) == _masters(saved["checksums"])
        assert relative_difference(found["losses"], saved["losses"]) < 1e-2
        return
    assert found["checksums"] == saved["checksums"]
    assert relative_difference(found["losses"], saved["losses"]) < TOLERANCE
    if loader == saver:
        assert found["losses"] == saved["losses"]


def _masters(checksums: dict[str, int]) -> dict[str, int]:
    return {key: checksum for key, checksum in checksums.items() if key.startswith("param/")}


def test_frozen_parameters_are_saved_without_moments(checkpoint_runs: CheckpointRuns) -> None:
    for engine in ENGINES:
        keys = checkpoint_runs.saved(2)[f"{engine} frozen embeddings"][0]["checksums"]
        name = "encoder.embeddings.word_embeddings.weight"
        assert f"param/{name}" in keys
        assert f"exp_avg/{name}" not in keys


@pytest.mark.parametrize("family", ["xlm-roberta", "xlm-roberta-xl"])
@pytest.mark.parametrize("engine", ENGINES)
def test_weights_go_out_to_hugging_face_and_come_in_again_bit_by_bit(
    engine: str, family: str, checkpoint_runs: CheckpointRuns
) -> None:
    for found in checkpoint_runs.saved(2)[f"{engine} published {family}"]:
        assert found["after"] == found["before"]
        assert "model.safetensors.index.json" in found["files"]


def test_replicas_hold_the_same_and_one_of_them_writes(checkpoint_runs: CheckpointRuns) -> None:
    checkpoint_runs.saved(2)
    folder = checkpoint_runs.folder("fsdp2 two replicas", 2)
    assert [path.name for path in folder.glob("*.safetensors")] == ["rank-00000.safetensors"]
    expected = checkpoint_runs.saved(3)["zero3"][0]
    for found in checkpoint_runs.loaded(4)["two replicas"]:
        assert found["checksums"] == expected["checksums"]
        assert relative_difference(found["losses"], expected["losses"]) < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_each_rank_writes_its_own_part_once(engine: str, checkpoint_runs: CheckpointRuns) -> None:
    checkpoint_runs.saved(3)
    folder = checkpoint_runs.folder(engine, 3)
    table = json.loads((folder / "manifest.json").read_text())
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    assert sorted(sizes) == [f"rank-{rank:05d}.safetensors" for rank in range(3)]
    stored = sum(part["stop"] - part["start"] for entry in table["tensors"].values() for part in entry["ranges"])
    headers = 60_000
    assert 4 * stored < sum(sizes.values()) < 4 * stored + headers
    assert max(sizes.values()) < 0.5 * sum(sizes.values())


COMPLAINTS = {
    "truncated file": "rank-00001.safetensors cannot be read (it ends too early)",
    "missing marker": "is unfinished",
    "missing range": "it is not the one that COMPLETE was written for",
    "missing file": "rank-00002.safetensors cannot be read (No such file or directory)",
    "flipped bit": "did not arrive as it was saved",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_on_every_rank(
    engine: str, damage: str, checkpoint_runs: CheckpointRuns
) -> None:
    messages = checkpoint_runs.loaded(2)[f"{engine} {damage}"]
    assert len(messages) == 2
    for message in messages:
        assert COMPLAINTS[damage] in message
        assert str(checkpoint_runs.damaged[damage]) in message
        assert "\n" not in message


@pytest.mark.parametrize("engine", ENGINES)
def test_a_folder_that_cannot_be_made_is_the_same_error_on_every_rank(
    engine: str, checkpoint_runs: CheckpointRuns
) -> None:
    first, second = checkpoint_runs.saved(2)[f"{engine} no folder"]
    assert first == second
    assert "cannot be saved: Not a directory; free space or choose another output folder" in first


@pytest.mark.parametrize("engine", ENGINES)
def test_a_full_disk_under_one_rank_is_the_same_error_on_every_rank(
    engine: str, checkpoint_runs: CheckpointRuns
) -> None:
    first, second = checkpoint_runs.saved(2)[f"{engine} full disk"]
    assert first == second
    assert "cannot be saved: No space left on device" in first
    folder = Path(first.split(" cannot be saved")[0])
    assert not folder.exists()
    assert not list(folder.parent.glob(".*"))
