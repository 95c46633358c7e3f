"""Decoders read in both directions, and decoders that keep theirs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import DECODERS, FAMILIES, MLM, PAIRS, WINDOW, batch_of, build, classification_batch, plan_for
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from xlt_scale.config import ModelOptions
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.errors import UserError
from xlt_scale.modeling.encoder import EncoderPlan, plan_encoder
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.modeling.weights import PretrainedWeights, WeightSource

LENGTHS = (3 * WINDOW, WINDOW + 5, 7)


@pytest.fixture(params=DECODERS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def influence(plan: EncoderPlan, length: int = 3 * WINDOW) -> Tensor:
    """Which token's hidden state changes when another is replaced, bool [replaced, changed]."""
    model = build(plan, [PAIRS]).eval()
    batch = batch_of([length], PAIRS)
    rows = []
    with torch.no_grad():
        expected = model._real_tokens(model._encode(batch).last_hidden_state, batch)
        for place in range(length):
            other = batch_of([length], PAIRS)
            other.input_ids[place] = (other.input_ids[place] - 4) % 80 + 5
            found = model._real_tokens(model._encode(other).last_hidden_state, other)
            rows.append((found - expected).abs().amax(1) > 1e-6)
    return torch.stack(rows)


@pytest.mark.parametrize("attention", ["unpadded", "padded"])
def test_early_tokens_depend_on_later_ones(family: str, attention: str) -> None:
    assert influence(plan_for(family, attention, initializer_range=0.2)).all()


@pytest.mark.parametrize("attention", ["unpadded", "padded"])
def test_with_the_direction_kept_they_do_not(family: str, attention: str) -> None:
    changed = influence(plan_for(family, attention, bidirectional=False, initializer_range=0.2))
    assert torch.equal(changed, torch.ones_like(changed).triu())


@pytest.mark.parametrize("attention", ["unpadded", "padded"])
def test_local_windows_reach_as_far_to_either_side(attention: str) -> None:
    fields: dict[str, Any] = {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]}
    seen = influence(plan_for("gemma3_text", attention, initializer_range=0.2, **fields))
    places = torch.arange(len(seen))
    assert torch.equal(seen, (places[:, None] - places[None, :]).abs() <= WINDOW)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["unpadded", "padded"])
def test_with_the_direction_kept_hidden_states_and_scores_are_the_published_ones(
    family: str, attention: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    published = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **FAMILIES[family] | {"initializer_range": 0.2, "tie_word_embeddings": False})
    ).eval()
    published.save_pretrained(tmp_path)
    ours = load(tmp_path, attention, bidirectional=False)
    for length in LENGTHS:
        batch = batch_of([length], MLM, label_positions=torch.arange(length))
        expected = published(input_ids=batch.input_ids[None], output_hidden_states=True)
        hidden = ours._real_tokens(ours._encode(batch).last_hidden_state, batch)
        assert torch.allclose(hidden, expected.hidden_states[-1][0], atol=1e-5)
        assert torch.allclose(ours(batch, mode="scores"), expected.logits[0], atol=1e-4)


@torch.no_grad()
def test_a_folder_that_says_how_it_is_read_is_read_so_by_plain_transformers(family: str, tmp_path: Path) -> None:
    model = build(plan_for(family, initializer_range=0.2), [PAIRS]).eval()
    model.encoder.save_pretrained(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).eval()
    batch = batch_of([3 * WINDOW], PAIRS)
    hidden = model._real_tokens(model._encode(batch).last_hidden_state, batch)
    assert torch.allclose(plain(input_ids=batch.input_ids[None]).last_hidden_state[0], hidden, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_folder_that_was_exported_from_here_keeps_its_direction(
    family: str, bidirectional: bool, tmp_path: Path
) -> None:
    plan_for(family, bidirectional=bidirectional).config.save_pretrained(tmp_path)
    for asked in (None, True, False):
        options = ModelOptions(name=str(tmp_path), max_length=64, bidirectional=asked)
        assert plan_encoder(options).is_causal == (not bidirectional if asked is None else not asked)


def test_the_mean_stands_for_a_sequence_and_with_the_direction_kept_its_last_token(family: str) -> None:
    assert plan_for(family).pooling == "mean"
    assert plan_for(family, bidirectional=False).pooling == "last"


def test_the_direction_is_in_the_configuration_that_names_a_phase(family: str) -> None:
    plans = [plan_for(family), plan_for(family, bidirectional=False)]
    assert [plan.config.to_dict()["is_causal"] for plan in plans] == [False, True]
    assert "is_causal" not in plan_for("xlm-roberta").config.to_dict()


@pytest.mark.parametrize("kind", ["mobilebert", "funnel", "mra", "xlnet", "t5gemma"])
def test_encoders_that_hardly_mix_tokens_or_cannot_be_shrunk_are_no_decoders(kind: str) -> None:
    """MobileBERT's fresh weights are tiny, Funnel has its layers in blocks, MRA does nothing without its kernels."""
    options = ModelOptions(architecture={"model_type": kind}, tokenizer="micro", max_length=64)
    assert not plan_encoder(options).is_decoder


def test_an_encoder_has_no_direction_to_choose() -> None:
    with pytest.raises(UserError, match=r"model.bidirectional = false, but xlm-roberta is an encoder.*; remove it"):
        plan_for("xlm-roberta", bidirectional=False)


def test_keys_and_values_are_not_kept(family: str) -> None:
    model = build(plan_for(family, "padded"), [PAIRS])
    assert model._encode(classification_batch(LENGTHS)).past_key_values is None


@torch.no_grad()
def test_a_cap_on_a_decoders_scores_is_kept(family: str) -> None:
    plain, capped = (
        build(plan_for(family, final_logit_softcapping=cap, initializer_range=0.5), [MLM]).eval() for cap in (None, 1.5)
    )
    batch = masked(plain)
    expected = 1.5 * torch.tanh(plain(batch, mode="scores") / 1.5)
    assert torch.allclose(capped(batch, mode="scores"), expected, atol=1e-6)
    loss = torch.nn.functional.cross_entropy(expected, batch.labels, reduction="sum")
    assert torch.allclose(capped(batch), loss, rtol=1e-5)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text", "xlm-roberta"])
def test_norms_begin_as_the_family_begins_them(kind: str) -> None:
    """Gemma adds one to the weights of its norms: drawn as ones, every norm would double what it gives."""
    plan = plan_for(kind)
    specs = describe_parameters(plan, [])
    fresh = {name: p for name, p in HeadedEncoder(plan, []).named_parameters() if "norm" in name.lower()}
    assert fresh
    for name, parameter in fresh.items():
        if name.endswith("weight"):
            assert specs[name].fill == ("ones" if parameter.mean() == 1 else "zeros"), name


def masked(model: HeadedEncoder) -> MicroBatch:
    places = torch.arange(1, sum(LENGTHS), 5)
    return batch_of(LENGTHS, MLM, labels=places % model.plan.vocab_size, label_positions=places)


def load(folder: Path, attention: str, bidirectional: bool) -> HeadedEncoder:
    """The published files as a run takes them."""
    options = ModelOptions(name=str(folder), max_length=64, attention=attention, bidirectional=bidirectional)  # type: ignore[arg-type]
    plan = plan_encoder(options)
    specs = describe_parameters(plan, [MLM])
    model = HeadedEncoder(plan, [MLM]).eval()
    source: WeightSource = PretrainedWeights(folder, specs, plan.prefix)
    assert all(source.has(name) for name in specs)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.view(-1).copy_(source.read(name, 0, parameter.numel()))
    return model
