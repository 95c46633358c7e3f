"""The size ladder: parameter counts to the last parameter, and the floating-point operations of training."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from xlt_scale.errors import UserError
from xlt_scale.sizes import SIZES, find_size, training_flops


@pytest.mark.parametrize(
    ("name", "total", "non_embedding"),
    [
        ("xlmr-base", 277_453_056, 85_054_464),
        ("xlmr-large", 558_840_832, 302_309_376),
        ("xlmr-xl", 3_475_929_600, 2_832_358_400),
        ("xlmr-xxl", 10_695_954_432, 9_666_240_512),
    ],
)
def test_the_published_sizes_have_their_exact_counts(name: str, total: int, non_embedding: int) -> None:
    assert find_size(name).num_parameters == total
    assert find_size(name).num_non_embedding_parameters == non_embedding


@pytest.mark.parametrize("name", SIZES)
def test_the_counts_are_those_of_the_hugging_face_model(name: str) -> None:
    size = find_size(name)
    architecture = size.architecture()
    config = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    with torch.device("meta"):
        model = AutoModel.from_config(config, add_pooling_layer=False)
    assert size.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    embeddings = sum(parameter.numel() for parameter in model.embeddings.parameters())
    assert size.num_embedding_parameters == embeddings


def test_the_planned_sizes_are_above_twenty_and_forty_billion() -> None:
    assert 19e9 < find_size("planned-20b").num_parameters < 22e9
    assert 38e9 < find_size("planned-40b").num_parameters < 44e9


def test_heads_divide_the_hidden_size() -> None:
    assert [size.name for size in SIZES.values() if size.hidden_size % size.num_heads] == []


def test_an_unknown_size_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError) as error:
        find_size("xlmr-lage")
    assert str(error.value) == "model.size = 'xlmr-lage' is unknown; did you mean 'xlmr-large'?"


def test_training_flops_count_parameters_per_token_and_attention_per_squared_length() -> None:
    # Two sequences of 3 and 5 tokens, 10 parameters, 2 layers of width 4.
    assert training_flops(10, 2, 4, 3 + 5, 9 + 25) == 6 * 10 * 8 + 12 * 2 * 4 * 34
