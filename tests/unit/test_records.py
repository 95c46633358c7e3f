"""Records: what they hold, when they are written, and that nothing else is taken for one."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_records import CATALOGUE, SmallStudy

from xlt_scale.errors import UserError
from xlt_scale.scaling.records import collect as collecting
from xlt_scale.scaling.records.collect import collect
from xlt_scale.scaling.records.outcome_store import read_outcome_file
from xlt_scale.scaling.records.records import read_record, read_records
from xlt_scale.scaling.records.same_data import same_data


@pytest.fixture
def study(tmp_path: Path) -> SmallStudy:
    return SmallStudy.make(tmp_path / "study")


def record_of(study: SmallStudy, **where: Any) -> dict[str, Any]:
    """The record of a phase that is finished together with those above it."""
    phase = study.phase(**where)
    study.finish([*study.grid.ancestors(phase.name), phase])
    collect(study.folder, study.grid)
    return read_record(study.folder.record_file(phase.name))


def test_a_record_says_where_in_the_grid_its_phase_stands(study: SmallStudy) -> None:
    record = record_of(study, size="micro-small", arm="inference", target="spans", pair=(2, 1))
    assert (record["size"]["name"], record["arm"]["name"], record["target"]["name"]) == (
        "micro-small",
        "inference",
        "spans",
    )
    assert record["seeds"] == {"intermediate": 2, "target": 1, "trained_with": 2001}


def test_a_record_says_what_the_arm_trained_before_and_by_which_phases(study: SmallStudy) -> None:
    record = record_of(study, arm="inference", target="pairs")
    phase = study.phase(arm="inference", role="intermediate")
    assert record["arm"] == {"name": "inference", "tasks": ["mnli"], "languages": ["en"], "phases": [phase.name]}
    assert record["parents"][-1] == f"hash-of-{phase.name}"


def test_a_record_has_the_options_that_decide_the_result_and_none_beside(study: SmallStudy) -> None:
    hyper = record_of(study, target="pairs")["hyper_parameters"]
    assert (hyper["learning_rate"], hyper["num_steps"]) == (1e-5, 20)
    assert not {"name", "parent", "evaluate", "seed"} & hyper.keys()


def test_the_model_is_counted_without_its_heads(study: SmallStudy) -> None:
    assert record_of(study, target="pairs")["size"]["num_parameters"] == 413_056


def test_a_record_says_the_ladder_of_the_size(study: SmallStudy) -> None:
    size = record_of(study, target="pairs")["size"]
    assert (size["family"], size["model_type"], size["is_bidirectional_decoder"]) == ("micro", "xlm-roberta", False)


@pytest.mark.parametrize(
    ("model_type", "configuration", "family", "is_both_ways"),
    [
        ("qwen3", {"is_causal": False}, "Qwen3", True),
        ("qwen3", {"is_causal": True}, "Qwen3", False),
        ("gemma3_text", {"use_bidirectional_attention": True}, "Gemma 3", True),
        ("mt5", {}, "mT5", False),
        ("of-somebody", {}, "of-somebody", False),
    ],
)
def test_a_record_says_the_family_of_any_model_and_whether_a_decoder_is_read_in_both_directions(
    study: SmallStudy, model_type: str, configuration: dict[str, Any], family: str, is_both_ways: bool
) -> None:
    phase = study.phase(role="pretraining")
    study.finish([phase])
    path = study.folder.phase(phase.name) / "phase.json"
    facts = json.loads(path.read_text())
    facts["training"]["model_type"] = model_type
    facts["identity"]["model"] |= configuration
    path.write_text(json.dumps(facts))
    collect(study.folder, study.grid, [phase.name])
    size = read_record(study.folder.record_file(phase.name))["size"]
    assert (size["family"], size["is_bidirectional_decoder"]) == (family, is_both_ways)


def test_times_on_processors_are_processor_hours(study: SmallStudy) -> None:
    training = record_of(study, target="pairs")["training"]
    assert (training["unit"], training["gpu_hours"]) == ("processor hours", pytest.approx(0.01))


def test_predictions_are_found_from_the_study_folder(study: SmallStudy) -> None:
    record = record_of(study, target="pairs")
    assert (study.folder.root / record["predictions"]).parent == study.folder.phase(record["phase"])


def test_an_encoder_scored_as_it_is_has_no_training(study: SmallStudy) -> None:
    record = record_of(study, arm="none", target="sentences")
    assert record["seeds"]["intermediate"] == record["seeds"]["target"] == -1
    assert (record["target"]["trained"], record["training"]["curve"]) == ("", [])


def test_a_phase_that_scores_nothing_is_recorded_with_its_training(study: SmallStudy) -> None:
    record = record_of(study, role="intermediate")
    assert (record["scores"], record["training"]["steps"]) == ({}, 10)


@pytest.mark.parametrize(
    ("arm", "trained", "scored", "is_shared"),
    [
        ("mnli", "mnli", "xnli", True),
        ("mnli", "pawsx", "xnli", True),
        ("anli-plus", "mnli", "xnli", True),
        ("mnli", "anli-plus", "xnli", True),
        ("squad", "squad", "xquad", True),
        ("squad", "tydiqa", "xquad", True),
        ("pawsx", "pawsx", "pawsx", True),
        ("siqa", "copa", "xcopa", True),
        ("qqp", "pawsx", "pawsx", False),
        ("squad", "tydiqa", "tydiqa", False),
        ("imdb", "mnli", "xnli", False),
        ("micro-nli", "micro-paraphrase", "micro-paraphrase", False),
    ],
)
def test_arms_that_have_seen_the_targets_data_are_flagged(arm: str, trained: str, scored: str, is_shared: bool) -> None:
    assert (scored in same_data([arm], [trained], [scored], CATALOGUE)) == is_shared


def test_the_reason_is_in_the_record(study: SmallStudy) -> None:
    assert record_of(study, arm="questions", target="spans")["same_data"]["xquad"].startswith("same training data")


def test_the_baseline_shares_no_data(study: SmallStudy) -> None:
    assert record_of(study, arm="none", target="spans")["same_data"] == {}


def test_a_phase_is_recorded_once(study: SmallStudy) -> None:
    names = study.finish(study.phases(size="micro-tiny"))
    assert sorted(collect(study.folder, study.grid)) == sorted(names)
    assert collect(study.folder, study.grid) == []


def test_only_the_phases_that_are_named_are_looked_at(study: SmallStudy) -> None:
    names = study.finish(study.phases(size="micro-tiny"))
    assert collect(study.folder, study.grid, names[:2]) == names[:2]


def test_a_phase_is_not_recorded_before_all_its_tasks_are_scored(tmp_path: Path) -> None:
    targets = [{"name": "both", "phase": {"task": "squad"}, "evaluate": ["xquad", "mlqa"]}]
    study = SmallStudy.make(tmp_path, targets=targets)
    [name] = study.finish([study.phase(role="target")])
    path = study.folder.phase(name) / "scores.json"
    table = json.loads(path.read_text())
    del table["scores"]["mlqa"]
    path.write_text(json.dumps(table))
    assert collect(study.folder, study.grid) == []


def test_a_phase_is_not_recorded_before_all_its_languages_are_scored(study: SmallStudy) -> None:
    [name] = study.finish([study.phase(target="pairs")])
    path = study.folder.phase(name) / "scores.json"
    table = json.loads(path.read_text())
    del table["scores"]["pawsx"]["sw"]
    path.write_text(json.dumps(table))
    assert collect(study.folder, study.grid) == []


def test_scores_of_another_split_than_is_asked_for_do_not_count(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path, target={"steps": 20, "evaluate_split": "dev"})
    [name] = study.finish([study.phase(target="pairs")])
    path = study.folder.phase(name) / "scores.json"
    path.write_text(path.read_text().replace('"split": "dev"', '"split": "test"'))
    assert collect(study.folder, study.grid) == []


def test_a_folder_of_another_phase_is_said_and_not_recorded(study: SmallStudy) -> None:
    [name] = study.finish([study.phase(target="pairs")])
    path = study.folder.phase(name) / "phase.json"
    facts = json.loads(path.read_text())
    facts["training"]["options"]["learning_rate"] = 0.5
    path.write_text(json.dumps(facts))
    said: list[str] = []
    assert collect(study.folder, study.grid, notify=said.append) == []
    assert "other options (learning_rate)" in said[0]


def test_a_kill_between_outcomes_and_record_leaves_a_phase_without_a_record(
    study: SmallStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    [name] = study.finish([study.phase(target="pairs")])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(collecting, "write_record", killed)
        collect(study.folder, study.grid)
    assert (study.folder.recorded(), study.folder.outcome_file(name).is_file()) == (set(), True)
    assert collect(study.folder, study.grid) == [name]


def test_two_collectors_write_the_same_bytes(study: SmallStudy) -> None:
    [name] = study.finish([study.phase(target="words")])
    files = (study.folder.record_file(name), study.folder.outcome_file(name))
    contents = []
    for _ in range(2):
        collect(study.folder, study.grid)
        contents.append([path.read_bytes() for path in files])
        files[0].unlink()
    assert contents[0] == contents[1]


def test_no_temporary_file_stays(study: SmallStudy) -> None:
    study.finish([study.phase(target="words")])
    collect(study.folder, study.grid)
    assert [path.name for path in study.folder.records.iterdir() if path.suffix not in (".json", ".safetensors")] == []


def test_outcomes_of_another_scorer_are_left_out_and_said(study: SmallStudy) -> None:
    [name] = study.finish([study.phase(target="pairs")])
    path = study.folder.phase(name) / "scores.json"
    path.write_text(path.read_text().replace("accuracy-1", "accuracy-2"))
    said: list[str] = []
    collect(study.folder, study.grid, notify=said.append)
    assert len(said) == 3
    assert "made by scorer accuracy-1, the scores by accuracy-2" in said[0]
    assert read_record(study.folder.record_file(name))["outcomes"] == ""


def test_languages_without_gold_labels_are_recorded_without_a_score(study: SmallStudy) -> None:
    [name] = study.finish([study.phase(target="pairs")], unlabelled=["sw"])
    collect(study.folder, study.grid)
    assert "accuracy" not in read_record(study.folder.record_file(name))["scores"]["pawsx"]["sw"]
    assert ("pawsx", "sw") not in read_outcome_file(study.folder.outcome_file(name))


def test_a_study_that_asks_for_more_sets_the_record_aside_until_it_is_there(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path)
    [name] = study.finish([study.phase(target="spans")])
    collect(study.folder, study.grid)
    targets = [{"name": "spans", "phase": {"task": "squad"}, "evaluate": ["xquad", "mlqa"]}]
    larger = SmallStudy.make(tmp_path, targets=targets)
    assert collect(larger.folder, larger.grid) == []
    assert name not in larger.folder.recorded()
    assert (larger.folder.records / "earlier" / f"{name}.json").is_file()
    larger.finish([larger.grid.phases[name]])
    assert collect(larger.folder, larger.grid) == [name]


def test_a_study_that_asks_for_less_keeps_its_records(tmp_path: Path) -> None:
    targets = [{"name": "spans", "phase": {"task": "squad"}, "evaluate": ["xquad", "mlqa"]}]
    study = SmallStudy.make(tmp_path, targets=targets)
    study.finish([study.phase(target="spans")])
    collect(study.folder, study.grid)
    targets[0]["evaluate"] = ["xquad"]
    smaller = SmallStudy.make(tmp_path, targets=targets)
    assert collect(smaller.folder, smaller.grid) == []
    assert len(smaller.folder.recorded()) == 1


def spoil(path: Path, kind: str) -> None:
    record = json.loads(path.read_text())
    changed: dict[str, Any] = {
        "another version": record | {"schema": 2},
        "without scores": {name: value for name, value in record.items() if name != "scores"},
        "a further field": record | {"mood": "good"},
        "scores of another type": record | {"scores": []},
        "without a seed": record | {"seeds": {}},
        "a list": [1, 2],
        "another phase": record | {"phase": "other"},
    }
    if kind == "half-written":
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.write_text(json.dumps(changed[kind]))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("half-written", "half-written or no JSON; remove it, and it is made again"),
        ("another version", "of schema version 2, this program reads 1"),
        ("without scores", "scores is missing"),
        ("a further field", "mood is no field"),
        ("scores of another type", "scores is of another type than dict"),
        ("without a seed", "seeds.intermediate is missing"),
        ("a list", "no record of a phase; move it"),
        ("another phase", "the record of other, under another name"),
    ],
)
def test_what_is_no_record_is_refused_by_name(study: SmallStudy, kind: str, message: str) -> None:
    [name] = study.finish([study.phase(target="pairs")])
    collect(study.folder, study.grid)
    path = study.folder.record_file(name)
    spoil(path, kind)
    with pytest.raises(UserError, match=message) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_among_many_an_unreadable_record_is_left_out_and_stays(study: SmallStudy) -> None:
    names = study.finish(study.phases(target="pairs")[:3])
    collect(study.folder, study.grid)
    paths = [study.folder.record_file(name) for name in names]
    spoil(paths[1], "half-written")
    records, problems = read_records(paths)
    assert [record["phase"] for record in records] == [names[0], names[2]]
    assert list(problems) == [paths[1]]
    assert paths[1].is_file()


def test_collecting_does_not_overwrite_an_unreadable_record(study: SmallStudy) -> None:
    [name] = study.finish([study.phase(target="pairs")])
    collect(study.folder, study.grid)
    spoil(study.folder.record_file(name), "another version")
    assert collect(study.folder, study.grid) == []
    assert collect(study.folder, study.grid, [name]) == []
    assert json.loads(study.folder.record_file(name).read_text())["schema"] == 2
