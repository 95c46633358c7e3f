"""XLNet: its classification token is the last one, and it tells the two texts of a pair apart by token types."""

import pytest
import torch
from small_models import build, classification_batch, plan_for

from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.heads import HeadSpec

LENGTHS = [9, 4, 7]
LAST = HeadSpec("pairs", "classification", num_labels=3, pooling="last")


@pytest.fixture(scope="module")
def model() -> HeadedEncoder:
    return build(plan_for("xlnet", initializer_range=0.2), [LAST]).eval()


def padded_on_the_left(batch: MicroBatch) -> dict[str, torch.Tensor]:
    """The batch as XLNet's own tokenizer would lay it out."""
    shape = (len(batch.lengths), max(batch.lengths))
    inputs = {name: torch.zeros(shape, dtype=torch.long) for name in ("input_ids", "attention_mask", "token_type_ids")}
    start = 0
    for row, length in enumerate(batch.lengths):
        tokens = slice(start, start + length)
        inputs["input_ids"][row, -length:] = batch.input_ids[tokens]
        inputs["attention_mask"][row, -length:] = 1
        assert batch.token_type_ids is not None
        inputs["token_type_ids"][row, -length:] = batch.token_type_ids[tokens]
        start += length
    return inputs


@torch.no_grad()
def test_a_classifier_reads_what_the_published_class_has_in_its_last_place(model: HeadedEncoder) -> None:
    batch = classification_batch(LENGTHS, token_types=True)
    last = model.encoder(**padded_on_the_left(batch)).last_hidden_state[:, -1]
    head = model.heads["pairs"]
    expected = head.out_proj(torch.tanh(head.dense(last)))  # type: ignore[operator,union-attr]
    assert torch.allclose(model(batch, mode="scores"), expected, atol=1e-5)


@torch.no_grad()
def test_token_types_change_what_it_says(model: HeadedEncoder) -> None:
    without = model(classification_batch(LENGTHS), mode="scores")
    assert not torch.allclose(model(classification_batch(LENGTHS, token_types=True), mode="scores"), without, atol=1e-3)


@pytest.mark.parametrize(
    ("family", "pooling", "token_types"),
    [("xlnet", "last", True), ("bert", "first", True), ("xlm-roberta", "first", False), ("t5", "mean", False)],
)
def test_a_family_says_itself_what_stands_for_a_sequence(family: str, pooling: str, token_types: bool) -> None:
    plan = plan_for(family)
    assert (plan.pooling, plan.has_token_types) == (pooling, token_types)
