"""The start-up check: an encoder runs unpadded only when that gives the hidden states of the padded run."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small_models import MLM, PAIRS, batch_of, build, classification_batch, plan_for
from transformers import AutoConfig
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaEmbeddings

from xlt_scale.config import ModelOptions
from xlt_scale.errors import UserError
from xlt_scale.modeling import attention
from xlt_scale.modeling.attention import Sequences
from xlt_scale.modeling.encoder import build_encoder, plan_encoder
from xlt_scale.modeling.self_check import check_unpadded
from xlt_scale.sizes import LADDERS, SIZES

unpadded_attention = attention.unpadded_attention


@pytest.fixture
def replace_attention(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts another function in the place of the unpadded attention, also where `transformers` has it registered."""
    yield lambda function: monkeypatch.setattr(attention, "unpadded_attention", function)
    monkeypatch.undo()
    attention.register()


@pytest.mark.parametrize(
    ("family", "first_position"), [("xlm-roberta", 2), ("xlm-roberta-xl", 2), ("modernbert", 0), ("bert", 0)]
)
def test_families_with_the_attention_interface_run_unpadded(family: str, first_position: int) -> None:
    plan = plan_for(family)
    assert plan.unpadded
    assert plan.first_position == first_position
    assert plan.why_padded == ""


@pytest.mark.parametrize("name", [*(next(iter(ladder.sizes)) for ladder in LADDERS.values()), "xlmr-xl"])
def test_sizes_run_as_their_ladders_say_with_at_least_512_tokens(name: str) -> None:
    plan = plan_encoder(ModelOptions(size=name, tokenizer="micro", max_length=512))
    assert plan.unpadded == LADDERS[SIZES[name].family].unpadded
    # The RoBERTa family's first position is 2; T5's have no limit.
    slots = SIZES[name].num_position_slots
    assert plan.num_positions == (512 if slots == 514 else slots or 1 << 20)


def test_positions_that_are_wrong_by_one_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    count = XLMRobertaEmbeddings.create_position_ids_from_input_ids
    monkeypatch.setattr(
        XLMRobertaEmbeddings,
        "create_position_ids_from_input_ids",
        staticmethod(lambda input_ids, padding_idx, *rest: count(input_ids, padding_idx, *rest) + (input_ids != 1)),
    )
    plan = plan_for("xlm-roberta")
    assert not plan.unpadded
    assert "hidden states differ" in plan.why_padded


@pytest.mark.parametrize("error", [-2, 1])
def test_a_window_that_is_off_by_one_is_refused(error: int, replace_attention: Any) -> None:
    def off_by_one(*arguments: Any, sliding_window: int | None = None, **named: Any) -> Any:
        window = None if sliding_window is None else sliding_window + error
        return unpadded_attention(*arguments, sliding_window=window, **named)

    replace_attention(off_by_one)
    plan = plan_for("modernbert")
    assert not plan.unpadded
    assert "hidden states differ" in plan.why_padded


def test_a_boundary_that_is_off_by_one_is_refused(replace_attention: Any) -> None:
    def merged(*arguments: Any, sequences: Sequences, **named: Any) -> Any:
        first, *rest = [length for count, length in sequences.runs for _ in range(count)]
        return unpadded_attention(*arguments, sequences=Sequences([first - 1, 1, *rest]), **named)

    replace_attention(merged)
    assert not check_unpadded(plan_for("xlm-roberta", "padded").config).passed


def test_a_wrong_scale_is_refused(replace_attention: Any) -> None:
    replace_attention(lambda *a, scaling=None, **named: unpadded_attention(*a, scaling=scaling * 1.01, **named))
    assert not check_unpadded(plan_for("xlm-roberta", "padded").config).passed


def test_xlnet_runs_padded_for_it_has_no_such_interface() -> None:
    plan = plan_for("xlnet")
    assert not plan.unpadded
    assert plan.why_padded == "its attention cannot be replaced"


def test_t5_runs_padded_for_its_attention_takes_a_bias_of_positions() -> None:
    plan = plan_for("t5")
    assert not plan.unpadded
    assert "position_bias" in plan.why_padded


@pytest.mark.parametrize("family", ["xlnet", "t5"])
def test_padded_families_give_each_sequence_what_it_gets_alone(family: str) -> None:
    model = build(plan_for(family, initializer_range=0.2), [MLM, PAIRS]).eval()
    batch = classification_batch([40, 12, 3])
    together = model(batch, mode="embedding", layers=[2])
    start = 0
    for number, length in enumerate(batch.lengths):
        alone = batch_of([length], PAIRS)
        alone.input_ids = batch.input_ids[start : start + length]
        assert torch.allclose(model(alone, mode="embedding", layers=[2])[0], together[number], atol=1e-5)
        start += length


@pytest.mark.parametrize("family", ["xlnet", "t5"])
def test_padded_families_train(family: str) -> None:
    model = build(plan_for(family), [PAIRS])
    model(classification_batch([40, 12, 3])).backward()
    assert model.encoder.get_input_embeddings().weight.grad.abs().max() > 0


def test_asking_for_unpadded_where_it_is_impossible_is_an_error_with_the_reason() -> None:
    with pytest.raises(UserError, match=r"t5 cannot run so \(.*position_bias.*\); use 'auto'"):
        plan_for("t5", "unpadded")


def test_padded_can_be_asked_for() -> None:
    plan = plan_for("xlm-roberta", "padded")
    assert not plan.unpadded
    assert plan.why_padded == "model.attention = 'padded'"


@pytest.mark.parametrize("attention_option", ["padded", "unpadded"])
def test_more_tokens_than_positions_is_an_error_with_the_largest_possible_number(attention_option: str) -> None:
    options = ModelOptions(size="xlmr-base", tokenizer="micro", max_length=513, attention=attention_option)
    with pytest.raises(UserError, match=r"model.max_length = 513, .* set model.max_length to 512 or less"):
        plan_encoder(options)


def test_relative_positions_set_no_limit() -> None:
    assert plan_for("xlnet").num_positions >= 1 << 20
    assert plan_for("t5").num_positions >= 1 << 20


def test_dropout_on_attention_weights_is_off_when_unpadded_and_stays_when_padded() -> None:
    fields = {"model_type": "xlm-roberta", "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    plans = {
        kind: plan_encoder(ModelOptions(architecture=fields, tokenizer="micro", dropout=0.25, attention=kind))
        for kind in ("unpadded", "padded")
    }
    assert {kind: plan.config.attention_probs_dropout_prob for kind, plan in plans.items()} == {
        "unpadded": 0.0,
        "padded": 0.25,
    }
    assert {plan.config.hidden_dropout_prob for plan in plans.values()} == {0.25}


@pytest.mark.parametrize(
    ("family", "field"), [("t5", "dropout_rate"), ("xlnet", "dropout"), ("bert", "hidden_dropout_prob")]
)
def test_model_dropout_reaches_every_family(family: str, field: str) -> None:
    assert getattr(AutoConfig.for_model(family), field) > 0
    assert getattr(plan_for(family).config, field) == 0.0


def test_the_check_leaves_random_numbers_as_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert plan_for("modernbert").unpadded
    assert torch.equal(torch.rand(1), expected)


def test_the_precision_that_weights_were_published_in_does_not_decide_ours() -> None:
    plan = plan_for("xlm-roberta", dtype="bfloat16")
    assert plan.config.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in build_encoder(plan).parameters()} == {torch.float32}
