"""docs/ladders.md says what the ladders say, and its run files are run files."""

import re
import tomllib
from pathlib import Path

import pytest

from xlt_scale.config import make_run
from xlt_scale.sizes import SIZES
from xlt_scale.sizes.words import tables

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "ladders.md").read_text(encoding="utf-8")
RUN_FILES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_the_tables_of_the_page_are_those_of_the_ladders() -> None:
    assert PAGE.endswith(tables()), "run: python -m xlt_scale.sizes.words docs/ladders.md"


@pytest.mark.parametrize("text", RUN_FILES, ids=["decoder", "encoder half", "encoder"])
def test_the_run_files_of_the_page_are_valid_and_name_published_sizes(text: str) -> None:
    run = make_run(tomllib.loads(text), [], "docs/ladders.md")
    assert run.model.name in {size.hub_name for size in SIZES.values()}


def test_the_page_names_all_sizes_above_ten_billion_by_both_counts() -> None:
    (sentence,) = re.findall(r"\*\*Above 10 billion by both counts\*\*(.*?)\. ", PAGE, re.DOTALL)
    assert set(re.findall(r"`([\w.-]+)`", sentence)) == {
        size.name for size in SIZES.values() if size.above_ten_billion == "both"
    }
