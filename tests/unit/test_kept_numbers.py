"""A study whose sizes are trained in numbers of different kinds says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_records import SmallStudy

from xlt_scale.scaling.analysis.kept_numbers import number_caveats
from xlt_scale.scaling.records.facts import study_facts

NAMES = ["micro-tiny", "micro-small"]


@pytest.fixture
def said(tmp_path: Path) -> Callable[..., list[str]]:
    def warnings(*of_sizes: dict[str, Any]) -> list[str]:
        sizes = [{"name": name} | tables for name, tables in zip(NAMES, of_sizes, strict=True)]
        return number_caveats(study_facts(SmallStudy.make(tmp_path, sizes=sizes).study), NAMES)

    return warnings


def test_sizes_of_one_kind_need_no_warning(said: Callable[..., list[str]]) -> None:
    alike = {"engine": {"precision": "bf16_stochastic"}, "target": {"optimizer": "adamw_8bit"}}
    assert not said({}, {})
    assert not said(alike, alike)


def test_weights_without_masters_and_8_bit_states_are_named(said: Callable[..., list[str]]) -> None:
    states = {"optimizer": "adamw_8bit"}
    other = {"engine": {"precision": "bf16_stochastic"}, "target": states, "intermediate": states}
    assert said({"engine": {"precision": "bf16"}}, other) == [
        "Size is mixed up with the numbers that are trained in: bf16 + adamw in micro-tiny, bf16_stochastic + "
        "adamw_8bit in micro-small. They are other experimental conditions; compare sizes of one kind."
    ]


def test_so_are_float8_products(said: Callable[..., list[str]]) -> None:
    bf16 = {"precision": "bf16"}
    assert (
        "bf16 + float8 products + adamw in micro-small"
        in said({"engine": bf16}, {"engine": bf16 | {"float8": True}})[0]
    )
