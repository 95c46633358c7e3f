"""Scores of several starts come together when they were made in one way."""

from pathlib import Path
from typing import Any

from xlt_scale.training.scored import left_to_score, remove_outdated, with_scores

XNLI = {"split": "test", "languages": ["de", "sw"], "scorer": "1"}
TABLE = {
    "scores": {"xnli": {"de": {"accuracy": 1.0}, "sw": {"accuracy": 2.0}}, "panx": {"de": {"f1": 3.0}}},
    "request": {"tasks": {"xnli": XNLI, "panx": {"split": "test", "languages": ["de"], "scorer": "1"}}},
}


def wanted(**changes: Any) -> dict[str, Any]:
    return {**XNLI, **changes}


def test_without_a_file_everything_is_left() -> None:
    assert left_to_score({}, {"xnli": XNLI}) == {"xnli": ["de", "sw"]}


def test_what_was_scored_in_the_same_way_is_not_left() -> None:
    assert left_to_score(TABLE, {"xnli": XNLI}) == {}


def test_of_more_languages_the_new_ones_are_left() -> None:
    assert left_to_score(TABLE, {"xnli": wanted(languages=["ar", "de"])}) == {"xnli": ["ar"]}


def test_in_another_way_all_are_left() -> None:
    for change in ({"scorer": "2"}, {"split": "dev"}, {"layer": 3}):
        assert left_to_score(TABLE, {"xnli": wanted(**change)}) == {"xnli": ["de", "sw"]}


def test_a_file_whose_scores_are_lost_counts_for_nothing() -> None:
    assert left_to_score({"request": TABLE["request"]}, {"xnli": XNLI}) == {"xnli": ["de", "sw"]}


def test_new_languages_stand_beside_the_old_ones() -> None:
    found = with_scores(TABLE, "xnli", wanted(languages=["ar", "de"]), {"ar": {"accuracy": 4.0}})
    assert {code: values["accuracy"] for code, values in found["scores"]["xnli"].items()} == {
        "ar": 4.0,
        "de": 1.0,
        "sw": 2.0,
    }
    assert found["tasks"]["xnli"] == wanted(languages=["ar", "de", "sw"])
    assert found["scores"]["panx"] == TABLE["scores"]["panx"]


def test_scores_of_another_way_replace_the_old_ones() -> None:
    found = with_scores(TABLE, "xnli", wanted(scorer="2", languages=["ar"]), {"ar": {"accuracy": 4.0}})
    assert found["scores"]["xnli"] == {"ar": {"accuracy": 4.0}}
    assert found["tasks"]["xnli"]["languages"] == ["ar"]


def test_files_of_another_way_are_removed_and_no_others(tmp_path: Path) -> None:
    names = ("xnli/test-de.tsv", "xnli/test-sw.tsv", "xnli/dev-de.tsv", "panx/test-de.tsv")
    for name in names:
        path = tmp_path / "predictions" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")

    def left() -> list[str]:
        return sorted(str(path.relative_to(tmp_path / "predictions")) for path in tmp_path.rglob("*.tsv"))

    remove_outdated(tmp_path, TABLE, "xnli", wanted(languages=["ar"]))
    remove_outdated(tmp_path, TABLE, "xnli", wanted(split="dev"))
    assert left() == sorted(names)
    remove_outdated(tmp_path, TABLE, "xnli", wanted(scorer="2"))
    assert left() == ["panx/test-de.tsv", "xnli/dev-de.tsv"]
