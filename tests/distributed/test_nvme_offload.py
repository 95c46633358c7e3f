"""Optimiser states on NVMe (ds_configs/zero3_nvme.json) are saved from there and loaded to there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import relative_difference
from small_run import ARCHITECTURE, make_plan, make_request
from small_runs import SMALL_BUDGET

from launch import REPOSITORY, launch
from xlt_scale.engines.swap_folder import BYTES_PER_PARAMETER
from xlt_scale.engines.world import World

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
    settings = json.loads((REPOSITORY / "ds_configs" / "zero3_nvme.json").read_text())
    settings["zero_optimization"]["offload_optimizer"]["pin_memory"] = False  # there is no GPU to copy to
    settings["zero_optimization"] |= {"sub_group_size": SUB_GROUP_SIZE, "stage3_param_persistence_threshold": 0}
    config.write_text(json.dumps(settings))
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
    found = launch("checkpoint_actions", 2, actions, folder, seconds=280, variables={"XLT_SCALE_NVME": str(swap)})
    assert list(swap.iterdir()) == []  # every engine has taken its own away
    return found


def test_the_states_really_are_in_swap_files(found: list[dict[str, Any]]) -> None:
    for answer in found:
        files = answer["saved from nvme"]["swap_files"]
        for kind in ("exp_avg", "exp_avg_sq"):
            assert any(Path(name).name.startswith(f"{kind}-") and size > 1 << 20 for name, size in files.items())


def test_they_take_no_more_than_the_space_that_is_asked_for_before(found: list[dict[str, Any]]) -> None:
    request = make_request(World(0, 1, 0, torch.device("cpu")), FSDP2, None, make_plan(WIDE))
    expected = BYTES_PER_PARAMETER * sum(spec.numel for spec in request.parameters.values())
    taken = sum(found[0]["saved from nvme"]["swap_files"].values())  # of both ranks
    assert 0.6 * expected < taken <= expected, (taken, expected)


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
