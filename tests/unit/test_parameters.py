"""What is known of parameters before any is allocated: names, sizes, how new ones are drawn, which decay or freeze."""

import resource

import pytest
from small_models import FAMILIES, MLM, PAIRS, build, plan_for

from xlt_scale.config import ModelOptions
from xlt_scale.modeling.encoder import EncoderPlan, plan_encoder
from xlt_scale.modeling.parameters import ParameterSpec, describe_parameters
from xlt_scale.sizes import SIZES


def plan_of_size(name: str) -> EncoderPlan:
    return plan_encoder(ModelOptions(size=name, tokenizer="micro", attention="padded"))


@pytest.mark.parametrize("name", SIZES)
def test_the_counts_of_the_size_ladder_are_those_of_the_models(name: str) -> None:
    """Up to 20 and 40 billion parameters: on the meta device they cost nothing."""
    specs = describe_parameters(plan_of_size(name), [])
    assert sum(spec.numel for spec in specs.values()) == SIZES[name].num_parameters
    embeddings = sum(spec.numel for spec in specs.values() if spec.is_embedding)
    norm_of_embeddings = sum(
        spec.numel
        for key, spec in specs.items()
        if key.startswith(("encoder.embeddings.LayerNorm", "encoder.embeddings.norm"))
    )
    assert embeddings + norm_of_embeddings == SIZES[name].num_embedding_parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_shapes_are_those_of_the_model(family: str) -> None:
    plan = plan_for(family)
    specs = describe_parameters(plan, [MLM, PAIRS])
    model = build(plan, [MLM, PAIRS])
    assert {name: spec.shape for name, spec in specs.items()} == {
        name: tuple(parameter.shape) for name, parameter in model.named_parameters()
    }


def test_a_shared_parameter_counts_once() -> None:
    specs = describe_parameters(plan_for("xlm-roberta"), [MLM])
    assert "encoder.embeddings.word_embeddings.weight" in specs
    assert "heads.mlm.decoder.weight" not in specs
    assert "heads.mlm.decoder.bias" in specs


def test_describing_a_model_allocates_none_of_it() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    specs = describe_parameters(plan_of_size("planned-40b"), [MLM, PAIRS])
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    smallest_matrix_kib = 4 * SIZES["planned-40b"].hidden_size ** 2 / 1024
    assert grown_kib < smallest_matrix_kib
    assert sum(4 * spec.numel for spec in specs.values()) > 160e9


def test_matrices_are_drawn_normal_norms_are_one_biases_zero_and_padding_rows_zero() -> None:
    specs = describe_parameters(plan_for("xlm-roberta", initializer_range=0.03), [PAIRS])
    assert specs["encoder.embeddings.word_embeddings.weight"] == ParameterSpec(
        (90, 48), "normal", 0.03, zero_row=1, is_embedding=True
    )
    assert specs["encoder.embeddings.token_type_embeddings.weight"].zero_row is None
    assert specs["encoder.encoder.layer.0.attention.self.query.weight"] == ParameterSpec((48, 48), "normal", 0.03)
    assert specs["encoder.encoder.layer.0.attention.self.query.bias"] == ParameterSpec((48,), "zeros")
    assert specs["encoder.encoder.layer.0.attention.output.LayerNorm.weight"] == ParameterSpec((48,), "ones")
    assert specs["heads.pairs.out_proj.weight"] == ParameterSpec((3, 48), "normal", 0.03)


def test_weight_decay_acts_on_matrices_and_not_on_biases_and_norms() -> None:
    specs = describe_parameters(plan_for("xlm-roberta-xl"), [MLM, PAIRS])
    spared = {name for name, spec in specs.items() if not spec.decays}
    assert spared == {name for name in specs if name.endswith(".bias") or "norm" in name.lower()}


def test_embeddings_are_the_word_position_and_token_type_tables() -> None:
    specs = describe_parameters(plan_for("bert"), [MLM, PAIRS])
    assert {name for name, spec in specs.items() if spec.is_embedding} == {
        f"encoder.embeddings.{table}_embeddings.weight" for table in ("word", "position", "token_type")
    }
