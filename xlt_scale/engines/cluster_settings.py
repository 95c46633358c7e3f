"""What a DeepSpeed file leaves to the cluster: how many processes a node has, and what the devices can do."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlt_scale.engines.deepspeed_config import QUANTISED
from xlt_scale.engines.node_layout import find_nodes
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError

_log = logging.getLogger(__name__)

PARTITION = "zero_hpz_partition_size"


def fit_to_cluster(settings: dict[str, Any], path: Path, world: World) -> None:
    """Fill in the size of the hierarchical partition (0: processes per node), check it and quantised communication.

    Changes the settings in place. Called on every rank; a collective where the file asks for a hierarchical partition.
    What a user should know of it is logged.

    Raises:
        UserError: a partition would cross nodes, or the devices cannot quantise; the same on every rank.
    """
    zero = settings["zero_optimization"]
    if PARTITION in zero and zero[PARTITION] != 1:
        zero[PARTITION] = _partition_size(zero, path, world)
    _check_quantised(settings, path, world)


def _partition_size(zero: Mapping[str, Any], path: Path, world: World) -> int:
    asked = zero[PARTITION]
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 0:
        raise UserError(f'{path}: {PARTITION} = {json.dumps(asked)}; write "auto" (processes per node) or a count')
    if (zero.get("offload_param") or {}).get("device", "none") != "none":
        raise UserError(
            f"{path}: {PARTITION} with offload_param: the second copy would lie in host memory; remove one of them"
        )
    nodes = find_nodes(world)
    size = asked or nodes.common_size
    if size is None:
        counts = ", ".join(str(count) for count in nodes.sizes)
        raise UserError(
            f'{path}: {PARTITION} = "auto", but the nodes have {counts} processes; '
            "start as many on each, or remove the key"
        )
    if not nodes.keeps_together(size):
        wrong = next(count for count in nodes.sizes if count % size)
        raise UserError(
            f"{path}: {PARTITION} = {size}, but a node has {wrong} processes: the partition would cross nodes; "
            'write "auto" (processes per node), or a divisor'
        )
    if not asked and size in (1, world.size):
        what = "there is one node" if size == world.size else "each node has one process"
        _log.info("%s: no hierarchical partition, since %s", path.name, what)
        return 1
    _log.info("%s: groups of %d processes hold a second copy of the forward weights", path.name, size)
    return int(size)


def _check_quantised(settings: Mapping[str, Any], path: Path, world: World) -> None:
    zero = settings["zero_optimization"]
    asked = [key for key in QUANTISED if zero.get(key)]
    if not asked:
        return
    if world.device.type != "cuda":
        raise UserError(f"{path}: {asked[0]} needs DeepSpeed's CUDA quantiser, and this run is on CPUs; remove the key")
    if "zero_quantized_gradients" in asked and settings["communication_data_type"] != "fp16":
        raise UserError(
            f"{path}: zero_quantized_gradients reads gradients as fp16, but communication_data_type = "
            f'"{settings["communication_data_type"]}"; set that to "fp16", or remove the key'
        )
    _log.info(
        "%s: %s: unmeasured here; results change by more than rounding, so the phases get names of their own",
        path.name,
        " and ".join(asked),
    )
