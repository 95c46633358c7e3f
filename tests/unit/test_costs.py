"""What a study will take, said before anything runs: devices, hours, disk."""

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from xlt_scale.config import ModelOptions
from xlt_scale.planning.known_hardware import find_cluster
from xlt_scale.planning.shapes import size_of_model
from xlt_scale.scaling.grid.costs import CostModel, counted_on, kind_of, measured_seconds
from xlt_scale.scaling.grid.design import StudyGrid, design
from xlt_scale.scaling.grid.disk import disk_budget, free_bytes, peak_bytes
from xlt_scale.scaling.grid.jobs import pack
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
    }
    file = folder / "study.toml"
    file.write_text(tomli_w.dumps({**tables, **changes}))
    return design(load_study(file))


def on_a_node(found: StudyGrid, **changes: Any) -> CostModel:
    """Counted on eight A100-80, whatever this machine has."""
    return CostModel(found, cluster=find_cluster("a100-80g"), reads="nothing", **changes)


def test_a_run_takes_the_fewest_devices_that_it_is_predicted_to_fit_on(tmp_path: Path) -> None:
    costs = on_a_node(grid(tmp_path))
    devices = {name: costs.placements()[name].devices for name in SIZES_OF_XLMR}
    assert devices["xlmr-large"] == 1
    assert devices["xlmr-xxl"] > 2
    for name, count in devices.items():
        assert costs.fits(name, count)
        assert not any(costs.fits(name, fewer) for fewer in range(1, count))


def test_eight_bit_moments_take_fewer_devices(tmp_path: Path) -> None:
    run = {"model": {"max_length": 128}, "engine": {"activation_checkpointing": True}}
    eight_bit = {"optimizer": "adamw_8bit"}
    full = grid(tmp_path, run=run)
    small = grid(tmp_path, run=run, intermediate=eight_bit, target={"epochs": 1, **eight_bit})
    counts = [on_a_node(found).placements()["xlmr-xxl"].devices for found in (full, small)]
    assert counts[1] < counts[0]


def test_small_runs_share_a_device_and_take_as_long_as_it_takes_for_all(tmp_path: Path) -> None:
    found = grid(tmp_path, sizes=[{"name": "xlmr-base"}, {"name": "xlmr-xl"}])
    costs = on_a_node(found)
    assert costs.placements()["xlmr-base"].per_device > 1
    assert costs.placements()["xlmr-xl"].per_device == 1
    phase = next(phase for phase in found.phases.values() if phase.size == "xlmr-base")
    alone, shared = costs.seconds(phase, 1, 1), costs.seconds(phase, 1, 4)
    assert alone <= shared <= 4 * alone


def test_a_size_that_does_not_fit_the_devices_it_asks_for_is_said(tmp_path: Path) -> None:
    costs = on_a_node(grid(tmp_path, sizes=[{"name": "xlmr-xxl", "devices": 1}]))
    assert costs.placements()["xlmr-xxl"].devices == 1
    assert any(guess.startswith("xlmr-xxl: predicted not to fit 1 devices, by ") for guess in costs.guesses)


def test_more_devices_than_a_batch_has_examples_do_not_fit(tmp_path: Path) -> None:
    costs = on_a_node(grid(tmp_path, target={"epochs": 1, "batch_size": 4}))
    assert costs.fits("xlmr-large", 4)
    assert not costs.fits("xlmr-large", 5)


def test_a_speed_that_the_study_says_is_taken_in_place_of_the_prediction(tmp_path: Path) -> None:
    seconds = []
    for speed in (100.0, 200.0):
        found = grid(tmp_path, sizes=[{"name": "xlmr-xl"}], resources={"teraflops_per_device": speed})
        phase = next(phase for phase in found.phases.values() if phase.role == "intermediate")
        seconds.append(on_a_node(found).seconds(phase))
    assert seconds[0] == pytest.approx(2 * seconds[1], rel=0.01)


def test_with_auto_the_planner_chooses_a_layout_for_each_size_and_leaves_what_is_set(tmp_path: Path) -> None:
    run = {"model": {"max_length": 128}, "engine": {"auto": True, "max_tokens_per_micro_batch": 4096}}
    written, planned = grid(tmp_path), grid(tmp_path, run=run)
    auto = on_a_node(planned).plan("xlmr-xl", 2)
    assert auto.layout.max_tokens_per_micro_batch == 4096
    assert auto.seconds <= on_a_node(written).plan("xlmr-xl", 2).seconds


def test_a_size_may_say_how_many_devices_it_wants(tmp_path: Path) -> None:
    found = grid(tmp_path, sizes=[{"name": "xlmr-large", "devices": 4}])
    assert on_a_node(found).placements()["xlmr-large"].devices == 4


def test_larger_sizes_cost_more_and_phases_that_have_run_cost_what_they_took(tmp_path: Path) -> None:
    found = grid(tmp_path)
    phases = {phase.size: phase for phase in found.phases.values() if phase.role == "target" and phase.arm == "none"}
    costs = on_a_node(found)
    guessed = [costs.seconds(phases[name]) for name in SIZES_OF_XLMR]
    assert guessed == sorted(guessed)
    known = on_a_node(found, measured=measured_seconds(found, {phases["xlmr-xl"].name: 1234.0}))
    assert known.seconds(phases["xlmr-xl"]) == 1234.0
    assert known.seconds(phases["xlmr-large"]) == guessed[1]


def test_phases_that_differ_in_seeds_or_arm_alone_are_of_one_kind(tmp_path: Path) -> None:
    targets = [phase for phase in grid(tmp_path).phases.values() if phase.role == "target"]
    assert len({kind_of(phase) for phase in targets if phase.size == "xlmr-xl"}) == 1


def test_what_had_to_be_guessed_is_said_once(tmp_path: Path) -> None:
    costs = CostModel(grid(tmp_path, target={"epochs": 1}), cluster=find_cluster("a100-80g"))
    costs.all_seconds(costs.placements())
    assert sorted(costs.guesses) == [
        "mnli en: not on this machine; counted as the published 392,702 examples, of typical lengths",
        "pawsx en: not on this machine; counted as the published 49,401 examples, of typical lengths",
    ]


def test_without_a_gpu_a_study_is_counted_on_processor_cores_and_on_a_batch_system_on_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    study = grid(tmp_path).study
    assert counted_on(study)[0].device.name == "cpu-core"
    cluster, notes = counted_on(study, elsewhere=True)
    assert cluster.device.name == "a100-80g"
    assert notes == ["no GPU here: counted on nodes of a100-80g"]


def test_an_encoder_and_a_training_checkpoint_have_the_bytes_that_its_parameters_take(tmp_path: Path) -> None:
    placement = on_a_node(grid(tmp_path)).placements()["xlmr-xxl"]
    assert placement.bytes_per_encoder == pytest.approx(43e9, rel=0.01)
    assert placement.bytes_per_checkpoint == pytest.approx(128e9, rel=0.01)


def test_the_disk_at_its_fullest_counts_running_jobs_and_encoders_that_are_kept(tmp_path: Path) -> None:
    found = grid(tmp_path)
    costs = on_a_node(found)
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
    shape = size_of_model(ModelOptions(name=str(tmp_path)))
    assert shape is not None
    assert shape.num_parameters == size.num_parameters
    assert size_of_model(ModelOptions(name="somebody/unknown")) is None
