"""What a study will roughly cost, said before anything runs: devices, hours, disk."""

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from xlt_scale.config import ModelOptions
from xlt_scale.scaling.grid.costs import CostModel, kind_of, measured_seconds
from xlt_scale.scaling.grid.design import StudyGrid, design
from xlt_scale.scaling.grid.disk import disk_budget, free_bytes, peak_bytes
from xlt_scale.scaling.grid.jobs import pack
from xlt_scale.scaling.grid.model_shape import model_shape
from xlt_scale.sizes import SIZES
from xlt_scale.study_config import load_study

SIZES_OF_XLMR = ["xlmr-base", "xlmr-large", "xlmr-xl", "xlmr-xxl"]


def grid(folder: Path, **changes: Any) -> StudyGrid:
    tables = {
        "name": "published",
        "question": "does it help?",
        "run": {"model": {"max_length": 128}, "data": {"source": "hub"}},
        "target": {"epochs": 1, "max_examples": 10_000},
        "sizes": [{"name": name} for name in SIZES_OF_XLMR],
        "arms": [{"name": "none"}, {"name": "mnli", "phases": [{"task": "mnli", "epochs": 1}]}],
        "targets": [{"name": "pawsx", "phase": {"task": "pawsx"}, "evaluate": ["pawsx"]}],
        "resources": {"device_memory_gib": 80.0, "teraflops_per_device": 300.0},
    }
    file = folder / "study.toml"
    file.write_text(tomli_w.dumps({**tables, **changes}))
    return design(load_study(file))


def test_a_run_takes_the_fewest_devices_that_its_training_state_fits_on(tmp_path: Path) -> None:
    placements = CostModel(grid(tmp_path)).placements()
    assert [placements[name].devices for name in SIZES_OF_XLMR] == [1, 1, 1, 3]


def test_eight_bit_moments_take_fewer_devices(tmp_path: Path) -> None:
    found = grid(tmp_path, intermediate={"optimizer": "adamw_8bit"}, target={"epochs": 1, "optimizer": "adamw_8bit"})
    assert CostModel(found).placements()["xlmr-xxl"].devices == 2


def test_a_size_may_say_how_many_devices_it_wants(tmp_path: Path) -> None:
    found = grid(tmp_path, sizes=[{"name": "xlmr-large", "devices": 4}])
    assert CostModel(found).placements()["xlmr-large"].devices == 4


def test_larger_sizes_cost_more_and_phases_that_have_run_cost_what_they_took(tmp_path: Path) -> None:
    found = grid(tmp_path)
    phases = {phase.size: phase for phase in found.phases.values() if phase.role == "target" and phase.arm == "none"}
    costs = CostModel(found)
    guessed = [costs.seconds(phases[name]) for name in SIZES_OF_XLMR]
    assert guessed == sorted(guessed)
    known = CostModel(found, measured_seconds(found, {phases["xlmr-xl"].name: 1234.0}))
    assert known.seconds(phases["xlmr-xl"]) == 1234.0
    assert known.seconds(phases["xlmr-large"]) == guessed[1]


def test_phases_that_differ_in_seeds_or_arm_alone_are_of_one_kind(tmp_path: Path) -> None:
    targets = [phase for phase in grid(tmp_path).phases.values() if phase.role == "target"]
    assert len({kind_of(phase) for phase in targets if phase.size == "xlmr-xl"}) == 1


def test_what_had_to_be_guessed_is_said_once(tmp_path: Path) -> None:
    costs = CostModel(grid(tmp_path, target={"epochs": 1}))
    costs.all_seconds(costs.placements())
    assert sorted(costs.guesses) == [
        "mnli en: not on this machine; counted as 100,000 examples",
        "pawsx en: not on this machine; counted as 100,000 examples",
    ]


def test_an_encoder_and_a_training_checkpoint_have_the_bytes_that_its_parameters_take(tmp_path: Path) -> None:
    placement = CostModel(grid(tmp_path)).placements()["xlmr-xxl"]
    assert placement.bytes_per_encoder == pytest.approx(43e9, rel=0.01)
    assert placement.bytes_per_checkpoint == pytest.approx(128e9, rel=0.01)


def test_the_disk_at_its_fullest_counts_running_jobs_and_encoders_that_are_kept(tmp_path: Path) -> None:
    found = grid(tmp_path)
    costs = CostModel(found)
    placements = costs.placements()
    jobs = pack(found, list(found.phases), placements, costs.all_seconds(placements), 12.0)
    budget = disk_budget(found, placements, jobs)
    xxl = budget[-1]
    assert xxl.per_job > 3 * placements["xlmr-xxl"].bytes_per_checkpoint
    assert peak_bytes(budget, 1, keeps_encoders=True) > peak_bytes(budget, 1, keeps_encoders=False)
    assert peak_bytes(budget, 4, keeps_encoders=True) - peak_bytes(budget, 1, keeps_encoders=True) == 3 * xxl.per_job


def test_free_space_is_asked_for_where_the_folder_will_be(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet" / "there") > 0


def test_the_shape_of_a_checkpoint_is_read_from_its_configuration(tmp_path: Path) -> None:
    size = SIZES["xlmr-large"]
    (tmp_path / "config.json").write_text(json.dumps(size.architecture()))
    shape = model_shape(ModelOptions(name=str(tmp_path)))
    assert shape is not None
    assert shape.num_parameters == size.num_parameters
    assert model_shape(ModelOptions(name="somebody/unknown")) is None
