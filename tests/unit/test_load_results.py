"""What the analysis gets of a study's records."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_records import LANGUAGES, NUM_ITEMS, SmallStudy

from xlt_scale.scaling.grid.design import design
from xlt_scale.scaling.grid.search import SearchCell
from xlt_scale.scaling.records.collect import collect
from xlt_scale.scaling.records.load_results import load_results
from xlt_scale.scaling.records.trials import choices, search_trials
from xlt_scale.scaling.results import RUN_COLUMNS, StudyResults


def finished(root: Path, **changes: Any) -> SmallStudy:
    study = SmallStudy.make(root, **changes)
    study.finish(study.grid.phases.values())
    collect(study.folder, study.grid)
    return study


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """A study that is done."""
    return finished(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def results(whole: SmallStudy) -> StudyResults:
    return load_results(whole.folder, whole.grid)


def test_there_is_a_row_per_record_task_and_language(whole: SmallStudy, results: StudyResults) -> None:
    assert list(results.runs.columns) == list(RUN_COLUMNS)
    assert len(results.runs) == len(whole.phases(role="target")) * len(LANGUAGES)
    assert not results.runs.duplicated(["record", "task", "language"]).any()


def test_the_mean_of_item_values_is_the_score_of_every_run(results: StudyResults) -> None:
    for (task, language), rows in results.runs.groupby(["task", "language"]):
        values = results.items.values(list(rows["record"]), str(task), str(language))
        assert values.shape == (len(rows), NUM_ITEMS)
        assert np.allclose(values.mean(axis=1, dtype=float), rows["score"], atol=1e-3)


def test_item_values_come_in_the_order_that_they_are_asked_for(results: StudyResults) -> None:
    records = list(results.runs.query("task == 'udpos' and language == 'de'")["record"])
    forth, back = (results.items.values(names, "udpos", "de") for names in (records, records[::-1]))
    assert np.array_equal(forth, back[::-1])


def test_asking_for_items_that_are_not_there_is_a_key_error(results: StudyResults) -> None:
    record = results.runs["record"].iloc[0]
    with pytest.raises(KeyError):
        results.items.values([record], "xnli", "fr")


def test_runs_stand_where_the_grid_has_them(whole: SmallStudy, results: StudyResults) -> None:
    for row in results.runs.itertuples():
        phase = whole.grid.phases[str(row.record)]
        assert (row.size, row.arm, row.target) == (phase.size, phase.arm, phase.target)
        assert (row.intermediate_seed, row.target_seed) == phase.pair


def test_the_baseline_scored_as_it_is_stands_for_every_pair(results: StudyResults) -> None:
    rows = results.runs.query("arm == 'none' and target == 'sentences'")
    assert set(zip(rows["intermediate_seed"], rows["target_seed"], strict=True)) == {(-1, -1)}


def test_languages_that_were_trained_are_marked(results: StudyResults) -> None:
    rows = results.runs.query("target == 'pairs'")
    assert set(rows[rows["is_trained_language"]]["language"]) == {"en"}


def test_cells_of_shared_data_are_marked(results: StudyResults) -> None:
    flagged = results.runs[results.runs["same_data"] != ""]
    assert set(zip(flagged["arm"], flagged["target"], strict=True)) == {("questions", "spans")}


def test_hours_of_the_arm_are_those_of_its_own_phases(results: StudyResults) -> None:
    assert results.runs.query("arm == 'none'")["arm_gpu_hours"].unique().tolist() == [0.0]
    assert results.runs.query("arm == 'inference'")["arm_gpu_hours"].unique() == pytest.approx([0.01])


def test_losses_are_those_at_the_ends_of_the_target_phase(results: StudyResults) -> None:
    row = results.runs.query("target == 'pairs'").iloc[0]
    assert (row["first_loss"], row["last_loss"]) == (0.4, 0.1)
    assert results.runs.query("target == 'sentences'")["first_loss"].isna().all()


def test_curves_go_from_the_first_step_to_the_last(results: StudyResults) -> None:
    curves = results.curves
    assert curves["share"].max() == 1.0
    assert set(curves["target"]) == {"", "pairs", "spans", "words"}
    assert set(curves.query("target == ''")["phase"]) == {"mnli", "squad"}


def test_software_counts_records(whole: SmallStudy, results: StudyResults) -> None:
    rows = results.software.set_index("name")
    assert rows.loc["torch", ["value", "records"]].tolist() == ["2.13.0", len(whole.grid.phases)]


def test_a_finished_study_misses_nothing(results: StudyResults) -> None:
    assert results.missing.empty


def test_record_paths_lead_to_the_files(whole: SmallStudy, results: StudyResults) -> None:
    assert all((whole.folder.root / path).is_file() for path in results.record_paths.values())


def test_runs_without_a_record_are_missing_with_the_reason(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path)
    study.finish(study.phases(size="micro-tiny", target="pairs"))
    collect(study.folder, study.grid)
    phase = study.phase(size="micro-small", target="words", arm="none")
    events = [
        {"event": "job started", "job": "one", "phases": [phase.name]},
        {"event": "job failed", "job": "one", "reason": "no space left"},
    ]
    study.folder.events_file.write_text("".join(json.dumps(event) + "\n" for event in events))
    missing = load_results(study.folder, study.grid).missing
    assert len(missing) == len(study.phases(role="target")) - 12
    assert set(missing["why"]) == {"not run yet", "failed: no space left"}


def test_languages_without_gold_labels_are_left_out_and_said(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path)
    study.finish(study.phases(target="pairs"), unlabelled=["sw"])
    collect(study.folder, study.grid)
    said: list[str] = []
    runs = load_results(study.folder, study.grid, said.append).runs
    assert set(runs["language"]) == {"en", "de"}
    assert said == ["pawsx: no gold labels in sw; left out"]


def test_scores_of_an_older_scorer_are_not_compared_with_newer_ones(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path)
    names = study.finish(study.phases(target="pairs")[:4])
    collect(study.folder, study.grid)
    path = study.folder.record_file(names[0])
    path.write_text(path.read_text().replace("accuracy-1", "accuracy-0"))
    said: list[str] = []
    runs = load_results(study.folder, study.grid, said.append).runs
    assert set(runs["record"]) == set(names[1:])
    assert "by another scorer than accuracy-1" in said[0]


def test_records_that_the_plan_has_no_more_are_left_out(whole: SmallStudy) -> None:
    smaller = SmallStudy.make(whole.folder.root, seeds={"intermediate": [1], "target": [1]})
    runs = load_results(smaller.folder, smaller.grid).runs
    assert set(runs["record"]) == {phase.name for phase in smaller.phases(role="target")}


def test_languages_that_the_plan_has_no_more_are_left_out(tmp_path: Path) -> None:
    study = finished(tmp_path)
    fewer = SmallStudy.make(tmp_path, target={"steps": 20, "evaluate_languages": ["de", "en"]})
    assert set(load_results(study.folder, fewer.grid).runs["language"]) == {"de", "en"}


def test_a_renamed_arm_keeps_its_runs(tmp_path: Path) -> None:
    study = finished(tmp_path)
    arms = [{"name": "none"}, {"name": "NLI", "phases": [{"task": "mnli"}]}]
    renamed = SmallStudy.make(tmp_path, arms=arms)
    runs = load_results(renamed.folder, renamed.grid).runs
    assert len(runs.query("arm == 'NLI'")) == len(
        load_results(study.folder, study.grid).runs.query("arm == 'inference'")
    )


def test_a_study_without_records_has_empty_tables(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path)
    results = load_results(study.folder, study.grid)
    assert (len(results.runs), len(results.curves), len(results.software)) == (0, 0, 0)
    assert list(results.runs.columns) == list(RUN_COLUMNS)


SEARCH = {"learning_rates": [1e-5, 1e-4], "seeds": [901, 902]}


def test_a_search_chooses_the_rate_with_the_best_dev_scores_of_the_source_language(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path, search=SEARCH)
    study.finish(study.phases(size="micro-tiny", role="search", arm="none", target="pairs"))
    collect(study.folder, study.grid)
    trials = search_trials(study.folder, study.grid)
    assert len(trials) == 4
    [(cell, choice)] = choices(study.folder, study.study).items()
    assert cell == SearchCell("micro-tiny", "none", "pairs")
    means = {rate: np.mean([one.score for one in trials if one.learning_rate == rate]) for rate in (1e-5, 1e-4)}
    assert choice.learning_rate == max(means, key=lambda rate: means[rate])


def test_a_cell_has_no_choice_before_its_last_trial(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path, search=SEARCH)
    study.finish(study.phases(size="micro-tiny", role="search", arm="none", target="pairs")[1:])
    collect(study.folder, study.grid)
    assert choices(study.folder, study.grid) == {}


def test_a_rate_per_size_takes_the_trials_of_all_arms(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path, search={**SEARCH, "per": "size"})
    study.finish(study.phases(size="micro-tiny", role="search", target="pairs"))
    collect(study.folder, study.grid)
    [(cell, choice)] = choices(study.folder, study.grid).items()
    assert (cell.arm, choice.num_trials) == ("", 12)


def test_the_record_of_a_searched_run_says_so(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path, search=SEARCH)
    study.finish(study.phases(role="search", size="micro-tiny", arm="none", target="pairs"))
    collect(study.folder, study.grid)
    found = SmallStudy(study.study, design(study.study, choices(study.folder, study.study)), study.folder)
    [name] = found.finish([found.phase(role="target", target="pairs")])
    collect(found.folder, found.grid)
    record = json.loads(found.folder.record_file(name).read_text())
    assert record["search"] == {"learning_rates": [1e-5, 1e-4], "trials": 4, "per": "arm", "is_trial": False}


def test_runs_that_wait_for_the_search_are_missing_too(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path, search=SEARCH)
    why = load_results(study.folder, study.grid).missing["why"]
    assert (why == "the search has not chosen its learning rate yet").sum() == study.grid.waiting
