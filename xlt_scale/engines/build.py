"""Choose and build the engine of a phase."""

import torch

from xlt_scale.engines.interface import Engine, EngineRequest
from xlt_scale.errors import UserError


def resolve_precision(wanted: str, device: torch.device) -> str:
    """'auto' means bf16 with fp32 masters on GPUs and fp32 on CPUs."""
    if wanted != "auto":
        return wanted
    return "bf16" if device.type == "cuda" else "fp32"


def build_engine(request: EngineRequest) -> Engine:
    """The engine that the run names. Collective; imports DeepSpeed only when it is the one."""
    if request.only_scores:
        from xlt_scale.engines.placement import placement_of

        placement = placement_of(request)
        if placement != "sharded":
            from xlt_scale.engines.replicated import ReplicatedEngine

            return ReplicatedEngine(request, spread=placement == "spread")
    if request.options.name == "fsdp2":
        if request.options.deepspeed_config:
            raise UserError("engine.deepspeed_config is set, but engine.name = 'fsdp2' does not read it; remove one")
        from xlt_scale.engines.fsdp2 import Fsdp2Engine

        return Fsdp2Engine(request)
    if request.options.replicas != 1:
        raise UserError(
            f"engine.replicas = {request.options.replicas!r}, but engine.name = 'zero3' has no hybrid sharding; "
            "use engine.name = 'fsdp2', or set it to 1 (nearest to it: ds_configs/zero3_hpz.json)"
        )
    from xlt_scale.engines.zero3 import Zero3Engine

    return Zero3Engine(request)
