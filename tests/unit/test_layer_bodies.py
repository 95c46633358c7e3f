"""Layers that keep less for their backward pass, and compiled ones, compute what plain ones do."""

import copy

import pytest
import torch
from small_models import PAIRS, build, classification_batch, plan_for
from torch.utils.flop_counter import FlopCounterMode

from xlt_scale.config import EngineOptions
from xlt_scale.errors import UserError
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.layer_bodies import compile_layers, prepare_layers, recompute_activations

LENGTHS = [9, 7, 7, 3]


@pytest.fixture(scope="module")
def model() -> HeadedEncoder:
    return build(plan_for("xlm-roberta-xl"), [PAIRS])


def test_the_more_is_computed_again_the_less_is_kept_and_gradients_stay_the_same(model: HeadedEncoder) -> None:
    expected, all_bytes = gradients_and_kept_bytes(copy.deepcopy(model))
    kept = {}
    for name, policy, every in (("inputs", "inputs", 1), ("half", "inputs", 2), ("products", "products", 1)):
        changed = copy.deepcopy(model)
        recompute_activations(changed, policy, every)  # type: ignore[arg-type]
        found, kept[name] = gradients_and_kept_bytes(changed)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert kept["inputs"] < 0.2 * all_bytes
    assert kept["inputs"] < kept["half"] < 0.7 * all_bytes


def test_products_and_attention_are_not_computed_twice(model: HeadedEncoder) -> None:
    def count(policy: str) -> int:
        changed = copy.deepcopy(model)
        if policy:
            recompute_activations(changed, policy)  # type: ignore[arg-type]
        with FlopCounterMode(display=False) as counter:
            changed(classification_batch(LENGTHS)).backward()
        return counter.get_total_flops()

    plain = count("")
    assert count("products") == plain
    assert count("inputs") > plain


def test_compiled_layers_keep_what_selective_recomputation_keeps() -> None:
    """Padded, where the compiler sees attention, as it does on GPUs without padding."""
    plain = build(plan_for("xlm-roberta-xl", attention="padded"), [PAIRS])
    kept, gradients = {}, {}
    for name in ("", "selective"):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        changed = copy.deepcopy(plain)
        prepare_layers(changed, EngineOptions(compile=True, activation_checkpointing=name or False))  # type: ignore[arg-type]
        gradients[name], kept[name] = gradients_and_kept_bytes(changed)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
        assert not torch._dynamo.utils.counters["graph_break"]
    assert kept["selective"] < 0.7 * kept[""]
    assert all((gradients["selective"][key] - gradients[""][key]).abs().max() < 1e-6 for key in gradients[""])


def test_names_of_parameters_stay_what_they_are(model: HeadedEncoder) -> None:
    changed = copy.deepcopy(model)
    compile_layers(changed)
    recompute_activations(changed, "inputs")
    assert [name for name, _ in changed.named_parameters()] == [name for name, _ in model.named_parameters()]


def test_one_compilation_serves_all_layers_and_lengths(model: HeadedEncoder) -> None:
    torch._dynamo.reset()
    compiled = copy.deepcopy(model)
    compile_layers(compiled)
    graphs = []
    for lengths in (LENGTHS, [12, 5], [30, 20, 11, 4, 4], [64, 3], [100, 90, 80]):
        batch = classification_batch(lengths)
        difference = (compiled(batch) - model(batch)).abs()
        assert difference < 1e-5
        compiled(batch).backward()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs[-1] == graphs[0]


def test_an_encoder_whose_layers_are_one_is_refused_in_one_line() -> None:
    shared = build(plan_for("xlnet"), [PAIRS])
    shared.plan.config.n_layer = 3  # as many as no stack of modules has
    with pytest.raises(UserError, match=r"engine\.activation_checkpointing is set, but xlnet has no stack of layers"):
        recompute_activations(shared, "inputs")
    with pytest.raises(UserError, match=r"engine\.compile = true, but xlnet .*; set it to false"):
        compile_layers(shared)


def gradients_and_kept_bytes(model: HeadedEncoder) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a batch's loss, and the bytes that the forward pass has kept for them beside the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(classification_batch([60, 50, 40, 40]))
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}, sum(
        kept.values()
    )
