"""The table of all scores, for any other program."""

import re
from pathlib import Path

import pandas as pd
import pytest
from small_records import LANGUAGES, SmallStudy

from xlt_scale.errors import UserError
from xlt_scale.scaling.records.collect import collect
from xlt_scale.scaling.records.export import EXPORT_COLUMNS, export_study
from xlt_scale.scaling.records.load_results import load_results

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """One size is done."""
    study = SmallStudy.make(tmp_path_factory.mktemp("study"))
    study.finish(study.phases(size="micro-tiny"))
    collect(study.folder, study.grid)
    return study


@pytest.fixture(scope="module")
def table(study: SmallStudy) -> pd.DataFrame:
    path = study.folder.root / "scores.parquet"
    export_study(study.folder, study.grid, path)
    return pd.read_parquet(path)


def test_there_is_a_row_per_record_task_language_and_metric(table: pd.DataFrame) -> None:
    assert list(table.columns) == list(EXPORT_COLUMNS)
    assert not table.duplicated(["record", "task", "language", "metric"]).any()
    assert set(table["language"]) == set(LANGUAGES)
    assert {"f1", "exact_match"} <= set(table.query("task == 'xquad'")["metric"])


def test_headlines_are_the_scores_of_the_analysis(study: SmallStudy, table: pd.DataFrame) -> None:
    keys = ["record", "task", "language"]
    runs = load_results(study.folder, study.grid).runs.set_index(keys)["score"]
    headlines = table[table["is_headline"]].astype(dict.fromkeys(keys, str)).set_index(keys)["value"]
    pd.testing.assert_series_equal(runs.sort_index(), headlines.sort_index(), check_names=False, check_index_type=False)


def test_rows_are_in_the_order_of_the_grid(study: SmallStudy, table: pd.DataFrame) -> None:
    scored = [name for name, phase in study.grid.phases.items() if phase.options.evaluate]
    records = list(dict.fromkeys(table["record"]))
    assert records == [name for name in scored if name in set(records)]


def test_a_csv_file_has_the_same_rows(study: SmallStudy, table: pd.DataFrame) -> None:
    path = study.folder.root / "tables" / "scores.csv"
    assert export_study(study.folder, study.grid, path) == len(table)
    found = pd.read_csv(path, keep_default_na=False, na_values={"chance": ""})
    assert list(found.columns) == list(EXPORT_COLUMNS)
    assert found["value"].to_numpy() == pytest.approx(table["value"].to_numpy())
    assert found["arm"].tolist() == table["arm"].tolist()


def test_a_renamed_arm_has_its_new_name(study: SmallStudy) -> None:
    arms = [{"name": "none"}, {"name": "NLI", "phases": [{"task": "mnli"}]}]
    renamed = SmallStudy.make(study.folder.root, arms=arms)
    path = study.folder.root / "renamed.parquet"
    export_study(renamed.folder, renamed.grid, path)
    assert set(pd.read_parquet(path)["arm"]) == {"none", "NLI"}


def test_another_ending_is_refused(study: SmallStudy) -> None:
    with pytest.raises(UserError, match=r"ends with .parquet or .csv"):
        export_study(study.folder, study.grid, Path("scores.xlsx"))


def test_a_study_without_records_is_a_table_without_rows(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path)
    assert export_study(study.folder, study.grid, tmp_path / "scores.csv") == 0
    assert (tmp_path / "scores.csv").read_text().startswith('"study","record"')


def test_the_page_has_the_columns() -> None:
    page = (ROOT / "docs" / "records.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page.split("## Export")[1], re.MULTILINE))
    assert rows == EXPORT_COLUMNS
