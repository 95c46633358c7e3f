"""`xlt-scale plan`: what a run will take, on a cluster by name, from a file, or here."""

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner, Result

from xlt_scale.cli import app
from xlt_scale.config import AdapterOptions, ModelOptions, RunOptions, load_run, make_run
from xlt_scale.errors import UserError
from xlt_scale.planning.cluster_files import describe_cluster, read_cluster
from xlt_scale.planning.describe import RunDescription
from xlt_scale.planning.gpus import Gpu
from xlt_scale.planning.hardware import GIB
from xlt_scale.planning.known_hardware import DEVICES, find_cluster
from xlt_scale.planning.published import typical_lengths
from xlt_scale.planning.shapes import size_of_model
from xlt_scale.planning.task_data import DataFacts
from xlt_scale.planning.this_machine import device_of, this_machine
from xlt_scale.planning.workload import Workload
from xlt_scale.sizes import SIZES
from xlt_scale.tasks.catalogue import load_catalogue

ROOT = Path(__file__).resolve().parents[2]
RUNS = sorted((ROOT / "launch" / "runs").glob("*.toml"))
XL = ROOT / "launch" / "runs" / "mnli_xnli_xl.toml"

CLUSTER: dict[str, Any] = {
    "name": "ours",
    "num_nodes": 4,
    "devices_per_node": 4,
    "node_bandwidth_gb_s": 300,
    "network_bandwidth_gb_s": 12.5,
    "host_memory_gib": 1024,
    "host_bandwidth_gb_s": 25,
    "price_per_device_hour": 2.5,
    "device": {"name": "a100-80g"},
}


def command(*words: object) -> Result:
    return CliRunner().invoke(app, ["plan", *map(str, words)])


