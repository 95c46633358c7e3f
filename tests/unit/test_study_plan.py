"""What a study takes on a cluster: device hours, many runs side by side, disk."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from test_plan_command import command, plan, refusal

from xlt_scale.planning.cluster_files import read_cluster
from xlt_scale.planning.known_hardware import find_cluster
from xlt_scale.scaling.grid.cost_page import cost_page
from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.grid.study_plan import StudyPlan, plan_study, wall_seconds
from xlt_scale.study_config import load_study

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "studies").glob("*.toml"))
NODE = find_cluster("hgx-h200")


def study_file(folder: Path, **changes: Any) -> Path:
    tables: dict[str, Any] = {
        "name": "small",
        "question": "what does it cost?",
        "run": {"model": {"max_length": 128}, "data": {"source": "hub"}},
        "target": {"epochs": 1, "max_examples": 20_000},
        "sizes": [{"name": "xlmr-base"}, {"name": "xlmr-xl"}, {"name": "xlmr-xxl"}],
        "arms": [{"name": "none"}, {"name": "mnli", "phases": [{"task": "mnli", "epochs": 1}]}],
        "targets": [{"name": "pawsx", "phase": {"task": "pawsx"}, "evaluate": ["pawsx"]}],
    }
    file = folder / "study.toml"
    file.write_text(tomli_w.dumps(tables | changes))
    return file


def planned(folder: Path, settings: tuple[str, ...] = (), **changes: Any) -> StudyPlan:
    return plan_study(load_study(study_file(folder, **changes), settings), NODE, reads="nothing")


def job(name: str, seconds: float, devices: int = 1, per_device: int = 1, needs: str = "") -> StudyJob:
    return StudyJob(name, "size", (name,), frozenset(needs.split()), devices, per_device, seconds, 0)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_ready_study_can_be_planned(path: Path) -> None:
    found = plan_study(load_study(path), NODE, reads="nothing")
    assert 0 < found.cheapest.device_hours <= found.fastest.device_hours
    assert found.cheapest.disk_bytes(8) > 0


def test_the_cheapest_number_of_devices_is_taken_and_the_fastest_sensible_one_costs_little_more(tmp_path: Path) -> None:
    found = planned(tmp_path)
    for cheapest, fastest in zip(found.cheapest.sizes, found.fastest.sizes, strict=True):
        tried = found.tried[cheapest.size]
        assert cheapest.device_hours == min(one.device_hours for one in tried)
        assert fastest.device_hours <= 1.25 * cheapest.device_hours
        assert all(one.memory_gib <= NODE.device.memory_gib for one in tried)
    assert found.fewest["xlmr-base"] == 1 < found.fewest["xlmr-xxl"]


def test_device_hours_of_sizes_arms_and_targets_add_up(tmp_path: Path) -> None:
    found = planned(tmp_path)
    total = found.cheapest.device_hours
    assert sum(found.by_arm.values()) == pytest.approx(total)
    assert sum(found.by_target.values()) == pytest.approx(total)
    assert set(found.by_target) == {"pawsx", "intermediate phases"}


def test_targets_that_wait_for_a_search_are_counted(tmp_path: Path) -> None:
    rates = {"learning_rates": [1e-6, 1e-5]}
    without, with_search = planned(tmp_path), planned(tmp_path, search=rates)
    assert with_search.by_target["learning-rate search"] > 0
    assert with_search.by_target["pawsx"] == pytest.approx(without.by_target["pawsx"])


def test_devices_that_the_study_asks_for_are_taken(tmp_path: Path) -> None:
    found = planned(tmp_path, sizes=[{"name": "xlmr-xl", "devices": 4}])
    assert [one.devices for one in found.cheapest.sizes] == [4]


def test_jobs_wait_for_what_they_need_and_for_free_devices() -> None:
    chain = [job("a", 5), job("b", 5, needs="a")]
    assert wall_seconds(chain, 8) == 10
    side_by_side = [job("a", 5), job("b", 5), job("c", 5)]
    assert wall_seconds(side_by_side, 3) == 5
    assert wall_seconds(side_by_side, 2) == 10
    assert wall_seconds([job("wide", 3, devices=8), job("small", 4)], 8) == 7
    assert wall_seconds([job(name, 6, per_device=4) for name in "abcd"], 1) == 6


def test_more_devices_shorten_the_wall_time_down_to_the_longest_chain(tmp_path: Path) -> None:
    strategy = planned(tmp_path).cheapest
    walls = [strategy.wall_hours(count) for count in (8, 64, 512, 5120)]
    assert walls == sorted(walls, reverse=True)
    assert walls[0] > walls[-1] == walls[-2]


def test_the_command_prints_sizes_totals_and_what_was_assumed(tmp_path: Path) -> None:
    done = command(study_file(tmp_path), "--cluster", "hgx-h200", "--price", 2)
    assert done.exit_code == 0, done.output
    for part in ("xlmr-xxl", "device hours", "wall hours", "disk at the fullest", "price", "predictions", "assumed: "):
        assert part in done.output
    facts = plan(study_file(tmp_path), "--cluster", "hgx-h200", "--price", 2)
    assert facts["cheapest"]["price"] == pytest.approx(2 * facts["cheapest"]["device_hours"])
    assert json.loads(json.dumps(facts)) == facts


def test_a_size_that_fits_nowhere_ends_the_plan_with_its_name_and_a_mend(tmp_path: Path) -> None:
    done = command(study_file(tmp_path), "--cluster", "a100-40g", "--devices", 1)
    assert done.exit_code == 1
    assert "nothing fits: size 'xlmr-x" in done.output


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    assert "unknown key 'seedz'" in refusal(study_file(tmp_path), "--set", "seedz=3")


def test_the_cluster_file_on_the_page_about_costs_is_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "cost.md").read_text(), re.DOTALL)
    (tmp_path / "ours.toml").write_text(example)
    cluster = read_cluster(tmp_path / "ours.toml")
    assert (cluster.num_devices, cluster.price_per_device_hour) == (64, 2.0)


def test_the_page_about_costs_says_what_the_planner_predicts() -> None:
    page = (ROOT / "docs" / "cost.md").read_text()
    assert page == cost_page(ROOT), "run: python -m xlt_scale.scaling.grid.cost_page > docs/cost.md"
