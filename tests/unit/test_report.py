"""The page of a study's report: the answer first, every mark with what is behind it, nothing from elsewhere."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_analysis import LANGUAGES, TINY, Plan, small_analysis, small_report

from xlt_scale.scaling.report import write_report
from xlt_scale.scaling.results import Analysis

ODD = '<b>&"_%$#{x}\\^~'
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """What tests ask of a page: texts by element, links, ids, whether elements close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.paragraphs: list[str] = []
        self.headings: list[str] = []
        self.badge = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "a":
            self.links.append(values.get("href") or "")
        elif "href" in values or "src" in values:
            self.sources.append(values.get("href") or values.get("src") or "")
        if values.get("id"):
            self.ids.append(values["id"] or "")
        if tag == "p":
            self.paragraphs.append("")
        if tag == "h1":
            self.headings.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "p" in self.open:
            self.paragraphs[-1] += data
        if "h1" in self.open:
            self.headings[-1] += data
        if "strong" in self.open:
            self.badge += data


@dataclasses.dataclass(frozen=True)
class Report:
    """A written report."""

    analysis: Analysis
    folder: Path
    text: str
    page: Page
    data: dict[str, Any]


def written(analysis: Analysis, folder: Path, **options: Any) -> Report:
    return read(analysis, write_report(analysis, folder, **options))


def read(analysis: Analysis, path: Path) -> Report:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return Report(analysis, path.parent, text, page, json.loads(found[1]))


@pytest.fixture(scope="module")
def report() -> Report:
    return read(*small_report())


def targets_exist(report: Report) -> int:
    """Checks each link into the data; returns how many there are."""
    analysis = report.analysis
    lengths = {
        "cell": len(analysis.cells),
        "group": len(analysis.groups),
        "slope": len(analysis.slopes),
        "set": len(report.data["sets"]),
        "record": len(report.data["records"]["name"]),
    }
    found = [re.fullmatch(r"#(cell|group|slope|set|record)-(\d+)", link) for link in report.page.links]
    marks = [match for match in found if match]
    for match in marks:
        assert int(match[2]) < lengths[match[1]], match[0]
    others = {
        link[1:] for link, match in zip(report.page.links, found, strict=True) if link.startswith("#") and not match
    }
    assert others <= set(report.page.ids)
    return len(marks)


def numbers_of(ranges: str) -> list[int]:
    parts = [part.split("-") for part in ranges.split(",") if part]
    return [value for part in parts for value in range(int(part[0]), int(part[-1]) + 1)]


def test_the_first_paragraph_is_the_answer_below_the_question(report: Report) -> None:
    answer = report.analysis.answer
    assert report.page.headings == [report.analysis.results.facts.question]
    assert report.page.badge == answer.verdict
    first = report.page.paragraphs[0]
    assert first.startswith(answer.verdict)
    assert all(sentence in first for sentence in answer.sentences)
    assert all(caveat in report.text for caveat in answer.caveats)


def test_the_page_needs_nothing_from_elsewhere(report: Report) -> None:
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"'<> ]+", report.text)) <= namespaces
    # Elements that load something: only parts of the page itself and an empty icon.
    assert all(source.startswith(("#", "data:")) for source in report.page.sources)
    assert "@import" not in report.text and "url(http" not in report.text


def test_ids_are_unique(report: Report) -> None:
    assert len(report.page.ids) == len(set(report.page.ids))


