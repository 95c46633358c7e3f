"""Two nodes with two processes each: a second copy of the weights on every node (hpZ), or a replica on every node.

Both follow the trajectory of plain sharding, and their checkpoints are its checkpoints.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import relative_difference
from small_runs import SMALL_BUDGET, Answers

from launch import REPOSITORY, launch

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

TOLERANCE = 1e-5
FROZEN = {"phase": {"freeze_embeddings": True}}
ZERO3 = {"name": "zero3", "max_tokens_per_micro_batch": SMALL_BUDGET}
FSDP2 = {"name": "fsdp2", "max_tokens_per_micro_batch": SMALL_BUDGET}
HYBRID = FSDP2 | {"replicas": "nodes"}


class Runs:
    """What happened on the two nodes, and in a single process that saved a state before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        hpz = ZERO3 | {"deepspeed_config": self._hpz("auto")}
        save: Callable[..., dict[str, Any]] = lambda name, engine: {  # noqa: E731
            "do": "train_and_save",
            "engine": engine,
            "folder": str(self.place(name)),
        }
        self._run(1, 1, {"one rank": save("one rank", FSDP2)})
        load: Callable[..., dict[str, Any]] = lambda name, engine: {  # noqa: E731
            "do": "load_after_evaluation",
            "engine": engine,
            "folder": str(self.place(name)),
        }
        actions: dict[str, Any] = {
            "zero3": save("zero3", ZERO3),
            "hpz": save("hpz", hpz),
            "hpz evaluated": save("hpz evaluated", hpz) | {"evaluate_every": 2},
            "hpz loads zero3": load("zero3", hpz),
            "hpz loads one rank": load("one rank", hpz),
            "zero3 frozen": save("zero3 frozen", ZERO3) | FROZEN,
            "hpz loads zero3 frozen": load("zero3 frozen", hpz) | FROZEN,
            "over nodes": {"do": "build_refused", "engine": ZERO3 | {"deepspeed_config": self._hpz(4)}},
            "fsdp2": save("fsdp2", FSDP2),
            "hybrid": save("hybrid", HYBRID),
            "hybrid loads one rank": load("one rank", HYBRID),
            "hpz loads hybrid": load("hybrid", hpz),
            "three replicas": {"do": "build_refused", "engine": FSDP2 | {"replicas": 3}},
        }
        self._run(4, 2, actions)

    def place(self, name: str) -> Path:
        """Where the state of that run lies."""
        return self._folder / name.replace(" ", "-") / "step-00000005"

    def stored(self, name: str) -> dict[str, Any]:
        """The manifest of the state of that run."""
        return dict(json.loads((self.place(name) / "manifest.json").read_text())["tensors"])

    def __getitem__(self, name: str) -> list[Any]:
        return self._answers[name]

    def _hpz(self, size: Any) -> str:
        """The shipped file, for a model so small that DeepSpeed would not partition it."""
        settings = json.loads((REPOSITORY / "ds_configs" / "zero3_hpz.json").read_text())
        assert settings["zero_optimization"]["zero_hpz_partition_size"] == "auto"
        settings["zero_optimization"] |= {"zero_hpz_partition_size": size, "stage3_param_persistence_threshold": 0}
        path = self._folder / f"hpz-{size}.json"
        path.write_text(json.dumps(settings))
        return str(path)

    _answers: Answers

    def _run(self, world_size: int, ranks_per_node: int, actions: dict[str, Any]) -> None:
        folder = self._folder / f"ranks-{world_size}"
        answers = launch("hierarchical_actions", world_size, actions, folder, ranks_per_node=ranks_per_node)
        self._answers = getattr(self, "_answers", {}) | {name: [answer[name] for answer in answers] for name in actions}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("hierarchical"))


@pytest.mark.parametrize("variant", ["hpz", "hpz evaluated"])
def test_a_second_copy_on_every_node_changes_no_bit(variant: str, runs: Runs) -> None:
    """Neither of the losses, nor of the state, nor of the predictions."""
    for found, expected in zip(runs[variant], runs["zero3"], strict=True):
        assert found["run"] == expected["run"]


def test_a_node_holds_a_second_copy_of_the_whole_model(runs: Runs) -> None:
    for found in runs["hpz"]:
        assert 0.4 < found["second_copy"] < 0.52  # heads that do not predict have none just then
        assert found["lines"] == ["hpz-auto.json: groups of 2 processes hold a second copy of the forward weights"]
    assert [found["second_copy"] for found in runs["zero3"]] == [0.0] * 4


@pytest.mark.parametrize("variant", ["", " frozen"])
def test_copies_of_older_weights_are_not_used_after_a_load(variant: str, runs: Runs) -> None:
    """The engine has trained, and predicted with other weights, just before. No step renews copies of frozen ones."""
    for found, expected in zip(runs[f"hpz loads zero3{variant}"], runs[f"zero3{variant}"], strict=True):
        assert found["predicted"] == expected["run"]["predicted"]
        assert found["losses"] == expected["run"]["losses"][-3:]


def test_a_checkpoint_of_two_level_partitions_is_that_of_plain_zero3(runs: Runs) -> None:
    assert runs.stored("hpz") == runs.stored("zero3")


@pytest.mark.parametrize(("loader", "saver"), [("hpz", "one rank"), ("hybrid", "one rank"), ("hpz", "hybrid")])
def test_states_go_on_under_other_layouts(loader: str, saver: str, runs: Runs) -> None:
    expected = runs[saver][0]["run"]
    for found in runs[f"{loader} loads {saver}"]:
        assert found["checksums"] == found["stored"] == expected["checksums"]
        assert np.allclose(found["predicted"], expected["predicted"], rtol=0, atol=TOLERANCE)
        assert relative_difference(found["losses"], expected["losses"][-3:]) < TOLERANCE


def test_a_partition_that_would_cross_nodes_is_refused_on_every_rank(runs: Runs) -> None:
    for message in runs["over nodes"]:
        assert "zero_hpz_partition_size = 4, but a node has 2 processes: the partition would cross nodes" in message


def test_a_replica_on_every_node_follows_the_trajectory_of_one_model_over_all(runs: Runs) -> None:
    for found, expected in zip(runs["hybrid"], runs["fsdp2"], strict=True):
        assert relative_difference(found["run"]["losses"], expected["run"]["losses"]) < TOLERANCE
        assert found["lines"] == ["engine.replicas = 'nodes': 2, each on 2 processes of its own node"]


def test_one_replica_is_saved_once(runs: Runs) -> None:
    files = sorted(path.name for path in runs.place("hybrid").glob("*.safetensors"))
    assert files == ["rank-00000.safetensors", "rank-00001.safetensors"]


def test_replicas_of_different_sizes_are_refused_on_every_rank(runs: Runs) -> None:
    for message in runs["three replicas"]:
        assert message == "engine.replicas = 3, but 4 processes are running; set a divisor of 4"
