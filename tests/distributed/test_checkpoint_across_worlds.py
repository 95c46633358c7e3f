"""A checkpoint of any engine and world size is loaded by any other, bit by bit, and a damaged one by none."""

import json
from pathlib import Path

import pytest
from agreement import relative_difference
from small_runs import ENGINES, SmallRuns

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("small_runs")]

LOADS = [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (4, 2)]


@pytest.mark.parametrize("saver", ENGINES)
@pytest.mark.parametrize("loader", ENGINES)
@pytest.mark.parametrize(("loading", "saving"), LOADS, ids=lambda size: str(size))
def test_weights_arrive_bit_by_bit(saver: str, saving: int, loader: str, loading: int, small_runs: SmallRuns) -> None:
    answers = small_runs.one_again if loading == 1 else small_runs.at(loading)
    final = small_runs.at(saving)[saver][0]["final"]
    for found in answers[f"{loader} loads {saver} {saving}"]:
        assert found["digests"] == found["stored"] == final


@pytest.mark.parametrize("saver", ENGINES)
@pytest.mark.parametrize("saving", [2, 3])
def test_the_model_computes_with_what_arrived(saver: str, saving: int, small_runs: SmallRuns) -> None:
    expected = small_runs.one_again[f"zero3 loads {saver} {saving}"][0]["losses"]
    assert relative_difference(small_runs.one_again[f"fsdp2 loads {saver} {saving}"][0]["losses"], expected) < 1e-6
    if saving == 3:
        for loader in ENGINES:
            losses = small_runs.two[f"{loader} loads {saver} {saving}"][0]["losses"]
            assert relative_difference(losses, expected) < 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_each_rank_writes_its_own_part_once(engine: str, small_runs: SmallRuns) -> None:
    _ = small_runs.three
    folder = small_runs.saved(engine, 3)
    table = json.loads((folder / "manifest.json").read_text())
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    assert sorted(sizes) == [f"rank-{rank:05d}.safetensors" for rank in range(3)]
    stored = sum(part["stop"] - part["start"] for entry in table["tensors"].values() for part in entry["ranges"])
    headers = 30_000
    assert 4 * stored < sum(sizes.values()) < 4 * stored + headers
    assert max(sizes.values()) < 0.5 * sum(sizes.values())


COMPLAINTS = {
    "truncated file": "rank-00001.safetensors cannot be read",
    "missing marker": "is unfinished",
    "missing range": "elements of param/heads.mlm.dense.weight near 342 are missing",
    "missing file": "rank-00002.safetensors cannot be read",
    "flipped bit": "did not arrive as it was saved",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("damage", COMPLAINTS)
def test_a_damaged_checkpoint_is_refused_on_every_rank(engine: str, damage: str, small_runs: SmallRuns) -> None:
    messages = small_runs.two[f"{engine} {damage}"]
    assert len(messages) == 2
    for message in messages:
        assert COMPLAINTS[damage] in message
        assert str(small_runs.damaged[damage]) in message
        assert "\n" not in message


@pytest.mark.parametrize("engine", ENGINES)
def test_a_folder_that_cannot_be_made_is_the_same_error_on_every_rank(engine: str, small_runs: SmallRuns) -> None:
    first, second = small_runs.two[f"{engine} no folder"]
    assert first == second
    assert "cannot be saved: Not a directory; free space or choose another output folder" in first


@pytest.mark.parametrize("engine", ENGINES)
def test_a_full_disk_under_one_rank_is_the_same_error_on_every_rank(engine: str, small_runs: SmallRuns) -> None:
    first, second = small_runs.two[f"{engine} full disk"]
    assert first == second
    assert "cannot be saved: No space left on device" in first
    folder = Path(first.split(" cannot be saved")[0])
    assert not folder.exists()
