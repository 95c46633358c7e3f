"""Trains an engine for a step and tells what bytes of it this rank holds: weights, gradients, moments."""

from collections.abc import Iterable
from typing import Any

from small_run import ARCHITECTURE, make_engine, make_plan, make_request, run_actions, run_loop
from torch import Tensor

from xlt_scale.engines.interface import Engine
from xlt_scale.engines.world import World
from xlt_scale.modeling.heads import HeadSpec

HEAD = HeadSpec("pairs", "classification", 3)


def hold(
    world: World, engine: dict[str, Any], architecture: dict[str, Any], optimizer: str, freezes: bool = False
) -> dict[str, int]:
    plan = make_plan(ARCHITECTURE | architecture)
    phase = {"mixture": {"pairs": 1.0}, "optimizer": optimizer, "freeze_embeddings": freezes}
    request = make_request(world, engine, phase, plan, [HEAD])
    built: Any = make_engine(request)
    gradients: list[int] = []
    if engine["name"] == "fsdp2":
        clip = built._clip

        def clip_and_count(found: list[Tensor]) -> Tensor:
            gradients.append(num_bytes(found))
            return clip(found)

        built._clip = clip_and_count
    run_loop(built, request, num_steps=1)
    specs = request.parameters.values()
    answer = {
        "count": sum(spec.numel for spec in specs),
        "embeddings": sum(spec.numel for spec in specs if spec.is_embedding),
        "undecayed": sum(spec.numel for spec in specs if not spec.decays),
        "parameters": num_bytes(weights(built)),
        "gradients": gradients[0] if gradients else num_bytes([built._engine.optimizer.grad_partitions_flat_buffer]),
        "optimizer": num_bytes(moments(built)),
    }
    built.destroy()
    return answer


def weights(engine: Engine) -> list[Tensor]:
    """In the forward precision, and masters where they are apart."""
    built: Any = engine
    if hasattr(built, "_engine"):
        parts = [*built._frozen.values(), *(parameter.ds_tensor.data for parameter in built._parameters.values())]
        return parts + [flat.data for flat in built._engine.optimizer.fp32_partitioned_groups_flat]
    found = [*built._model.parameters(), *built._parameters.values()]
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor.data for tensor in found]


def moments(engine: Engine) -> list[Tensor]:
    built: Any = engine
    states = built._moments.states.values()
    tables = ("step", "qmap1", "qmap2")
    tensors = [value for state in states for key, value in state.items() if key not in tables]
    return [tensor for tensor in tensors if isinstance(tensor, Tensor)]


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Of all different storages."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


if __name__ == "__main__":
    run_actions({"hold": hold})
