"""Encoders on real tokens only give what they give on padded batches: hidden states, losses, gradients."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import (
    DECODERS,
    ENCODERS_WITHOUT_PADDING,
    MLM,
    PAIRS,
    WINDOW,
    build,
    classification_batch,
    masked_batch,
    plan_for,
)
from torch import Tensor

from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.modeling.attention import sequence_arguments, unpadded_attention
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.layer_bodies import recompute_activations

LENGTHS = (4 * WINDOW + 9, 4 * WINDOW, 33, 33, 17, 5, 1)
TOLERANCE = 1e-5
CAUSAL = tuple(f"{family} causal" for family in DECODERS)
BATCHES = {"mlm": masked_batch, "pairs": classification_batch}


@pytest.fixture(params=[*ENCODERS_WITHOUT_PADDING, *DECODERS, *CAUSAL])
def models(request: pytest.FixtureRequest) -> tuple[HeadedEncoder, HeadedEncoder]:
    """The same weights, run unpadded and run padded."""
    family, _, causal = request.param.partition(" ")
    plans = [
        plan_for(family, path, False if causal else None, initializer_range=0.2) for path in ("unpadded", "padded")
    ]
    packed, padded = (build(plan, [MLM, replace(PAIRS, pooling=plan.pooling)]) for plan in plans)
    assert packed.plan.unpadded and not padded.plan.unpadded
    return packed, padded


def batch_for(model: HeadedEncoder, head: str) -> MicroBatch:
    return BATCHES[head](LENGTHS, token_types=model.plan.has_token_types)


def hidden_states(model: HeadedEncoder, batch: MicroBatch) -> Tensor:
    """What the head is given: the last hidden states of the real tokens, [T, hidden size]."""
    seen: list[Tensor] = []
    hook = model.heads[batch.head].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model(batch, mode="predictions")
    hook.remove()
    return seen[0]


def loss_and_gradients(model: HeadedEncoder, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
    loss = model(batch) / batch.num_targets
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def test_hidden_states_are_equal(models: tuple[HeadedEncoder, HeadedEncoder]) -> None:
    packed, padded = models
    batch = batch_for(packed, "pairs")
    found, expected = hidden_states(packed, batch), hidden_states(padded, batch)
    assert found.shape == (sum(LENGTHS), packed.plan.hidden_size)
    assert (found - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("head", ["pairs", "mlm"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "activation_checkpointing"])
def test_losses_and_all_gradients_are_equal(
    models: tuple[HeadedEncoder, HeadedEncoder], head: str, checkpointing: bool
) -> None:
    packed, padded = models
    if checkpointing:
        recompute_activations(packed, "inputs")
    batch = batch_for(packed, head)
    loss, gradients = loss_and_gradients(packed.train(), batch)
    expected_loss, expected_gradients = loss_and_gradients(padded.train(), batch)
    assert abs(loss - expected_loss) < TOLERANCE
    assert gradients.keys() == expected_gradients.keys()
    differences = {name: _largest(gradients[name] - expected_gradients[name]) for name in gradients}
    assert max(differences.values()) < TOLERANCE, max(differences, key=lambda name: differences[name])
    is_query = re.compile(r"(query|Wqkv|q_proj)\.weight$").search
    queries = [gradient for name, gradient in gradients.items() if is_query(name)]
    assert len(queries) == packed.plan.num_layers
    assert all(_largest(gradient) > 1e-3 for gradient in queries)


@pytest.mark.parametrize("layer", [0, 1, 4])
def test_mean_pooled_embeddings_of_a_layer_are_equal(models: tuple[HeadedEncoder, HeadedEncoder], layer: int) -> None:
    batch = batch_for(models[0], "pairs")
    found, expected = (model(batch, mode="embedding", layers=[layer]) for model in models)
    assert found.shape == (len(LENGTHS), 1, models[0].plan.hidden_size)
    assert (found - expected).abs().max() < TOLERANCE


def test_a_sequence_does_not_see_its_neighbours(models: tuple[HeadedEncoder, HeadedEncoder]) -> None:
    packed, _ = models
    batch = batch_for(packed, "pairs")
    before = hidden_states(packed, batch)
    batch.input_ids[: LENGTHS[0]] = 7
    after = hidden_states(packed, batch)
    assert torch.equal(before[LENGTHS[0] :], after[LENGTHS[0] :])
    assert not torch.allclose(before[: LENGTHS[0]], after[: LENGTHS[0]])


def test_the_local_window_bounds_what_modernbert_layers_see() -> None:
    """Without this the comparison of ModernBERT would say nothing about windows."""
    local = {"layer_types": ["sliding_attention"] * 4, "initializer_range": 0.2}
    packed = build(plan_for("modernbert", "unpadded", **local), [PAIRS])
    batch = batch_for(packed, "pairs")
    before = hidden_states(packed, batch)
    batch.input_ids[0] = (batch.input_ids[0] + 1) % 80 + 5
    changed = (hidden_states(packed, batch) - before).abs().amax(-1)[: LENGTHS[0]].nonzero().flatten()
    assert changed.max() == 4 * (WINDOW // 2)


def test_token_types_are_told_apart() -> None:
    packed = build(plan_for("bert", "unpadded", initializer_range=0.2), [PAIRS])
    with_types, without = classification_batch(LENGTHS, token_types=True), classification_batch(LENGTHS)
    assert (hidden_states(packed, with_types) - hidden_states(packed, without)).abs().max() > 0.01


def test_grouped_key_and_value_heads_are_shared_by_their_query_heads() -> None:
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 12, 8, generator=random) for heads in (4, 2, 2))
    arguments: dict[str, Any] = sequence_arguments([7, 5], torch.tensor([0, 7, 12]))
    found, _ = unpadded_attention(torch.nn.Identity(), query, key, value, None, **arguments)
    wide = (states.repeat_interleave(2, dim=1) for states in (key, value))
    expected, _ = unpadded_attention(torch.nn.Identity(), query, *wide, None, **arguments)
    assert torch.equal(found, expected)


def _largest(tensor: Tensor) -> float:
    return tensor.abs().max().item()
