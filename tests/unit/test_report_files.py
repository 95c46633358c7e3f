"""Files of a report for papers and other programs: CSV, LaTeX, SVG, PDF."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from small_analysis import small_report

from xlt_scale.scaling.report.numbers import interval, plain, signed, significant
from xlt_scale.scaling.report.tables import cell_of, latex, latex_text, table_of_frame
from xlt_scale.scaling.results import Analysis


@pytest.fixture
def analysis() -> Analysis:
    return small_report()[0]


@pytest.fixture
def folder() -> Path:
    return small_report()[1].parent


def test_every_table_has_both_files(folder: Path) -> None:
    stems = {path.stem for path in (folder / "tables").glob("*.tex")}
    assert {"key", "groups-xlmr-base", "groups-xlmr-xxl", "slopes", "power", "collapse", "missing", "software"} <= stems
    assert stems <= {path.stem for path in (folder / "tables").glob("*.csv")}


def test_csv_files_hold_all_digits_and_anchors(analysis: Analysis, folder: Path) -> None:
    cells = pd.read_csv(folder / "tables" / "cells.csv", keep_default_na=False)
    assert np.array_equal(cells["gain"].to_numpy(float), analysis.cells["gain"].to_numpy(float))
    assert list(cells["anchor"]) == [f"cell-{place}" for place in range(len(cells))]
    groups = pd.read_csv(folder / "tables" / "groups-xlmr-xxl.csv")
    place = int(groups["anchor"].iloc[0].removeprefix("group-"))
    assert groups["gain"].iloc[0] == analysis.groups["gain"].iloc[place]
    records = pd.read_csv(folder / "tables" / "records.csv")
    assert list(records["file"]) == [f"../{analysis.results.record_paths[name]}" for name in records["record"]]


def test_scores_are_a_column_per_language(analysis: Analysis, folder: Path) -> None:
    scores = pd.read_csv(folder / "tables" / "scores.csv").set_index(["record", "task"])
    run = analysis.results.runs.iloc[7]
    assert scores.loc[(run["record"], run["task"]), run["language"]] == pytest.approx(run["score"], abs=1e-4)


def test_latex_tables_have_as_many_cells_in_every_row(folder: Path) -> None:
    for path in (folder / "tables").glob("*.tex"):
        text = path.read_text(encoding="utf-8")
        columns = re.search(r"\\begin\{(?:tabular|longtable)\}\{([lr]+)\}", text)
        assert columns is not None, path
        rows = [line for line in text.splitlines() if line.endswith(r" \\")]
        assert len(rows) > 1
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns[1])}, path
        assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
        for name in ("table", "tabular", "longtable"):
            assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}")


def test_latex_specials_are_escaped() -> None:
    assert latex_text("a_b & 50 % of $x #1 {y}~^\\") == (
        r"a\_b \& 50 \% of \$x \#1 \{y\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert latex_text("[1, 2]").startswith("{[}")
    frame = pd.DataFrame({"a_b": ["x&y"], "n": [1.5]})
    assert r"\textbf{a b} & \textbf{n}" in latex(table_of_frame("t", "T_1", "100 %", frame))


def test_long_tables_go_over_pages() -> None:
    frame = pd.DataFrame({"n": range(100)})
    assert r"\begin{longtable}{r}" in latex(table_of_frame("t", "T", "", frame))


def test_figures_are_wellformed_and_link_to_the_page(folder: Path) -> None:
    figures = sorted((folder / "figures").glob("*.svg"))
    assert len(figures) == 7
    for path in figures:
        tree = ElementTree.parse(path)
        links = [node.get("{http://www.w3.org/1999/xlink}href") for node in tree.iter("{http://www.w3.org/2000/svg}a")]
        assert links and all(link and link.startswith("../index.html#") for link in links)
        text = path.read_text(encoding="utf-8")
        assert "<text" in text and "<image" not in text and "dc:date" not in text
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_figures_have_a_title_a_description_and_named_links(folder: Path) -> None:
    svg = "{http://www.w3.org/2000/svg}"
    for path in (folder / "figures").glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        assert root.find(f"{svg}title") is not None and root.find(f"{svg}desc") is not None
        assert all(node.get("aria-label") for node in root.iter(f"{svg}a"))


def test_numbers_read_as_in_print() -> None:
    assert (signed(1.25), signed(-0.34), signed(-0.04), signed(float("nan"))) == ("+1.2", "−0.3", "0.0", "–")
    assert (plain(-0.04), interval(-0.5, 1.0), interval(float("nan"), 1.0)) == ("0.0", "[−0.5, 1.0]", "")
    assert [significant(value) for value in (3.0, 0.55, 12.345, -1234.5, 1e-7)] == [
        "3",
        "0.550",
        "12.3",
        "−1,234",
        "1e−07",
    ]


def test_values_of_any_type_are_shown() -> None:
    shown = [cell_of(value).text for value in (True, np.int64(3), None, ["a", "b"], np.float64("nan"))]
    assert shown == ["yes", "3", "", "a, b", "–"]
