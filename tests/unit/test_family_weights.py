"""Published models of more than one part: what reads text is taken, everything else left in the files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import FAMILIES, GEMMA, MLM, VOCABULARY, batch_of
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedModel,
)

from xlt_scale.config import ModelOptions
from xlt_scale.modeling.encoder import EncoderPlan, plan_encoder
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.modeling.weights import PretrainedWeights


def saved(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    return model.eval()


def taken(folder: Path) -> tuple[EncoderPlan, HeadedEncoder, set[str]]:
    """The model that a run makes of the folder, and the names of those parameters that the files did not have."""
    plan = plan_encoder(ModelOptions(name=str(folder), max_length=64))
    specs = describe_parameters(plan, [MLM])
    source = PretrainedWeights(folder, specs, plan.prefix)
    model = HeadedEncoder(plan, [MLM]).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if source.has(name):
                parameter.view(-1).copy_(source.read(name, 0, parameter.numel()))
    return plan, model, {name for name in specs if not source.has(name)}


def hidden_of(model: HeadedEncoder) -> Tensor:
    batch = batch_of([24], MLM)
    return model._real_tokens(model._encode(batch).last_hidden_state, batch)


def given() -> Tensor:
    return batch_of([24], MLM).input_ids[None]


@torch.no_grad()
@pytest.mark.parametrize("family", ["mt5", "umt5", "t5gemma"])
def test_of_an_encoder_decoder_the_encoder_alone_is_taken(family: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(family, **FAMILIES[family])
    # Up to version 5.17 the library leaves out T5Gemma's cap on scores elsewhere.
    published = saved(AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager"), tmp_path)
    plan, model, missing = taken(tmp_path)
    assert missing == {name for name in missing if name.startswith("heads.")}
    assert plan.pooling == "mean" and not plan.is_decoder
    assert not [name for name, _ in model.named_parameters() if "decoder." in name and not name.startswith("heads.")]
    expected = published.get_encoder()(input_ids=given()).last_hidden_state[0]
    assert torch.allclose(hidden_of(model), expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("start", ["language_model.model.", "model.language_model.", "model.language_model.model."])
def test_of_a_model_that_also_sees_the_part_that_reads_is_taken(start: str, tmp_path: Path) -> None:
    vision: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    text = GEMMA | {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_id=VOCABULARY - 1)
    published = saved(Gemma3ForConditionalGeneration(config), tmp_path)
    rename_text_part(tmp_path, start)
    plan, model, missing = taken(tmp_path)
    assert plan.config.model_type == "gemma3_text" and plan.is_decoder
    assert not missing
    reading = published.model.language_model
    reading.config.is_causal = False
    assert torch.allclose(hidden_of(model), reading(input_ids=given()).last_hidden_state[0], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_a_decoders_output_matrix_comes_along(family: str, is_tied: bool, tmp_path: Path) -> None:
    fields = FAMILIES[family] | {"tie_word_embeddings": is_tied}
    published = saved(AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **fields)), tmp_path)
    _, model, missing = taken(tmp_path)
    assert not missing
    head: Any = model.heads["mlm"]
    assert torch.equal(head.decoder.weight, published.lm_head.weight)
    assert (head.decoder.weight is model.encoder.get_input_embeddings().weight) == is_tied


@torch.no_grad()
def test_the_head_that_rembert_was_pretrained_with_goes_on(tmp_path: Path) -> None:
    published = saved(
        AutoModelForMaskedLM.from_config(AutoConfig.for_model("rembert", **FAMILIES["rembert"])), tmp_path
    )
    _, model, missing = taken(tmp_path)
    assert not missing
    batch = batch_of([24], MLM, label_positions=torch.arange(24))
    assert torch.allclose(model(batch, mode="scores"), published(input_ids=given()).logits[0], atol=1e-4)


@torch.no_grad()
def test_the_head_that_modernbert_was_pretrained_with_goes_on(tmp_path: Path) -> None:
    config = AutoConfig.for_model("modernbert", **FAMILIES["modernbert"])
    published = saved(AutoModelForMaskedLM.from_config(config), tmp_path)
    _, model, missing = taken(tmp_path)
    assert missing == {"heads.mlm.dense.bias", "heads.mlm.layer_norm.bias"}  # it has none: they begin at zero
    head: Any = model.heads["mlm"]
    head.dense.bias.zero_()
    head.layer_norm.bias.zero_()
    batch = batch_of([24], MLM, label_positions=torch.arange(24))
    assert torch.allclose(model(batch, mode="scores"), published(input_ids=given()).logits[0], atol=1e-4)


def rename_text_part(folder: Path, start: str) -> None:
    """Give the text part's weights the names that published files of different ages have."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    marks = ("language_model.model.", "model.language_model.")
    found = next(mark for mark in marks if any(name.startswith(mark) for name in tensors))
    save_file(
        {name.replace(found, start, 1): value for name, value in tensors.items()}, path, metadata={"format": "pt"}
    )
