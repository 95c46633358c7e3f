"""On a GPU: the attention kernel is right, a step never waits for the device, and compiled layers compute the same."""

from functools import partial
from typing import Any

import pytest
import torch
from small_models import PAIRS, batch_of, plan_for

from xlt_scale.config import EngineOptions, PhaseOptions
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.build import build_engine
from xlt_scale.engines.interface import Engine, EngineRequest
from xlt_scale.engines.portions import Part, PortionedOptimizer
from xlt_scale.engines.world import join_world
from xlt_scale.modeling.attention import sequence_arguments, unpadded_attention
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.modeling.weights import FreshWeights

pytestmark = [pytest.mark.gpu]

LENGTHS = [128, 77, 77, 38, 5, 1]


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("head_size", [64, 80, 128])
def test_the_kernel_gives_what_dense_attention_gives(head_size: int, window: int | None) -> None:
    random = torch.Generator().manual_seed(0)
    states = [torch.randn(1, 4, sum(LENGTHS), head_size, generator=random).bfloat16() for _ in range(3)]
    weights = torch.randn(1, sum(LENGTHS), 4, head_size, generator=random)
    expected = _attention_and_gradients([each.float() for each in states], weights, window)
    found = _attention_and_gradients([each.cuda() for each in states], weights.cuda(), window)
    for one, other in zip(found, expected, strict=True):
        assert torch.linalg.vector_norm(one.cpu().float() - other) < 0.02 * torch.linalg.vector_norm(other)


WITHOUT_MASTERS = {"precision": "bf16_stochastic"}
SELECTIVE = {"compile": True, "activation_checkpointing": "selective"}


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("options", [{}, {"keep_gathered": False}, {"compile": True}, WITHOUT_MASTERS], ids=str)
def test_a_step_never_waits_for_the_device(options: dict[str, Any], optimizer: str) -> None:
    engine, batch = _engine(options, optimizer), _batch().pinned()
    for _ in range(3):
        _step(engine, batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _step(engine, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        engine.destroy()


@pytest.mark.parametrize(
    "options",
    [{"compile": True}, SELECTIVE, {"keep_gathered": False}, {"offload": "optimizer"}, WITHOUT_MASTERS],
    ids=str,
)
def test_losses_are_those_of_the_plain_engine(options: dict[str, Any]) -> None:
    losses = []
    for found in ({}, options):
        engine, batch = _engine(found), _batch()
        losses.append(torch.stack([_step(engine, batch) for _ in range(5)]).tolist())
        engine.destroy()
    assert losses[0][0] - losses[0][-1] > 0.05
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("options", [{}, WITHOUT_MASTERS], ids=str)
def test_paged_states_train(options: dict[str, Any]) -> None:
    engine, batch = _engine({"offload": "paged"} | options, optimizer="adamw_8bit"), _batch()
    losses = [float(_step(engine, batch)) for _ in range(5)]
    engine.destroy()
    assert losses[-1] < losses[0]


def _attention_and_gradients(
    states: list[torch.Tensor], weights: torch.Tensor, window: int | None
) -> list[torch.Tensor]:
    states = [each.clone().requires_grad_() for each in states]
    boundaries = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(states[0].device)
    arguments = sequence_arguments(LENGTHS, boundaries)
    output, _ = unpadded_attention(torch.nn.Identity(), *states, None, sliding_window=window, **arguments)
    (output.float() * weights).sum().backward()
    return [output.detach(), *(each.grad for each in states if each.grad is not None)]


def _batch() -> MicroBatch:
    return batch_of([60, 50, 40, 40], PAIRS, labels=torch.arange(4) % 3)


def test_weights_without_masters_become_the_same_on_both_kinds_of_device() -> None:
    """Only rounding of gradients differs between them, so nearly all elements are the same number."""
    found = []
    for device in ("cpu", "cuda"):
        weight = torch.nn.Parameter(
            torch.randn(300_000, generator=torch.Generator().manual_seed(0)).bfloat16().to(device)
        )
        optimizer = PortionedOptimizer([{"name": "decay", "params": [weight]}], partial(torch.optim.AdamW, lr=1e-3), 1)
        optimizer.describe(weight, [Part("weight", 0, weight.numel(), 0)])
        weight.grad = torch.randn(300_000, generator=torch.Generator().manual_seed(1)).bfloat16().to(device)
        optimizer.step()
        found.append(weight.detach().cpu())
    assert (found[0] == found[1]).float().mean() > 0.999


def _engine(options: dict[str, Any], optimizer: str = "adamw") -> Engine:
    plan = plan_for("xlm-roberta-xl", hidden_size=128, num_attention_heads=2, intermediate_size=256)
    phase: dict[str, Any] = {"name": "small", "task": "pairs", "steps": 10, "optimizer": optimizer}
    request = EngineRequest(
        world=join_world("cuda"),
        plan=plan,
        heads=[PAIRS],
        parameters=describe_parameters(plan, [PAIRS]),
        options=EngineOptions(name="fsdp2", **options),
        phase=PhaseOptions(**phase),
        precision=options.get("precision", "bf16"),
    )
    engine = build_engine(request)
    engine.load_parameters(FreshWeights(request.parameters, 1))
    engine.train(True)
    return engine


def _step(engine: Engine, batch: MicroBatch) -> torch.Tensor:
    loss = engine.forward(batch.to(engine.world.device)) / 4
    engine.backward(loss, is_last=True)
    engine.step(1e-3)
    return loss.detach()
