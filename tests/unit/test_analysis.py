"""The whole analysis: every table is there, traceable and reproducible, with the numbers it was made with."""

from dataclasses import fields, replace

import pandas as pd
import pytest
from small_studies import SIZES, TARGETS, log_decades, make_results

from xlt_scale.scaling.analysis.analysis import analyse
from xlt_scale.scaling.analysis.cost_of_gain import hours_unit
from xlt_scale.scaling.results import CELL_COLUMNS, GROUP_COLUMNS, SLOPE_COLUMNS, Analysis, StudyResults


@pytest.fixture(scope="module")
def results() -> StudyResults:
    return make_results(lambda size, *_: 3.0 - log_decades(size), same_data={("inference", "pairs"): "same"})


@pytest.fixture(scope="module")
def analysis(results: StudyResults) -> Analysis:
    return analyse(results, num_draws=100)


def test_the_same_results_give_the_same_analysis(results: StudyResults, analysis: Analysis) -> None:
    again = analyse(results, num_draws=100)
    assert again.answer == analysis.answer
    for name in (field.name for field in fields(Analysis)):
        value = getattr(analysis, name)
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, getattr(again, name))


def test_positions_of_cells_point_into_the_table_of_cells(analysis: Analysis) -> None:
    for row in analysis.groups.itertuples():
        own = analysis.cells.iloc[row.cells]
        assert len(own) == row.num_cells
        assert set(own["size"]) == {row.size} and set(own["arm"]) == {row.arm}


def test_permutation_tests_are_of_headline_groups_and_tasks(analysis: Analysis) -> None:
    tested = analysis.groups.loc[analysis.groups["p_permutation"].notna(), "group_kind"]
    assert set(tested) == {"headline", "target group", "task"}


def test_costs_are_gain_over_the_hours_of_one_seed(analysis: Analysis) -> None:
    row = analysis.costs.set_index(["size", "arm"]).loc[("small", "questions")]
    assert row["gpu_hours"] == pytest.approx(2.0 + 2 * 0.5)
    assert row["points_per_gpu_hour"] == pytest.approx(row["gain"] / 3.0)
    assert "none" not in set(analysis.costs["arm"])


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("NVIDIA H200", "GPU hours"),
        ("Tesla V100-SXM2-32GB", "GPU hours"),
        ("AMD Instinct MI300X", "GPU hours"),
        ("cpu", "processor hours"),
        ("AMD EPYC 9B14", "processor hours"),
        ("AMD Ryzen 7 with Radeon Graphics", "processor hours"),
    ],
)
def test_hours_are_named_after_the_device(results: StudyResults, name: str, unit: str) -> None:
    rows = [("accelerate", "1.0", 180), ("device", name, 180), ("engine", "plain", 180)]
    software = pd.DataFrame(rows, columns=["name", "value", "records"])
    assert hours_unit(replace(results, software=software)) == unit


def test_power_names_what_the_plan_can_detect(analysis: Analysis) -> None:
    slopes = analysis.power[analysis.power["quantity"] == "minimum detectable slope"]
    assert {"overall", "classification", "qa"} == set(slopes["group"])
    assert (slopes["value"] > 0).all()


def test_methods_name_their_sources_and_this_studys_counts(analysis: Analysis) -> None:
    text = " ".join(analysis.methods)
    for source in ("Satterthwaite", "Sellam et al. 2021", "Agarwal et al. 2021", "Holm", "Benjamini and Hochberg"):
        assert source in text.replace("'s", "")
    for number in ("3 sizes", "2 arms", "4 languages", "60 test items", "180 records", "100 draws"):
        assert number in text
    planned = int((analysis.groups["group_kind"] == "task").sum())
    assert f"the {planned} planned tests" in text and f"the {len(analysis.cells)} exploratory tests" in text


def test_options_say_what_the_numbers_were_made_with(analysis: Analysis) -> None:
    assert analysis.options == {"num_draws": 100, "level": 0.05, "seed": 0, "rule": "last"}


def test_of_several_checkpoint_rules_one_is_used_and_named(results: StudyResults) -> None:
    best = results.runs.assign(rule="best", record=results.runs["record"] + "-best", score=results.runs["score"] + 1)
    records = {}
    for record in results.runs["record"]:
        records[f"{record}-best"] = record

    class Items:
        def values(self, names, task, language):  # type: ignore[no-untyped-def]
            return results.items.values([records.get(name, name) for name in names], task, language)

    both = replace(results, runs=pd.concat([results.runs, best], ignore_index=True), items=Items())
    found = analyse(both, num_draws=10)
    assert found.options["rule"] == "best"
    assert any("2 checkpoint rules" in note for note in found.notes)


def test_a_target_group_of_another_order_is_named() -> None:
    found = analyse(make_results(lambda size, arm, target, _: 30.0 if target.group == "qa" else 1.0), num_draws=10)
    assert any("of another order" in note for note in found.notes)


def test_a_line_over_fewer_cells_is_noted() -> None:
    lacking = lambda runs: runs[~((runs["size"] == "large") & (runs["target"] == "pairs"))]  # noqa: E731
    found = analyse(make_results(1.0, adjust=lacking), num_draws=10)
    assert any("uses 3 of 6 cells" in note for note in found.notes)


def test_items_that_are_not_known_leave_seeds_and_a_note() -> None:
    results = make_results(1.0, sizes=SIZES[:1])

    class NoItems:
        def values(self, records, task, language):  # type: ignore[no-untyped-def]
            raise KeyError(task)

    found = analyse(replace(results, items=NoItems()), num_draws=10)
    assert any("No outcomes item by item" in note for note in found.notes)
    assert (found.groups.loc[found.groups["group_kind"] == "headline", "seed_share"] == 1.0).all()


def test_a_target_without_training_has_no_target_seeds() -> None:
    retrieval = replace(TARGETS[1], trained="", languages=())

    def untrain(runs: pd.DataFrame) -> pd.DataFrame:
        is_retrieval = runs["target"] == "spans"
        kept = runs[~is_retrieval | (runs["target_seed"] == 0)]
        is_retrieval = kept["target"] == "spans"
        return kept.assign(
            target_seed=kept["target_seed"].where(~is_retrieval, -1),
            is_trained_language=kept["is_trained_language"] & ~is_retrieval,
        )

    found = analyse(make_results(2.0, targets=(TARGETS[0], retrieval), adjust=untrain), num_draws=10)
    heads = found.groups[found.groups["group_kind"] == "headline"]
    assert heads["gain"].to_numpy() == pytest.approx(2.0, abs=0.6)
    assert heads["p"].notna().all()


def test_empty_tables_keep_their_columns() -> None:
    found = analyse(make_results(1.0, adjust=lambda runs: runs.iloc[:0]), num_draws=10)
    assert list(found.cells.columns) == list(CELL_COLUMNS)
    assert list(found.groups.columns) == list(GROUP_COLUMNS)
    assert list(found.slopes.columns) == list(SLOPE_COLUMNS)
