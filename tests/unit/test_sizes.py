"""The size ladders: parameter counts to the last parameter, and the floating-point operations of training."""

import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import accelerate
import pytest
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from xlt_scale.errors import UserError
from xlt_scale.modeling.family import encoder_class, text_configuration
from xlt_scale.sizes import LADDERS, SIZES, ModelSize, family_of, find_size, ladders, size_of_fields, training_flops


def configuration(size: ModelSize) -> PretrainedConfig:
    fields = size.architecture()
    return text_configuration(AutoConfig.for_model(fields.pop("model_type"), **fields))


def model_without_memory(config: PretrainedConfig) -> PreTrainedModel:
    """The bare encoder of the real class on the meta device, shared tables shared."""
    found = encoder_class(config)
    has_pooler = "add_pooling_layer" in inspect.signature(found.__init__).parameters
    with accelerate.init_empty_weights(), no_init_weights():
        model = found._from_config(config, **({"add_pooling_layer": False} if has_pooler else {}))
    model.tie_weights()
    return model


def counts(model: PreTrainedModel) -> tuple[int, int]:
    """All parameters, and those of tables with the normalisation of what they give."""
    of_embeddings = {id(table.weight): table.weight for table in model.modules() if isinstance(table, nn.Embedding)}
    if hasattr(model, "embeddings"):
        of_embeddings |= {id(parameter): parameter for parameter in model.embeddings.parameters()}
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, sum(parameter.numel() for parameter in of_embeddings.values())


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
    assert counts(model_without_memory(configuration(size))) == (size.num_parameters, size.num_embedding_parameters)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("xlmr-base", {"num_hidden_layers": 3, "vocab_size": 999}),
        ("mdeberta-base", {"position_buckets": -1, "position_biased_input": True, "type_vocab_size": 2}),
        ("mmbert-base", {"mlp_bias": True, "norm_bias": True}),
        ("rembert", {"input_embedding_size": 128}),
        ("umt5-small", {"relative_attention_num_buckets": 16, "num_layers": 2, "d_kv": 32}),
        ("mt5-small", {"feed_forward_proj": "relu"}),
        ("qwen3-0.6b", {"attention_bias": True, "num_key_value_heads": 4}),
        ("gemma3-1b", {"head_dim": 64, "num_hidden_layers": 7}),
    ],
)
def test_the_counts_hold_for_changed_configurations(name: str, changed: dict[str, object]) -> None:
    size = size_of_fields(find_size(name).architecture() | changed)
    assert size is not None
    assert counts(model_without_memory(configuration(size))) == (size.num_parameters, size.num_embedding_parameters)


@pytest.mark.parametrize("name", SIZES)
def test_a_size_is_found_again_in_its_configuration(name: str) -> None:
    size = find_size(name)
    found = size_of_fields(configuration(size).to_dict())
    assert found is not None
    for attribute in ("num_layers", "hidden_size", "num_heads", "num_key_value_heads", "head_size", "vocab_size"):
        assert getattr(found, attribute) == getattr(size, attribute), attribute
    assert (found.num_parameters, found.num_embedding_parameters) == (
        size.num_parameters,
        size.num_embedding_parameters,
    )


def test_of_a_multimodal_configuration_the_text_part_counts_and_missing_fields_have_their_defaults() -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    size = size_of_fields({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}})
    assert size is not None
    assert size.num_parameters == find_size("gemma3-4b").num_parameters


def test_a_window_that_is_stated_but_not_used_does_not_count() -> None:
    fields = find_size("qwen3-0.6b").architecture() | {"sliding_window": 4096, "use_sliding_window": False}
    size = size_of_fields(fields)
    assert size is not None
    assert size.sliding_window == 0


@pytest.mark.parametrize("fields", [{}, {"model_type": "resnet"}, {"model_type": "bert", "hidden_size": "wide"}])
def test_fields_that_describe_no_text_model_give_no_size(fields: dict[str, object]) -> None:
    assert size_of_fields(fields) is None


def test_a_size_made_of_dimensions_alone_has_the_rest_from_its_model_type() -> None:
    size = ModelSize("", "xlm-roberta", 2, 64, 4, 128, 500, 514)
    assert (size.family, size.num_key_value_heads, size.head_size) == ("XLM-R", 4, 16)
    assert (size.is_pre_norm, size.is_decoder, size.is_gated, size.has_biases) == (False, False, False, True)


@pytest.mark.parametrize(
    ("model_type", "family"),
    [
        ("xlm-roberta", "XLM-R"),
        ("xlm-roberta-xl", "XLM-R"),
        ("gemma3", "Gemma 3"),
        ("gemma3_text", "Gemma 3"),
        ("t5gemma", "T5Gemma"),
        ("deberta-v2", "mDeBERTa"),
        ("bert", "bert"),
    ],
)
def test_a_family_is_known_by_its_model_types(model_type: str, family: str) -> None:
    assert family_of(model_type) == family


def test_what_families_differ_in() -> None:
    decoders = {size.family for size in SIZES.values() if size.is_decoder}
    assert decoders == {"Qwen3", "Gemma 3"}
    assert {size.family for size in SIZES.values() if size.has_biases} == {"XLM-R", "micro", "mDeBERTa", "RemBERT"}
    assert {size.family for size in SIZES.values() if size.sliding_window} == {"mmBERT", "T5Gemma", "Gemma 3"}
    assert not {size.family for size in SIZES.values() if size.is_gated} & {"XLM-R", "micro", "mDeBERTa", "RemBERT"}
    # Heads times their width need not be the hidden size.
    assert find_size("qwen3-32b").attention_width == 8192 > find_size("qwen3-32b").hidden_size


def test_every_size_but_ours_is_published_somewhere() -> None:
    assert {size.name for size in SIZES.values() if not size.hub_name and size.family != "micro"} == {
        "planned-20b",
        "planned-40b",
    }
    hub_names = [size.hub_name for size in SIZES.values() if size.hub_name]
    assert len(hub_names) == len(set(hub_names))


def test_every_ladder_names_its_sources_and_what_is_confounded_in_it() -> None:
    for ladder in LADDERS.values():
        if ladder.family != "micro":
            assert ladder.sources and ladder.confounded and ladder.licence, ladder.family


def test_every_file_of_a_ladder_is_read() -> None:
    folder = Path(ladders.__file__).parent / "ladders"
    declared = [tomllib.loads(file.read_text(encoding="utf-8"))["family"] for file in folder.glob("*.toml")]
    assert sorted(declared) == sorted(LADDERS)


def test_the_planned_sizes_are_above_twenty_and_forty_billion() -> None:
    assert 19e9 < find_size("planned-20b").num_parameters < 22e9
    assert 38e9 < find_size("planned-40b").num_parameters < 44e9


def test_an_unknown_size_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError) as error:
        find_size("xlmr-lage")
    assert str(error.value) == "model.size = 'xlmr-lage' is unknown; did you mean 'xlmr-large'?"


def test_the_ladders_are_there_without_torch() -> None:
    script = "import json, sys, xlt_scale.sizes as s; print(json.dumps([len(s.SIZES), 'torch' in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [len(SIZES), False]


def test_training_flops_count_parameters_per_token_and_attention_per_squared_length() -> None:
    # Two sequences of 3 and 5 tokens, 10 parameters, 2 layers of width 4.
    assert training_flops(10, 2, 4, 3 + 5, 9 + 25) == 6 * 10 * 8 + 12 * 2 * 4 * 34
