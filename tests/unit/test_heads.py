"""Heads: each loss is the plain formula, predictions are possible answers, and steps leave other tasks' heads alone."""

from typing import Any

import pytest
import torch
from small_models import MLM, PAIRS, batch_of, build, classification_batch, masked_batch, plan_for
from torch import Tensor
from torch.nn.functional import cross_entropy, gelu, layer_norm, log_softmax

from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.heads import (
    ClassificationHead,
    DualEncodingHead,
    HeadSpec,
    MaskedLanguageModelingHead,
    MultipleChoiceHead,
    RegressionHead,
    SpanHead,
    TaggingHead,
    mean_of_sequences,
)

SIZE = 8
CHOICE = HeadSpec("choice", "multiple_choice")
SPAN = HeadSpec("span", "span")
TAGS = HeadSpec("tags", "tagging", num_labels=5)
ALL_HEADS = (MLM, PAIRS, CHOICE, SPAN, TAGS)
LENGTHS = (5, 3, 4, 2)
STARTS = (0, 5, 8, 12)


@pytest.fixture
def hidden() -> Tensor:
    return torch.randn(sum(LENGTHS), SIZE, generator=torch.Generator().manual_seed(0))


def log_likelihood(scores: Tensor, labels: list[int]) -> Tensor:
    return sum(log_softmax(row, -1)[label] for row, label in zip(scores, labels, strict=True))


def batch_for(head: HeadSpec) -> Any:
    """A batch that the head can train on."""
    if head.kind == "classification":
        return classification_batch(LENGTHS)
    if head.kind == "masked_language_modeling":
        return masked_batch(LENGTHS)
    if head.kind == "multiple_choice":
        return batch_of(LENGTHS, head, labels=torch.tensor([0, 1]), group_sizes=[2, 2])
    if head.kind == "span":
        return batch_of(LENGTHS, head, labels=torch.tensor([[0, 4], [2, 2], [1, 3], [0, 1]]))
    return batch_of(LENGTHS, head, labels=torch.tensor([0, 4, 2]), label_positions=torch.tensor([1, 5, 13]))


def test_classification_reads_the_first_token_of_each_sequence(hidden: Tensor) -> None:
    head = ClassificationHead(PAIRS, SIZE, dropout=0.0)
    batch = classification_batch(LENGTHS)
    scores = head.out_proj(torch.tanh(head.dense(hidden[list(STARTS)])))
    assert torch.allclose(head(hidden, batch), scores)
    loss = head.loss_sum(head(hidden, batch), batch)
    assert torch.allclose(loss, -log_likelihood(scores, [0, 1, 2, 0]))
    assert torch.equal(head.predictions(scores, batch), scores.argmax(-1))


def test_classification_can_read_the_mean_over_all_tokens(hidden: Tensor) -> None:
    head = ClassificationHead(HeadSpec("pairs", "classification", 3, pooling="mean"), SIZE, dropout=0.0)
    means = torch.stack([part.mean(0) for part in hidden.split(LENGTHS)])
    assert torch.allclose(mean_of_sequences(hidden, classification_batch(LENGTHS)), means, atol=1e-6)
    expected = head.out_proj(torch.tanh(head.dense(means)))
    assert torch.allclose(head(hidden, classification_batch(LENGTHS)), expected, atol=1e-6)


def test_multiple_choice_compares_the_choices_of_an_example(hidden: Tensor) -> None:
    head = MultipleChoiceHead(CHOICE, SIZE, dropout=0.0)
    batch = batch_for(CHOICE)
    scores = head.score(hidden[list(STARTS)]).flatten().view(2, 2)
    assert torch.allclose(head(hidden, batch), scores)
    assert torch.allclose(head.loss_sum(scores, batch), -log_likelihood(scores, [0, 1]))
    assert torch.equal(head.predictions(scores, batch), scores.argmax(-1))


def test_span_loss_is_the_mean_of_start_and_end_over_the_tokens_of_each_sequence(hidden: Tensor) -> None:
    head = SpanHead(SPAN, SIZE, dropout=0.0)
    batch = batch_for(SPAN)
    expected = torch.zeros(())
    for part, (first, last) in zip(head.qa_outputs(hidden).split(LENGTHS), batch.labels.tolist(), strict=True):
        expected -= (log_softmax(part[:, 0], -1)[first] + log_softmax(part[:, 1], -1)[last]) / 2
    assert torch.allclose(head.loss_sum(head(hidden, batch), batch), expected)


def test_span_predictions_are_the_scores_of_every_token(hidden: Tensor) -> None:
    head = SpanHead(SPAN, SIZE, dropout=0.0)
    batch = batch_for(SPAN)
    found = head.predictions(head(hidden.bfloat16().float(), batch), batch)
    assert found.shape == (sum(LENGTHS), 2)
    assert found.dtype == torch.float32


def test_choices_of_different_number_are_compared_within_their_question(hidden: Tensor) -> None:
    head = MultipleChoiceHead(HeadSpec("choice", "multiple_choice"), SIZE, dropout=0.0)
    batch = batch_of(LENGTHS, HeadSpec("choice", "multiple_choice"), labels=torch.tensor([0, 1]), group_sizes=[1, 3])
    scores = head(hidden, batch)
    assert scores.shape == (2, 3)
    assert scores[0].isinf().tolist() == [False, True, True]
    expected = cross_entropy(scores[1:], torch.tensor([1]))  # a single choice cannot be wrong
    assert torch.isclose(head.loss_sum(scores, batch), expected)
    assert head.predictions(scores, batch)[0] == 0


