"""Where a model goes that is only scored; memory and GPUs are made up here."""

from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
from small_models import MLM, PAIRS, plan_for

from xlt_scale.config import EngineOptions, PhaseOptions
from xlt_scale.engines import placement
from xlt_scale.engines.interface import EngineRequest
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.modeling.encoder import build_encoder
from xlt_scale.modeling.parameters import describe_parameters

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PHASE = PhaseOptions(name="look", evaluate=["tatoeba"])


class PretendWorld(World):
    """Ranks that all think alike."""

    def gather(self, item: object) -> list[object]:
        return [item] * self.size


def request(size: int = 1, device: torch.device = CPU, precision: str = "fp32", scoring: str = "auto") -> EngineRequest:
    plan, heads = plan_for("xlm-roberta"), (MLM, PAIRS)
    return EngineRequest(
        world=PretendWorld(0, size, 0, device),
        plan=plan,
        heads=heads,
        parameters=describe_parameters(plan, heads),
        options=EngineOptions(scoring=scoring),
        phase=PHASE,
        precision=precision,
        only_scores=True,
    )


def num_parameters() -> int:
    return sum(spec.numel for spec in request().parameters.values())


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let so many bytes be free, on the host and on the GPU."""

    def free(num_bytes: float) -> None:
        memory = SimpleNamespace(available=int(num_bytes))
        monkeypatch.setattr(placement.psutil, "virtual_memory", lambda: memory)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(num_bytes), 10**12))
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)

    return free


@pytest.mark.parametrize(
    ("size", "device", "copies", "expected"),
    [
        (1, CPU, 2.0, "replicated"),
        (1, GPU, 2.0, "replicated"),
        (8, GPU, 2.0, "replicated"),
        (8, GPU, 1.2, "sharded"),
        (1, GPU, 1.2, "spread"),
        (1, CPU, 1.2, "replicated"),
        (2, CPU, 4.0, "replicated"),
        (2, CPU, 2.0, "sharded"),
    ],
)
def test_a_model_is_copied_where_it_leaves_room_for_the_forward_pass(
    free: Any, size: int, device: torch.device, copies: float, expected: str
) -> None:
    """`copies`: how many of it would fill the free memory, which processes on one host share."""
    free(copies * 4 * num_parameters())
    assert placement.placement_of(request(size, device)) == expected


def test_a_model_in_bf16_takes_half_the_room(free: Any) -> None:
    free(4 * num_parameters())
    assert placement.placement_of(request(8, GPU, "fp32")) == "sharded"
    assert placement.placement_of(request(8, GPU, "bf16")) == "replicated"


@pytest.mark.parametrize("wanted", ["replicated", "sharded", "spread"])
def test_what_is_asked_for_is_done_whatever_is_free(free: Any, wanted: str) -> None:
    free(0)
    assert placement.placement_of(request(scoring=wanted)) == wanted


def test_several_processes_do_not_spread_one_model() -> None:
    with pytest.raises(UserError, match="is for a single process, 8 are running; start one without a launcher"):
        placement.placement_of(request(8, scoring="spread"))


def spread(family: str, memory: dict[Any, float]) -> tuple[Any, dict[str, Any]]:
    """An encoder without memory, and the map for devices with room for so many of the whole."""
    with accelerate.init_empty_weights(include_buffers=False):
        encoder = build_encoder(plan_for(family))
    encoder.tie_weights()
    whole = 4 * sum(parameter.numel() for parameter in encoder.parameters())
    shares = {device: int(share * whole) for device, share in memory.items()}
    return encoder, placement.device_map(encoder, torch.float32, shares)


def device_of(name: str, places: dict[str, Any]) -> Any:
    (prefix,) = [prefix for prefix in places if name == prefix or name.startswith(f"{prefix}.")]
    return places[prefix]


@pytest.mark.parametrize("family", ["xlm-roberta", "bert", "modernbert", "t5", "xlnet"])
def test_every_layer_lies_whole_on_one_of_two_gpus(family: str) -> None:
    encoder, places = spread(family, {0: 0.95, 1: 0.95, "cpu": 10.0})
    names = [name for name, _ in encoder.named_parameters()]
    assert {device_of(name, places) for name in names} == {0, 1}
    (stack,) = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.ModuleList) and name in ("encoder.layer", "layers", "encoder.block", "layer")
    ]
    for number in range(encoder.config.num_hidden_layers):
        layer = [name for name in names if name.startswith(f"{stack}.{number}.")]
        assert layer and len({device_of(name, places) for name in layer}) == 1


def test_tied_weights_lie_together() -> None:
    encoder, places = spread("t5", {0: 0.95, 1: 0.95})
    names = [name for name, module in encoder.named_modules() if isinstance(module, torch.nn.Embedding)]
    shared = [name for name in names if encoder.get_submodule(name).weight is encoder.get_input_embeddings().weight]
    assert len(shared) == 2 and len({device_of(name, places) for name in shared}) == 1


def test_what_the_gpus_do_not_hold_stays_on_the_host() -> None:
    _, places = spread("xlm-roberta", {0: 0.5, "cpu": 10.0})
    assert set(places.values()) == {0, "cpu"}


def test_a_model_that_no_device_holds_is_refused() -> None:
    with pytest.raises(UserError, match="start more processes, and it is sharded"):
        spread("xlm-roberta", {0: 0.3, 1: 0.3, "cpu": 0.1})


def test_a_part_of_free_memory_is_left_for_the_tokens(free: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free(1000)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert placement.memory_of_devices(World(0, 1, 0, GPU), reserved=100) == {0: 600, 1: 700, "cpu": 700}
    assert placement.memory_of_devices(World(0, 1, 0, CPU), reserved=100) == {"cpu": 600}
