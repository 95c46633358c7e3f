"""The page of a report in a browser: on a desk and a phone, with and without scripts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, open_at
from small_analysis import small_report

from xlt_scale.scaling.results import Analysis


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def analysis() -> Analysis:
    return small_report()[0]


@pytest.fixture
def address() -> str:
    return small_report()[1].as_uri()


def panel_text(driver: Any) -> str:
    return str(driver.execute_script("const p = document.getElementById('panel'); return p.hidden ? '' : p.innerText"))


def click(driver: Any, link: str) -> None:
    driver.execute_script(
        "const mark = document.querySelector(arguments[0]); mark.scrollIntoView({block: 'center'});"
        "mark.dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true, view: window}))",
        f'svg a[href="{link}"]',
    )


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_says_nothing_in_the_console(driver: Any, address: str, width: int) -> None:
    open_at(driver, address, width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.get_log("browser") == []
    open_at(driver, f"{address}#group-0", width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert panel_text(driver)


def test_a_mark_shows_its_cells_and_records(driver: Any, address: str, analysis: Analysis) -> None:
    open_at(driver, address, 1280)
    group = analysis.groups.iloc[0]
    click(driver, "#group-0")
    shown = panel_text(driver)
    assert f"{len(group['cells'])} cells" in shown
    pairs = analysis.cells.iloc[group["cells"][0]]["records"]
    assert all(name in shown for pair in pairs for name in pair)
    files = driver.execute_script("return [...document.querySelectorAll('#panel a[href$=\".json\"]')].map(a => a.href)")
    assert files and all(Path(file.removeprefix("file://")).exists() for file in files)


def test_the_shown_scores_are_the_runs(driver: Any, address: str, analysis: Analysis) -> None:
    open_at(driver, f"{address}#cell-3", 1280)
    cell = analysis.cells.iloc[3]
    runs = analysis.results.runs.set_index(["record", "task", "language"])["score"]
    baseline, arm = cell["records"][0]
    rows = driver.execute_script("return [...document.querySelectorAll('#panel tbody tr')].map(r => r.innerText)")
    assert f"{runs[(baseline, cell['task'], cell['language'])]:.2f}" in rows[0]
    assert f"{runs[(arm, cell['task'], cell['language'])]:.2f}" in rows[0]


def test_back_closes_what_a_mark_has_opened(driver: Any, address: str) -> None:
    open_at(driver, address, 1280)
    click(driver, "#group-0")
    first = panel_text(driver)
    click(driver, "#group-1")
    assert panel_text(driver) not in ("", first)
    driver.back()
    assert panel_text(driver) == first
    driver.back()
    assert panel_text(driver) == ""


def test_the_keyboard_opens_and_closes_the_panel_where_it_was(driver: Any, address: str) -> None:
    from selenium.webdriver.common.keys import Keys

    open_at(driver, address, 1280)
    mark = driver.find_element("css selector", 'svg a[href^="#group-"]')
    driver.execute_script("arguments[0].focus()", mark)
    before = driver.execute_script("return window.scrollY")
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert panel_text(driver)
    assert driver.execute_script("return document.activeElement.id") == "panel"
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert panel_text(driver) == ""
    assert driver.execute_script("return document.activeElement.getAttribute('href')") == mark.get_dom_attribute("href")
    assert driver.execute_script("return window.scrollY") == before
    assert driver.get_log("browser") == []


def test_every_kind_of_anchor_opens(driver: Any, address: str) -> None:
    for anchor in ("#cell-0", "#group-0", "#slope-0", "#set-0", "#record-0"):
        open_at(driver, address + anchor, 1280)
        assert len(panel_text(driver)) > 40, anchor
    open_at(driver, f"{address}#cell-99999999", 1280)
    assert panel_text(driver) == ""
    assert driver.get_log("browser") == []


def test_without_scripts_there_is_a_table_of_cells_with_the_same_anchors(driver: Any, address: str) -> None:
    open_at(driver, f"{address}#cell-3", 1280, scripts=False)
    row = driver.find_element("css selector", "tr#cell-3")
    assert row.is_displayed()
    assert row.find_elements("css selector", 'a[href$=".json"]')
    assert driver.find_elements("css selector", "tr#group-0")
    open_at(driver, "about:blank", 1280)