def test_regression_is_the_squared_error(hidden: Tensor) -> None:
    spec = HeadSpec("numbers", "regression", 1)
    head = RegressionHead(spec, SIZE, dropout=0.0)
    batch = batch_of(LENGTHS, spec, labels=torch.tensor([0.5, -1.0, 2.0, 0.0]))
    scores = head(hidden, batch)
    assert batch.labels is not None
    assert torch.isclose(head.loss_sum(scores, batch), ((scores[:, 0] - batch.labels) ** 2).sum())
    assert torch.equal(head.predictions(scores, batch), scores[:, 0])


def test_a_dual_encoder_gives_unit_vectors_and_carries_its_scale_along(hidden: Tensor) -> None:
    spec = HeadSpec("rankings", "dual_encoding")
    head = DualEncodingHead(spec, SIZE, dropout=0.0)
    batch = batch_of(LENGTHS, spec, group_sizes=[2, 2])
    scores = head(hidden, batch)
    vectors = head.predictions(scores, batch)
    assert vectors.shape == (len(LENGTHS), SIZE)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(LENGTHS)))
    assert scores[:, -1].tolist() == [100.0] * len(LENGTHS)


def test_tagging_scores_the_labelled_tokens_only(hidden: Tensor) -> None:
    head = TaggingHead(TAGS, SIZE, dropout=0.0)
    batch = batch_for(TAGS)
    scores = head.classifier(hidden[[1, 5, 13]])
    assert torch.allclose(head(hidden, batch), scores)
    assert torch.allclose(head.loss_sum(scores, batch), -log_likelihood(scores, [0, 4, 2]))
    assert torch.equal(head.predictions(scores, batch), scores.argmax(-1))


def test_masked_language_modelling_scores_the_vocabulary_at_masked_positions_only(hidden: Tensor) -> None:
    head = MaskedLanguageModelingHead(SIZE, 90, 1e-5)
    batch = masked_batch(LENGTHS)
    states = gelu(head.dense(hidden[batch.label_positions]))
    scores = head.decoder(layer_norm(states, (SIZE,), head.layer_norm.weight, head.layer_norm.bias))
    assert torch.allclose(head(hidden, batch), scores)
    assert scores.shape == (batch.num_targets, 90)
    assert torch.allclose(head.loss_sum(scores, batch), -log_likelihood(scores, batch.labels.tolist()))


def test_masked_language_modelling_shares_the_word_embeddings() -> None:
    model = build(plan_for("xlm-roberta"), [MLM])
    assert model.heads["mlm"].decoder.weight is model.encoder.get_input_embeddings().weight


@pytest.mark.parametrize("head", ALL_HEADS, ids=lambda head: head.kind)
def test_a_batch_weighs_as_much_as_its_targets(head: HeadSpec) -> None:
    model = build(plan_for("xlm-roberta"), ALL_HEADS)
    batch = batch_for(head)
    loss = model(batch)
    assert batch.num_targets == len(batch.labels)
    assert 0 < loss < 100
    batch.weight = 0.5
    assert torch.allclose(model(batch), loss / 2)


@pytest.mark.parametrize("head", ALL_HEADS, ids=lambda head: head.kind)
def test_a_spare_batch_has_no_loss_no_targets_and_zero_gradients(head: HeadSpec) -> None:
    model = build(plan_for("xlm-roberta"), ALL_HEADS)
    batch = batch_for(head)
    batch.weight = 0.0
    loss = model(batch)
    loss.backward()
    assert loss == 0.0
    assert batch.num_targets == 0
    assert batch.num_real_tokens == 0
    assert {_largest_gradient(model, name) for name, _ in model.named_parameters()} == {0.0}


@pytest.mark.parametrize("head", ALL_HEADS, ids=lambda head: head.kind)
def test_heads_that_a_step_does_not_train_get_a_zero_gradient(head: HeadSpec) -> None:
    model = build(plan_for("xlm-roberta"), ALL_HEADS)
    model(batch_for(head)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        trained = not name.startswith("heads.") or name.startswith(f"heads.{head.name}.")
        if not trained:
            assert _largest_gradient(model, name) == 0.0, name
    assert any(
        _largest_gradient(model, name) > 0 for name, _ in model.heads[head.name].named_parameters(f"heads.{head.name}")
    )


def test_no_other_head_changes_the_gradients_of_a_step() -> None:
    together, alone = build(plan_for("xlm-roberta"), ALL_HEADS), build(plan_for("xlm-roberta"), [PAIRS])
    for model in (together, alone):
        model(classification_batch(LENGTHS)).backward()
    gradients = {name: parameter.grad for name, parameter in together.named_parameters()}
    for name, parameter in alone.named_parameters():
        assert torch.equal(parameter.grad, gradients[name]), name


def test_a_masked_batch_without_masked_tokens_has_no_loss_but_gradients() -> None:
    model = build(plan_for("xlm-roberta"), [MLM])
    nothing = torch.empty(0, dtype=torch.long)
    loss = model(batch_of(LENGTHS, MLM, labels=nothing, label_positions=nothing))
    loss.backward()
    assert loss == 0.0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_head_dropout_follows_the_configuration() -> None:
    rates = {"hidden_dropout_prob": 0.3}
    model = HeadedEncoder(plan_for("xlm-roberta"), [PAIRS])
    assert model.heads["pairs"].dropout.p == 0.0
    plan = plan_for("xlm-roberta")
    plan.config.update(rates)
    assert HeadedEncoder(plan, [PAIRS]).heads["pairs"].dropout.p == 0.3
    plan.config.update({"classifier_dropout": 0.1})
    assert HeadedEncoder(plan, [PAIRS]).heads["pairs"].dropout.p == 0.1


def _largest_gradient(model: HeadedEncoder, name: str) -> float:
    return model.get_parameter(name).grad.abs().max().item()
