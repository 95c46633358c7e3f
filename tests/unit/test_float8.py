"""Float8 products: which layers have them, what they round, when they do not, and who is told that they cannot."""

import importlib.util
import logging
from typing import Any

import pytest
import torch
from small_models import MLM, PAIRS, batch_of, build, classification_batch, plan_for
from torch import Tensor, nn
from torchao.float8.float8_linear import Float8Linear

from xlt_scale.errors import UserError
from xlt_scale.modeling.float8 import check_float8, use_float8
from xlt_scale.modeling.float8_linear import TrainingFloat8Linear
from xlt_scale.modeling.headed_encoder import HeadedEncoder

CPU = torch.device("cpu")
LENGTHS = (9, 5, 12)


def float8_model(family: str = "xlm-roberta", **fields: Any) -> HeadedEncoder:
    model = build(plan_for(family, **fields), [PAIRS, MLM]).bfloat16()
    use_float8(model.encoder, "bf16", CPU)
    return model


def layers_of(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, TrainingFloat8Linear)]


def relative_difference(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize(
    ("family", "per_layer"), [("xlm-roberta", 6), ("xlm-roberta-xl", 6), ("bert", 6), ("modernbert", 4), ("t5", 6)]
)
def test_all_products_with_weights_in_the_encoders_stack_are_in_float8_and_no_others(
    family: str, per_layer: int
) -> None:
    model = float8_model(family)
    found = layers_of(model)
    assert len(found) == per_layer * model.plan.num_layers
    assert all(name.startswith("encoder.") and "embedding" not in name for name in found)
    assert sum(isinstance(module, nn.Linear) for module in model.encoder.modules()) == len(found)


def test_parameters_keep_their_names_their_order_and_themselves() -> None:
    model = build(plan_for("xlm-roberta"), [PAIRS, MLM])
    before = dict(model.named_parameters())
    use_float8(model.encoder, "bf16", CPU)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is parameter for name, parameter in before.items())


def test_layers_whose_sides_are_no_multiples_of_16_stay_in_bf16_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="xlt_scale"):
        model = float8_model(intermediate_size=56)
    assert len(layers_of(model)) == 4 * model.plan.num_layers
    assert not any("intermediate" in name for name in layers_of(model))
    assert "16 linear layers of the encoder train in float8; 8 stay in bf16" in caplog.text
    assert "emulated on CPUs" in caplog.text


def test_an_encoder_without_such_layers_is_refused_in_one_line() -> None:
    model = build(plan_for("xlm-roberta", hidden_size=40, intermediate_size=56), [PAIRS])
    with pytest.raises(UserError, match=r"no linear layer .* multiples of 16; set engine.float8 = false"):
        use_float8(model.encoder, "bf16", CPU)


def test_a_training_step_is_rounded_to_float8_and_no_more() -> None:
    losses, gradients = [], []
    for model in (build(plan_for("xlm-roberta"), [PAIRS, MLM]).bfloat16(), float8_model()):
        loss = model(classification_batch(LENGTHS))
        loss.backward()
        losses.append(loss.detach())
        gradients.append(model.encoder.encoder.layer[0].intermediate.dense.weight.grad)
    assert 0 < relative_difference(losses[1], losses[0]) < 1e-2
    # e5m2 has two bits behind the point: each element of a gradient is off by up to an eighth.
    assert 1e-3 < relative_difference(gradients[1], gradients[0]) < 0.15


def test_what_is_scored_is_computed_in_bf16() -> None:
    """So that the engine that trained a model and one that only scores give the same."""
    plain, float8 = build(plan_for("xlm-roberta"), [PAIRS, MLM]).bfloat16(), float8_model()
    batch = batch_of(LENGTHS, PAIRS)
    assert not torch.equal(plain(batch, mode="scores"), float8(batch, mode="scores"))
    assert torch.equal(plain.eval()(batch, mode="scores"), float8.eval()(batch, mode="scores"))


def test_a_weight_that_is_partitioned_after_use_is_not_kept_for_the_backward_pass() -> None:
    """As under ZeRO-3: its values are gone after the forward pass, and back before the backward one."""
    layers = {}
    for kind in ("whole", "partitioned"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.ModuleList([nn.Linear(32, 16)])).bfloat16()
        use_float8(model, "bf16", CPU)
        layers[kind] = model[0][0]
    layers["partitioned"].weight.ds_id = 0
    drawn = torch.randn(2, 5, 32).bfloat16()
    inputs = {kind: drawn.clone().requires_grad_() for kind in layers}
    outputs = {kind: layer(inputs[kind]) for kind, layer in layers.items()}
    assert torch.equal(outputs["whole"], outputs["partitioned"])
    gathered = layers["partitioned"].weight.data
    layers["partitioned"].weight.data = gathered.clone()
    # Whatever still holds the first ones computes with what is no number.
    gathered.untyped_storage().fill_(0xFF)
    assert gathered.isnan().all()
    for output in outputs.values():
        output.square().sum().backward()
    assert torch.equal(inputs["whole"].grad, inputs["partitioned"].grad)
    for name in ("weight", "bias"):
        whole, partitioned = (layers[kind].get_parameter(name).grad for kind in ("whole", "partitioned"))
        assert torch.equal(whole, partitioned), name


def test_float8_needs_bf16_and_says_so() -> None:
    with pytest.raises(UserError, match=r"the run computes in fp32; set engine.precision = 'bf16' \(or set .* false\)"):
        check_float8("fp32", CPU)


def test_float8_goes_without_adapters() -> None:
    with pytest.raises(UserError, match="a phase trains an adapter"):
        check_float8("bf16", CPU, has_adapter=True)


def test_a_gpu_without_float8_products_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UserError, match="NVIDIA A100-SXM4-80GB has no float8 products"):
        check_float8("bf16", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    check_float8("bf16", torch.device("cuda"))


def test_a_missing_torchao_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"torchao is not installed; pip install 'xlt_scale\[float8\]'"):
        check_float8("bf16", CPU)


def test_torchao_still_has_what_the_layer_is_made_of() -> None:
    """Names of torchao's that it does not promise to keep."""
    assert issubclass(TrainingFloat8Linear, Float8Linear)
    layer = float8_model().encoder.encoder.layer[0].output.dense
    assert layer.linear_mm_config.output.emulate
    assert layer.config.cast_config_grad_output.short_str() == "dyn_ten_e5m2"
