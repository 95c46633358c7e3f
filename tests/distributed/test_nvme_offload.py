"""Optimiser states on NVMe are saved from there and loaded to there."""

import json
from pathlib import Path
from typing import Any

import pytest
from agreement import relative_difference
from small_run import ARCHITECTURE
from small_runs import SMALL_BUDGET

from launch import launch

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# Wide enough that each of its sub-groups is larger than what DeepSpeed leaves in memory (1 MB).
WIDE = ARCHITECTURE | {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 4000}
SUB_GROUP_SIZE = 300_000
FSDP2 = {"name": "fsdp2", "max_tokens_per_micro_batch": SMALL_BUDGET}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible():
        pytest.skip("DeepSpeed's asynchronous I/O needs libaio: apt-get install libaio-dev")
    folder = tmp_path_factory.mktemp("nvme")
    swap, config = folder / "swap", folder / "nvme.json"
    swap.mkdir()
    offload = {"device": "nvme", "nvme_path": str(swap), "buffer_count": 4, "pin_memory": False}
    zero = {"stage": 3, "sub_group_size": SUB_GROUP_SIZE, "stage3_param_persistence_threshold": 0}
    asynchronous = {"block_size": 262144, "queue_depth": 8, "thread_count": 1}
    config.write_text(json.dumps({"zero_optimization": zero | {"offload_optimizer": offload}, "aio": asynchronous}))
    nvme = {"name": "zero3", "max_tokens_per_micro_batch": SMALL_BUDGET, "deepspeed_config": str(config)}
    wide = {"architecture": WIDE}
    from_nvme, from_memory = (str(folder / name / "step-00000005") for name in ("nvme", "memory"))
    actions = {
        "saved from nvme": {"do": "swapped", "engine": nvme, "folder": from_nvme, "swap": str(swap)} | wide,
        "nvme to nvme": {"do": "load", "engine": nvme, "folder": from_nvme} | wide,
        "nvme to memory": {"do": "load", "engine": FSDP2, "folder": from_nvme} | wide,
        "saved from memory": {"do": "save", "engine": FSDP2, "folder": from_memory} | wide,
        "memory to nvme": {"do": "load", "engine": nvme, "folder": from_memory} | wide,
    }
    # DeepSpeed compiles its asynchronous I/O at first use.
    return launch("checkpoint_actions", 2, actions, folder, seconds=280)


def test_the_states_really_are_in_swap_files(found: list[dict[str, Any]]) -> None:
    for answer in found:
        files = answer["saved from nvme"]["swap_files"]
        for kind in ("exp_avg", "exp_avg_sq"):
            assert any(Path(name).name.startswith(f"{kind}-") and size > 1 << 20 for name, size in files.items())


def test_what_was_on_nvme_goes_on_from_nvme_with_the_same_bits(found: list[dict[str, Any]]) -> None:
    for answer in found:
        saved, loaded = answer["saved from nvme"], answer["nvme to nvme"]
        assert loaded["checksums"] == loaded["stored"] == saved["checksums"]
        assert loaded["losses"] == saved["losses"]


@pytest.mark.parametrize(("saved", "loaded"), [("nvme", "memory"), ("memory", "nvme")])
def test_it_goes_between_nvme_and_memory(saved: str, loaded: str, found: list[dict[str, Any]]) -> None:
    for answer in found:
        expected, arrived = answer[f"saved from {saved}"], answer[f"{saved} to {loaded}"]
        assert arrived["checksums"] == arrived["stored"] == expected["checksums"]
        assert relative_difference(arrived["losses"], expected["losses"]) < 1e-5
