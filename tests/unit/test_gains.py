"""From records to cells and groups: which runs are paired, which cells averaged, and with which weights."""

import numpy as np
import pandas as pd
import pytest
from small_studies import ARMS, SIZES, TARGETS, log_decades, make_results

from xlt_scale.scaling.analysis.gains import StudyGains, one_arm
from xlt_scale.scaling.analysis.grouping import HEADLINE, GroupKey, nested_weights
from xlt_scale.scaling.analysis.multiplicity import adjust, num_tests
from xlt_scale.scaling.analysis.tables import cell_positions, cells_table, groups_table
from xlt_scale.scaling.results import CELL_COLUMNS, GROUP_COLUMNS, StudyResults
from xlt_scale.scaling.statistics.effects import combine

SHARED = {("inference", "pairs"): "the same training data"}


def tables(results: StudyResults) -> tuple[pd.DataFrame, pd.DataFrame]:
    gains = StudyGains(results)
    cells = cells_table(gains)
    return cells, groups_table(gains, cell_positions(cells), 50)


@pytest.fixture(scope="module")
def study() -> StudyResults:
    return make_results(lambda size, arm, target, language: 3.0 - log_decades(size), same_data=SHARED)


@pytest.fixture(scope="module")
def made(study: StudyResults) -> tuple[pd.DataFrame, pd.DataFrame]:
    return tables(study)


def test_tables_have_the_columns_that_the_report_reads(made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    cells, groups = made
    assert list(cells.columns) == list(CELL_COLUMNS)
    assert list(groups.columns) == list(GROUP_COLUMNS)


def test_a_cell_names_the_records_of_both_its_sides(
    study: StudyResults, made: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    names = {name for records in made[0]["records"] for pair in records for name in pair}
    assert names <= set(study.record_paths)
    base, with_arm = made[0]["records"].iloc[0][0]
    assert "-none-" in base and "-none-" not in with_arm


def test_a_groups_scores_are_the_nested_mean_of_the_cells_it_names(made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    cells, groups = made
    group_of = {target.name: target.group for target in TARGETS}
    for row in groups[groups["group_kind"] != "gap"].itertuples():
        own = cells.iloc[row.cells].assign(group=lambda frame: frame["target"].map(group_of))
        for column in ("base", "with_arm"):
            of_tasks = own.groupby(["group", "task", "target"])[column].mean()
            of_groups = of_tasks.groupby(["group", "task"]).mean().groupby("group").mean()
            assert getattr(row, column) == pytest.approx(of_groups.mean())
        assert row.gain == pytest.approx(row.with_arm - row.base)


def test_cells_of_shared_data_are_shown_but_not_averaged(made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    cells, groups = made
    flagged = set(cells.index[cells["same_data"] != ""])
    assert len(flagged) == len(SIZES) * 4
    assert not flagged & {place for places in groups["cells"] for place in places}
    heads = groups[groups["group_kind"] == "headline"].set_index(["size", "arm"])
    assert heads.loc[("small", "inference"), "num_excluded"] == 3
    assert heads.loc[("small", "questions"), "num_excluded"] == 0


def test_trained_languages_stand_apart_from_zero_shot_means(made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    cells, groups = made
    headline = groups[groups["group_kind"] == "headline"].iloc[0]
    trained = groups[groups["group_kind"] == "trained"].iloc[0]
    assert "en" not in set(cells.iloc[headline["cells"]]["language"])
    assert set(cells.iloc[trained["cells"]]["language"]) == {"en"}


def test_a_target_scored_in_its_trained_language_only_is_averaged_over_that() -> None:
    _, groups = tables(make_results(2.0, languages=["en"]))
    assert (groups[groups["group_kind"] == "headline"]["num_cells"] == 2).all()


def test_the_gap_is_the_trained_languages_gain_minus_the_others() -> None:
    study = make_results(lambda size, arm, target, language: 5.0 if language == "en" else 2.0, seed_noise=0.05)
    _, groups = tables(study)
    assert groups[groups["group_kind"] == "gap"]["gain"].to_numpy() == pytest.approx(3.0, abs=0.2)


def test_a_target_group_with_many_tasks_counts_no_more_in_the_headline() -> None:
    gains = StudyGains(make_results(1.0))
    cells = [cell for cell in gains.cells("small", "questions") if cell.language != "en"]
    weights = nested_weights([*cells, *[cell for cell in cells if cell.group == "qa"]])
    of_groups = {
        group: sum(weights[c.identity] for c in cells if c.group == group) for group in ("classification", "qa")
    }
    assert of_groups["classification"] == pytest.approx(0.5)


def test_a_group_has_the_estimate_of_all_its_run_pairs_and_items(study: StudyResults) -> None:
    gains = StudyGains(study)
    found = gains.members("small", "questions", HEADLINE)
    assert found is not None
    terms = []
    for (target, task), unit in gains.units("small", "questions").items():
        weights = {name[2]: weight for name, weight in found.weights.items() if name[:2] == (target, task)}
        terms.append((1.0, unit.effect(weights)))
    expected = combine(terms)
    summary = gains.summary("small", one_arm("questions", found))
    assert summary is not None
    assert summary.value == pytest.approx(expected.value)
    assert summary.seed_variance == pytest.approx(expected.seed_variance)
    assert summary.num_pairs == expected.num_pairs
    row = tables(study)[1].set_index(["size", "arm", "group_kind"]).loc[("small", "questions", "headline")]
    assert row["standard_error"] == pytest.approx(expected.standard_error, rel=1e-4)


def test_a_line_compares_sizes_on_the_cells_that_all_of_them_have() -> None:
    study = make_results(1.0, adjust=lambda runs: runs[~((runs["size"] == "large") & (runs["target"] == "pairs"))])
    gains = StudyGains(study)
    shared = gains.shared_cells("questions", HEADLINE, [size.name for size in SIZES])
    assert {name[0] for name in shared} == {"spans"}


def test_holm_and_benjamini_hochberg_are_over_the_planned_and_the_explored(
    made: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    cells, groups = made
    tasks = groups["group_kind"] == "task"
    assert groups.loc[~tasks, "p_holm"].isna().all()
    values = np.sort(groups.loc[tasks, "p"].to_numpy(float))
    by_hand = np.maximum.accumulate(values * np.arange(len(values), 0, -1)).clip(max=1.0)
    assert np.sort(groups.loc[tasks, "p_holm"].to_numpy(float)) == pytest.approx(by_hand)
    p = np.sort(cells["p"].to_numpy(float))
    by_hand = np.minimum.accumulate((p * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1].clip(max=1.0)
    assert np.sort(cells["p_bh"].to_numpy(float)) == pytest.approx(by_hand)


def test_adjusting_leaves_out_what_could_not_be_tested() -> None:
    assert adjust([0.01, np.nan, 0.04], "holm") == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert num_tests([0.01, np.nan, 0.04]) == 2
    assert np.isnan(adjust([np.nan], "fdr_bh")).all()


def test_groups_are_found_by_family_and_by_what_pretraining_saw() -> None:
    keys = StudyGains(make_results(1.0)).group_keys()
    assert GroupKey("family", "Niger-Congo", "all") in keys
    assert GroupKey("seen", "seen", "xnli") in keys
    assert not [key for key in keys if key.group == "unseen"]
    assert ARMS[0].name not in StudyGains(make_results(1.0)).arms
