"""What has changed since an earlier start is told by name, and what went on from elsewhere keeps that origin."""

import json
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.errors import UserError
from xlt_scale.training.lineage import continuation, describe_changes, find_checkpoints, training_checkpoint

IDENTITY: dict[str, Any] = {
    "phase": {"batch_size": 8, "betas": [0.9, 0.999], "mixture": {}},
    "heads": [{"name": "pairs", "num_labels": 2}],
    "data": {"pairs": "0123"},
    "seed": 1,
}
CONTINUED = {"continued_from": {"hash": "abcd", "step": 5}}


def changed(**values: Any) -> dict[str, Any]:
    return IDENTITY | values


def test_equal_identities_have_no_changes() -> None:
    assert describe_changes(IDENTITY, json.loads(json.dumps(IDENTITY))) == ""


def test_a_changed_option_is_named_with_both_values() -> None:
    now = changed(phase=IDENTITY["phase"] | {"batch_size": 16}, seed=2)
    assert describe_changes(IDENTITY, now) == "phase.batch_size was 8, is 16; seed was 1, is 2"


def test_changed_data_are_named_by_their_task() -> None:
    assert describe_changes(IDENTITY, changed(data={"pairs": "9"})) == "the data of pairs are others"


def test_what_is_new_or_gone_is_a_change() -> None:
    assert describe_changes(IDENTITY, changed(phase=IDENTITY["phase"] | {"mixture": {"a": 1.0}})) != ""
    assert "heads.1.name was not there, is more" in describe_changes(
        IDENTITY, changed(heads=[*IDENTITY["heads"], {"name": "more"}])
    )


def test_where_a_phase_went_on_from_is_no_change() -> None:
    assert describe_changes(IDENTITY | CONTINUED, IDENTITY) == ""


def write_phase(folder: Path, identity: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "phase.json").write_text(json.dumps({"identity": identity}))


def test_a_finished_phase_keeps_where_it_went_on_from(tmp_path: Path) -> None:
    write_phase(tmp_path / "phase", IDENTITY | CONTINUED)
    assert continuation(tmp_path / "phase", IDENTITY, "") == CONTINUED


def test_another_phase_does_not_inherit_that(tmp_path: Path) -> None:
    write_phase(tmp_path / "phase", IDENTITY | CONTINUED)
    assert continuation(tmp_path / "phase", changed(seed=2), "") == {}


def test_a_phase_that_began_at_its_beginning_has_no_such_origin(tmp_path: Path) -> None:
    write_phase(tmp_path / "phase", IDENTITY)
    assert continuation(tmp_path / "phase", IDENTITY, "") == {}
    assert continuation(tmp_path / "new", IDENTITY, "") == {}


def test_an_empty_folder_has_no_checkpoints(tmp_path: Path) -> None:
    found = find_checkpoints(tmp_path / "nothing")
    assert (found.whole, found.skipped, found.damaged) == ((), (), False)


def test_a_folder_without_marker_is_skipped_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "step-00000003").mkdir()
    (tmp_path / "step-00000003" / "manifest.json").write_text("{}")
    found = find_checkpoints(tmp_path)
    assert not found.whole
    assert not found.damaged
    assert "is unfinished" in found.skipped[0]


def test_a_path_without_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        training_checkpoint(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="has no whole training checkpoint"):
        training_checkpoint(tmp_path)
