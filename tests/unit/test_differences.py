"""From records to gains: pairing, missing runs, scales, and all languages at once."""

from dataclasses import replace

import numpy as np
import pytest

from xlt_scale.scaling.results import StudyResults
from xlt_scale.scaling.statistics.differences import (
    TaskDifferences,
    cell_estimates,
    linear_log_errors,
    study_differences,
)
from xlt_scale.scaling.statistics.effects import Scale, combine
from xlt_scale.scaling.statistics.simulation import ArrayItems, TaskTruth, Truth, simulate_study, without_runs

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def draw_study(truth: Truth | None = None, seed: int = 1) -> StudyResults:
    return simulate_study(truth or Truth(), np.random.default_rng(seed))


def only(results: StudyResults, size: str = "large") -> TaskDifferences:
    return next(one for one in study_differences(results) if one.size == size)


def array_items(results: StudyResults) -> ArrayItems:
    assert isinstance(results.items, ArrayItems)
    return results.items


def test_scores_are_paired_by_seeds() -> None:
    results = draw_study()
    differences = only(results)
    runs = results.runs.set_index(["record", "language"])["score"]
    for row, (base, arm) in enumerate(differences.records):
        assert base.replace("baseline", "nli") == arm
        for column, language in enumerate(differences.languages):
            assert differences.base[row, column] == runs[base, language]
            assert differences.with_arm[row, column] == runs[arm, language]


def test_item_gains_average_to_gains() -> None:
    differences = only(draw_study())
    scales: tuple[Scale, ...] = ("points", "log error")
    for scale in scales:
        means = np.stack([own.mean(axis=1) for own in differences.items(scale)], axis=1)
        assert means == pytest.approx(differences.gains(scale), abs=1e-4)


@pytest.mark.parametrize("is_parallel", [True, False])
def test_all_languages_at_once_are_each_language_alone(is_parallel: bool) -> None:
    differences = only(draw_study(Truth(tasks=(TaskTruth(is_parallel=is_parallel),))))
    scales: tuple[Scale, ...] = ("points", "log error")
    for scale in scales:
        cells = cell_estimates(differences, scale)
        for language in differences.languages:
            alone, cell = combine([(1.0, differences.effect({language: 1.0}, scale))]), cells.estimate(language)
            assert cell.value == pytest.approx(alone.value)
            assert cell.standard_error == pytest.approx(alone.standard_error, rel=1e-4)
            assert cell.interval() == pytest.approx(alone.interval(), rel=1e-4, abs=1e-5)
            row = differences.languages.index(language)
            assert cells.columns()["p"][row] == pytest.approx(cell.p_value())


def test_a_task_that_is_not_parallel_has_a_population_of_items_per_language() -> None:
    differences = only(draw_study(Truth(tasks=(TaskTruth(is_parallel=False),))))
    weighted = differences.effect({"en": 0.5, "de": 0.5})
    assert set(weighted.items) == {"xnli/en", "xnli/de"}


def test_languages_with_different_numbers_of_items_are_not_parallel() -> None:
    results = draw_study()
    source = array_items(results)
    arrays = {**source.arrays, ("xnli", "sw"): source.arrays["xnli", "sw"][:, :100]}
    assert not only(replace(results, items=replace(source, arrays=arrays))).is_parallel


def test_one_baseline_record_stands_for_all_pairs_of_a_target_that_is_not_trained() -> None:
    differences = only(draw_study(Truth(tasks=(TaskTruth(is_retrieval=True),))))
    assert differences.pairs == ((0, -1), (1, -1), (2, -1))
    assert len(set(differences.base_records)) == 1
    assert combine([(1.0, differences.effect({"en": 1.0}))]).num_clusters == 3


def test_runs_without_a_counterpart_are_passed_over() -> None:
    results = without_runs(draw_study(), 0.4, np.random.default_rng(3))
    names = set(results.runs["record"])
    for differences in study_differences(results):
        for base, arm in differences.records:
            assert {base, arm} <= names
        expected = {name for name in names if ".nli." in name and name.replace(".nli.", ".baseline.") in names}
        assert set(differences.arm_records) == {name for name in expected if name.startswith(differences.size + ".")}


def test_a_pair_that_lacks_a_language_is_left_out_and_named() -> None:
    results = draw_study()
    runs = results.runs
    lost = (runs["record"] == "large.nli.xnli.i1.t0") & (runs["language"] == "sw")
    differences = only(replace(results, runs=runs[~lost]))
    assert differences.left_out == ((1, 0),)
    assert len(differences.languages) == 3


def test_records_without_item_outcomes_are_judged_by_seeds() -> None:
    results = draw_study()
    bare = replace(results, items=replace(array_items(results), rows={"xnli": {}}))
    estimate = combine([(1.0, only(bare).effect({"en": 1.0}))])
    assert estimate.item_variance == 0.0
    assert estimate.seed_variance > 0.0


def test_two_records_of_one_run_are_refused() -> None:
    results = draw_study()
    runs = results.runs.copy()
    runs.loc[runs["record"] == "large.nli.xnli.i1.t1", "target_seed"] = 0
    with pytest.raises(ValueError, match="several records of one run"):
        list(study_differences(replace(results, runs=runs)))


def test_a_checkpoint_rule_has_to_be_chosen_where_there_are_two() -> None:
    results = draw_study()
    runs = results.runs.copy()
    runs.loc[runs["size"] == "xl", "rule"] = "best"
    both = replace(results, runs=runs)
    with pytest.raises(ValueError, match="best, last"):
        list(study_differences(both))
    assert {one.size for one in study_differences(both, "best")} == {"xl"}


def test_a_language_that_was_not_scored_is_refused() -> None:
    with pytest.raises(KeyError, match="fi"):
        only(draw_study()).effect({"fi": 1.0})


def test_log_errors_of_a_run_without_an_error_stop_at_half_an_item() -> None:
    values = linear_log_errors(np.full((1, 50), 100.0, np.float32), np.array([100.0]))
    assert values == pytest.approx(np.log(1.0), abs=1e-5)


def test_linear_log_errors_vary_as_resampled_log_errors_do() -> None:
    rng = np.random.default_rng(5)
    items = np.where(rng.random((1, 500)) < 0.8, 100.0, 0.0).astype(np.float32)
    drawn = items[0][rng.integers(0, 500, (4000, 500))].mean(axis=1)
    linear = linear_log_errors(items, items.mean(axis=1))
    assert linear.std() / np.sqrt(500) == pytest.approx(np.log(100.0 - drawn).std(), rel=0.06)