def test_clips_and_markers_of_figures_are_there(report: Report) -> None:
    ids = set(report.page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", report.text)) <= ids
    assert {source[1:] for source in report.page.sources if source.startswith("#")} <= ids


def test_every_mark_leads_to_embedded_data(report: Report) -> None:
    assert targets_exist(report) > 300


def test_all_points_cells_rows_and_curves_are_links(report: Report) -> None:
    analysis = report.analysis
    links = set(report.page.links)
    groups, slopes = analysis.groups, analysis.slopes
    drawn = np.flatnonzero(groups["group_kind"].isin(["headline", "target group", "task", "family"]))
    assert {f"#group-{place}" for place in drawn} <= links
    assert {f"#slope-{place}" for place in np.flatnonzero(slopes["group_kind"] == "headline")} <= links
    assert {f"#cell-{place}" for place in np.flatnonzero(analysis.cells["same_data"] == "")} <= links
    assert {f"#record-{place}" for place in range(len(analysis.results.record_paths))} <= links


def test_cells_that_share_data_have_a_mark_of_their_own(report: Report) -> None:
    shared = set(np.flatnonzero(report.analysis.cells["same_data"] != ""))
    in_sets = {cell for entry in report.data["sets"] for cell in numbers_of(entry["cells"])}
    assert shared and shared <= in_sets


def test_the_embedded_scores_are_those_of_the_records(report: Report) -> None:
    runs, cells, data = report.analysis.results.runs, report.analysis.cells, report.data
    score = runs.set_index(["record", "task", "language"])["score"]
    for place in (0, 17, len(cells) - 1):
        cell = cells.iloc[place]
        flat = data["pairLists"][data["cells"]["pairs"][place]]
        names = [data["records"]["name"][position] for position in flat]
        assert list(zip(names[::2], names[1::2], strict=True)) == cell["records"]
        for side, column in ((0, "base"), (1, "with")):
            shown = data["scoreLists"][data["cells"][column][place]]
            expected = [score[(pair[side], cell["task"], cell["language"])] for pair in cell["records"]]
            assert np.allclose(np.array(shown) / 100, expected, atol=0.0051)


def test_groups_carry_their_cells(report: Report) -> None:
    for place, cells in enumerate(report.analysis.groups["cells"]):
        assert numbers_of(report.data["groups"]["cells"][place]) == sorted(cells)


def test_records_link_to_their_files_from_the_report(tmp_path: Path) -> None:
    report = written(small_analysis(TINY), tmp_path / "report", records_root="../..")
    name = report.data["records"]["name"][0]
    pattern = report.data["records"]["patterns"][report.data["records"]["file"][0]]
    assert pattern.replace("*", name) == f"../../{report.analysis.results.record_paths[name]}"
    assert f'href="../../records/{name}.json"' in report.text  # for readers without scripts


def test_the_same_analysis_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(small_analysis(TINY), tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) > 20
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path


def test_odd_names_are_shown_as_they_are(tmp_path: Path) -> None:
    plan = Plan(
        sizes=("xlmr-base", "xlmr-xxl"), arms=("mnli", ODD), targets=("xnli", f"x{ODD}"), languages=("en", "sw"),
        seeds=(2, 1), curve_steps=3, same_data=((ODD, "xnli"),), missing_cells=(),
        question=f"Does {ODD} </script> help?", labels={ODD: f"{ODD} label"},
    )  # fmt: skip
    report = written(small_analysis(plan), tmp_path)
    assert report.page.headings == [plan.question]
    assert "<b>&" not in report.text
    assert targets_exist(report)
    assert ODD in report.data["names"]["arm"]
    assert all(path.read_text().startswith("<?xml") for path in (tmp_path / "figures").glob("*.svg"))


def test_one_size_has_no_slopes_and_says_so(tmp_path: Path) -> None:
    report = written(small_analysis(sizes=("xlmr-xl",), languages=("en", "sw", "fi"), curve_steps=0), tmp_path)
    names = {path.stem for path in (tmp_path / "figures").glob("*.svg")}
    assert names == {"gain-by-task", "languages", "costs"}
    assert "Slopes: not drawn, a slope needs two sizes or more." in report.page.paragraphs
    assert "Learning curves: not drawn, no losses were recorded." in report.page.paragraphs


def test_a_single_seed_has_no_interval_and_says_so(tmp_path: Path) -> None:
    plan = Plan(sizes=("xlmr-base", "xlmr-xl"), targets=("xnli", "udpos"), languages=("en", "sw"), seeds=(1, 1))
    report = written(small_analysis(dataclasses.replace(plan, curve_steps=0)), tmp_path)
    assert "Points without a bar have too few seeds for one." in report.text
    assert "nan" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", report.text, flags=re.DOTALL).lower()


def test_a_study_without_results_is_a_page_all_the_same(tmp_path: Path) -> None:
    analysis = small_analysis(TINY)
    empty = {
        name: getattr(analysis, name).iloc[:0]
        for name in ("cells", "groups", "slopes", "predictions", "collapse", "costs", "power")
    }
    results = dataclasses.replace(
        analysis.results,
        runs=analysis.results.runs.iloc[:0],
        curves=pd.DataFrame(columns=analysis.results.curves.columns),
        record_paths={},
        software=analysis.results.software.iloc[:0],
    )
    report = written(dataclasses.replace(analysis, results=results, extra={}, methods=(), notes=(), **empty), tmp_path)
    assert report.page.badge == analysis.answer.verdict
    assert not list(tmp_path.glob("figures/*"))


def test_a_wide_grid_is_drawn(tmp_path: Path) -> None:
    arms = ["mnli", *(f"an-arm-with-a-long-name-that-goes-on-{i}" for i in range(9))]
    targets = [f"target-with-a-long-name-{i}" for i in range(10)]
    sizes = ("xlmr-base", "xlmr-xxl")
    plan = Plan(sizes=sizes, arms=arms, targets=targets, languages=LANGUAGES[:2], seeds=(1, 2), curve_steps=2)
    report = written(small_analysis(plan), tmp_path)
    assert targets_exist(report) > 600
    assert "they are in tables/curves.csv" in report.text


def test_a_question_of_another_kind_starts_with_its_own_table(tmp_path: Path) -> None:
    analysis = small_analysis(TINY)
    facts = dataclasses.replace(analysis.results.facts, kind="rank")
    results = dataclasses.replace(analysis.results, facts=facts)
    report = written(dataclasses.replace(analysis, results=results), tmp_path)
    short = report.text[report.text.index('<section id="short">') : report.text.index('<section id="figures">')]
    assert "Ranks of arms" in short
    assert report.text.count("tables/extra-ranks-of-arms.csv") == 1
