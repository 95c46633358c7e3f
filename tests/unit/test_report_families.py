"""The report of a study with sizes of several architecture families: what it shows, and how it looks in a browser."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import chromium, open_at
from small_families import GEMMA, QWEN, REMBERT, XLM_R, families_study
from small_studies import LANGUAGES, TARGETS, TASKS

from xlt_scale.scaling.analysis.analysis import analyse
from xlt_scale.scaling.report import write_report
from xlt_scale.scaling.results import StudyResults

SIZES = (*XLM_R, *QWEN[::3], *GEMMA[::2], REMBERT)
LEVELS = {"XLM-R": 4.0, "Qwen3": 6.0, "Gemma 3": 1.5, "RemBERT": 2.0}
# Texts of one figure that lie over one another, by what they say.
OVERLAPPING = """
const found = [];
for (const figure of document.querySelectorAll('figure')) {
  const texts = [...figure.querySelectorAll('svg text')].filter(t => t.textContent.trim());
  const boxes = texts.map(t => t.getBoundingClientRect());
  for (let a = 0; a < boxes.length; a++) for (let b = a + 1; b < boxes.length; b++) {
    const across = Math.min(boxes[a].right, boxes[b].right) - Math.max(boxes[a].left, boxes[b].left);
    const down = Math.min(boxes[a].bottom, boxes[b].bottom) - Math.max(boxes[a].top, boxes[b].top);
    if (across > 1 && down > 3) found.push(figure.id + ': ' + texts[a].textContent + ' | ' + texts[b].textContent);
  }
}
return found;
"""


def with_curves(results: StudyResults) -> StudyResults:
    """A learning curve for every run, and costs that grow with size."""
    heads = results.runs.drop_duplicates("record")
    curves = [
        (row.record, row.size_name, row.arm, row.target, "phase", step, step / 20, 1.0 / step, np.nan)
        for row in heads.rename(columns={"size": "size_name"}).itertuples()
        for step in (5, 10, 20)
    ]
    hours = {size.name: size.num_parameters / 1e9 for size in results.facts.sizes}
    runs = results.runs.assign(arm_gpu_hours=results.runs["size"].map(hours) * (results.runs["arm"] != "none"))
    return replace(results, runs=runs, curves=pd.DataFrame(curves, columns=results.curves.columns))


@pytest.fixture(scope="module")
def report() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="families_report_"))
    results = families_study(
        LEVELS,
        {"XLM-R": -1.0, "Qwen3": -1.2, "Gemma 3": -0.8, "RemBERT": 0.0},
        sizes=SIZES,
        targets=TARGETS[:1],
        tasks=TASKS[:1],
        languages=LANGUAGES[:1] + LANGUAGES[2:],
        pairs=[(seed, 0) for seed in range(3)],
        num_items=30,
    )
    yield write_report(analyse(with_curves(results), num_draws=20), folder / "report")
    shutil.rmtree(folder)


def rows_of(text: str, title: str) -> list[list[str]]:
    """Cells of the first table below a heading."""
    part = text.split(f"<h2>{title}</h2>")[1].split("</table>")[0]
    rows = re.findall(r"<tr.*?</tr>", part, re.DOTALL)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


def test_the_first_table_has_every_size_under_its_family_with_both_counts(report: Path) -> None:
    rows = rows_of(report.read_text(), "Gains in short")
    assert rows[0][:4] == ["family", "size", "billions, all", "without embeddings"]
    assert [row[:2] for row in rows[1 : 1 + len(SIZES)]] == [[size.family, size.name] for size in SIZES]
    assert rows[4][2:4] == ["10.7", "9.67"]
    assert [row[0] for row in rows[1 + len(SIZES) :]] == [
        name for name in ("XLM-R", "Qwen3", "Gemma 3", "all, one slope") for _ in range(2)
    ]


def test_a_table_gives_each_family_its_slope_and_the_one_they_share(report: Path) -> None:
    rows = rows_of(report.read_text(), "By architecture family")
    assert [row[0] for row in rows[1:]] == ["all, one slope", "XLM-R", "Qwen3", "Gemma 3", "RemBERT"]
    assert rows[-1][3] == "no slope"


def test_figures_have_a_mark_and_a_name_for_each_family(report: Path) -> None:
    figure = (report.parent / "figures" / "gain.svg").read_text()
    for name in (*LEVELS, "one slope for all families", "norm after blocks"):
        assert f">{name}<" in figure
    assert len(set(re.findall(r"#group-\d+", figure))) == 2 * len(SIZES)


@pytest.mark.parametrize("name", ["cells", "records", "groups-qwen3-32b", "slopes", "predictions"])
def test_files_say_the_family(report: Path, name: str) -> None:
    table = pd.read_csv(report.parent / "tables" / f"{name}.csv")
    assert set(table["family"].dropna()) <= set(LEVELS)
    assert "Qwen3" in set(table["family"])


def test_no_label_lies_over_another_one_in_the_browser(report: Path, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as driver:
        open_at(driver, report.as_uri(), 1280)
        assert driver.execute_script("return document.querySelectorAll('figure svg text').length") > 100
        assert driver.execute_script(OVERLAPPING) == []
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 1280
        assert driver.get_log("browser") == []