def plan(*words: object) -> dict[str, Any]:
    done = command(*words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def refusal(*words: object) -> str:
    """The one line that a command ends with."""
    error = command(*words).exception
    assert isinstance(error, UserError), error
    assert "\n" not in str(error)
    return str(error)


def cluster_file(folder: Path, **changes: Any) -> Path:
    path = folder / "cluster.toml"
    path.write_text(tomli_w.dumps({name: value for name, value in (CLUSTER | changes).items() if value is not None}))
    return path


def described(**phase: Any) -> Workload:
    """One MNLI phase of XLM-R Large as the planner sees it, on GPUs, without any data."""
    table = {
        "output": "somewhere",
        "model": {"name": "FacebookAI/xlm-roberta-large", "max_length": 128},
        "phases": [{"name": "a", "task": "mnli", "epochs": 1, "batch_size": 64} | phase],
    }
    run: RunOptions = make_run(table, [], "test")
    work = RunDescription(run, DataFacts(run, reads="nothing"), on_processors=False).work(run.phases[0])
    assert work.workload is not None
    return work.workload


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_ready_run_can_be_planned(path: Path) -> None:
    found = plan(path, "--cluster", "hgx-h200")
    assert found["plan"]["fits"]
    trained = [phase for phase in found["plan"]["phases"] if phase["steps"]]
    assert trained
    for phase in trained:
        memory = phase["memory_bytes"]
        parts = ("parameters", "gradients", "optimizer", "activations", "buffers", "margin")
        assert memory["total"] == sum(memory[part] for part in parts) <= DEVICES["h200"].memory_gib * GIB
        assert phase["training_seconds"] == pytest.approx(phase["steps"] * phase["step_seconds"]["seconds"])


def test_a_plan_shows_memory_time_the_settings_and_what_else_there_would_be() -> None:
    text = command(XL, "--cluster", "hgx-h200", "--devices", 2).output
    for part in (
        "2 x h200",
        "Memory of a device",
        "Time of a step",
        "[engine]",
        "max_tokens_per_micro_batch",
        "as written",
    ):
        assert part in text
    assert "predictions, not measurements" in text
    assert "published 392,702 examples" in text


def test_the_settings_of_a_plan_are_those_it_predicts_when_they_are_written(tmp_path: Path) -> None:
    first = plan(XL, "--cluster", "hgx-h200", "--devices", 2)
    settings = [f"engine.{name}={json.dumps(value)}" for name, value in first["plan"]["engine"].items()]
    again = plan(XL, "--cluster", "hgx-h200", "--devices", 2, *(word for text in settings for word in ("--set", text)))
    assert again["written"]["seconds"] == pytest.approx(first["plan"]["seconds"])
    assert again["written"]["seconds"] <= first["written"]["seconds"]


def test_with_auto_the_plan_keeps_what_the_file_sets() -> None:
    words = ("--set", "engine.auto=true", "--set", "engine.activation_checkpointing=true", "--cluster", "hgx-h200")
    chosen = plan(XL, *words)["plan"]["engine"]
    assert (chosen["name"], chosen["max_tokens_per_micro_batch"]) == ("zero3", 8192)
    assert chosen["activation_checkpointing"] is True


def test_where_a_run_would_wait_for_its_host_the_other_optimizer_is_advised_and_not_chosen(tmp_path: Path) -> None:
    one = cluster_file(tmp_path, num_nodes=1, devices_per_node=1, device={"name": "h200"})
    found = plan(ROOT / "launch" / "runs" / "mnli_xnli_xxl.toml", "--cluster", one)
    assert found["plan"]["engine"]["offload"] == "optimizer"
    assert found["advice"].startswith("with optimizer = 'adamw_8bit' in every phase, which is another experimental")
    assert plan(XL, "--cluster", one)["advice"] == ""


def test_the_largest_published_encoder_is_trained_whole_on_one_80_gb_card() -> None:
    file = ROOT / "launch" / "runs" / "mnli_xnli_xxl_one_gpu.toml"
    written = plan(file, "--cluster", "a100-80g", "--devices", 1)["written"]
    assert written["fits"]
    assert not load_run(file).engine.activation_checkpointing


def test_so_is_doing_without_masters(tmp_path: Path) -> None:
    one = cluster_file(tmp_path, num_nodes=1, devices_per_node=1, device={"name": "a100-80g"})
    words = ("--cluster", one, "--set", "phases.0.optimizer='adamw_8bit'")
    found = plan(ROOT / "launch" / "runs" / "mnli_xnli_xxl.toml", *words)
    assert found["plan"]["engine"]["offload"] == "optimizer"
    assert found["advice"].startswith("with engine.precision = 'bf16_stochastic' in every phase")


def test_where_nothing_fits_the_exit_code_is_1_and_the_line_says_what_would_help(tmp_path: Path) -> None:
    small = cluster_file(tmp_path, num_nodes=1, devices_per_node=2, host_memory_gib=16)
    done = command(ROOT / "launch" / "runs" / "mnli_xnli_xxl.toml", "--cluster", small)
    assert done.exit_code == 1
    (line,) = [line for line in done.output.splitlines() if line.startswith("nothing fits: ")]
    assert "GiB" in line and "fits" in line.removeprefix("nothing fits")


def test_devices_without_an_example_of_a_batch_are_refused() -> None:
    line = refusal(XL, "--cluster", "hgx-h200", "--nodes", 8)
    assert "batch_size = 32 leaves some of 64 devices without an example; give --devices 32" in line


def test_a_cluster_file_describes_nodes_and_a_card(tmp_path: Path) -> None:
    found = read_cluster(cluster_file(tmp_path))
    assert found.num_devices == 16
    assert found.network_bandwidth == 12.5e9
    assert found.device == DEVICES["a100-80g"]
    own = {"name": "new", "memory_gib": 100, "peak_tflops": 500, "matmul_tflops": 400, "bandwidth_tb_s": 3}
    device = read_cluster(cluster_file(tmp_path, device=own)).device
    assert (device.name, device.memory_gib, device.matmul_flops) == ("new", 100, 4e14)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"node_bandwith": 3}, "unknown key 'node_bandwith'; did you mean 'node_bandwidth_gb_s'?"),
        ({"node_bandwidth_gb_s": None}, "key 'node_bandwidth_gb_s' is missing"),
        ({"network_bandwidth_gb_s": None}, "num_nodes = 4 needs network_bandwidth_gb_s, between nodes; add it"),
        ({"devices_per_node": 0}, "devices_per_node = 0: input should be greater than 0"),
        ({"device": {"name": "a100"}}, "device.name = 'a100' is none of h200, h100, a100-80g"),
    ],
)
def test_a_mistake_in_a_cluster_file_is_one_line_with_the_mend(tmp_path: Path, changes: Any, line: str) -> None:
    path = cluster_file(tmp_path, **changes)
    with pytest.raises(UserError) as raised:
        read_cluster(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert line in str(raised.value)


def test_nodes_and_devices_change_the_size_of_a_cluster() -> None:
    assert describe_cluster("hgx-h200", num_nodes=4)[0].num_devices == 32
    found, _ = describe_cluster("hgx-h200", num_devices=16)
    assert (found.num_nodes, found.devices_per_node) == (2, 8)
    assert describe_cluster("hgx-h200", num_devices=3)[0].devices_per_node == 3
    with pytest.raises(UserError, match="13 devices cannot be spread evenly over 2 nodes"):
        describe_cluster("hgx-h200", num_devices=13)
    with pytest.raises(UserError, match="'h200' is a single device"):
        describe_cluster("h200", num_devices=2)


def test_a_price_is_multiplied_with_the_device_hours(tmp_path: Path) -> None:
    text = command(XL, "--cluster", "hgx-h200", "--devices", 1, "--price", 3).output
    assert "at 3 a device hour" in text


def test_a_machine_without_a_gpu_is_its_processor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    cluster, notes = this_machine()
    assert cluster.device.name == "cpu-core"
    assert cluster.name.endswith(("core", "cores"))
    assert notes and "order of magnitude" in notes[0]


def test_a_card_is_known_by_its_name_and_its_memory() -> None:
    assert device_of(Gpu("0", "GPU-1", "NVIDIA H200", 143_771))[0] == DEVICES["h200"]
    assert device_of(Gpu("0", "GPU-1", "NVIDIA A100-SXM4-40GB", 40_960))[0].name == "a100-40g"
    device, notes = device_of(Gpu("0", "GPU-1", "NVIDIA L4", 23_034))
    assert device.memory_gib == pytest.approx(22.4, abs=0.2)
    assert "NVIDIA L4: not known to the planner" in notes[0]


def test_lengths_are_those_of_the_data_where_the_data_are_here(cache: Path) -> None:
    run = load_run(ROOT / "launch" / "runs" / "micro.toml", [f"data.cache={cache}"])
    facts = DataFacts(run)
    data = facts.of(run.phases[1], "micro-nli")
    assert facts.notes == []
    assert data.num_examples > 500
    assert 4 < data.lengths.mean < data.lengths.longest <= 64
    assert data.lengths.mean**2 < data.lengths.mean_square < data.lengths.longest**2
    assert data.lengths.padding > 1


def test_inference_pairs_have_the_lengths_of_the_measured_runs() -> None:
    spec = load_catalogue({})["mnli"]
    lengths = typical_lengths(spec, 128)
    assert 40 < lengths.mean < 46  # log-normal, median 38
    assert lengths.longest == 128
    assert typical_lengths(spec, 32).longest == 32


def test_steps_come_from_epochs_and_published_counts() -> None:
    run = load_run(XL, ["phases.mnli.epochs=3.0", "phases.mnli.batch_size=128"])
    work = RunDescription(run, DataFacts(run, reads="nothing"), on_processors=False).work(run.phases[0])
    assert work.num_steps == -(-3 * 392_702 // 128)
    assert work.scored_tokens > 15 * 5010 * 20


def test_frozen_embeddings_and_adapters_train_a_part() -> None:
    size = SIZES["xlmr-large"]
    frozen = described(freeze_embeddings=True)
    assert frozen.trained_share == pytest.approx(size.num_non_embedding_parameters / size.num_parameters)
    assert not frozen.trains_embeddings
    adapted = described(adapter=AdapterOptions(rank=16).model_dump())
    # 24 layers, each with four matrices of 1024 x 1024 and two of 1024 x 4096.
    assert adapted.trained_share * size.num_parameters == pytest.approx(24 * 16 * (4 * 2048 + 2 * 5120))
    assert described(adapter=AdapterOptions(base="nf4").model_dump()).four_bit and not adapted.four_bit


def test_masked_language_modelling_predicts_a_share_of_the_tokens() -> None:
    assert described().masked_share == 0.0
    assert described(joint={"mlm": 0.5}, masking=0.2).masked_share == 0.2


def test_a_model_of_unknown_shape_is_refused_with_the_mend(tmp_path: Path) -> None:
    assert size_of_model(ModelOptions(name="somebody/unknown")) is None
    line = refusal(XL, "--set", "model.name=somebody/unknown", "--cluster", "hgx-h200")
    assert line.startswith("model.name = 'somebody/unknown': its shape is not known here; give")


def test_a_folder_is_planned_by_the_file_it_was_started_with(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(XL.read_text())
    assert plan(tmp_path, "--cluster", "hgx-h200")["plan"]["fits"]
    assert "has neither study.toml nor run.toml" in refusal(tmp_path / "..")


def test_known_clusters_can_be_named() -> None:
    assert find_cluster("hgx-h200").num_devices == 8
    assert "did you mean 'hgx-h200'" in refusal(XL, "--cluster", "hgx-h20")
