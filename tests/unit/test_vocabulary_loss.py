"""The loss over a large vocabulary is the plain one, its gradients too, and the table of all scores never exists."""

from typing import Any

import pytest
import torch
from small_models import MLM, PAIRS, batch_of, build, plan_for
from torch import Tensor
from torch.nn.functional import cross_entropy, linear
from torch.utils._python_dispatch import TorchDispatchMode

from xlt_scale.modeling import vocabulary_loss
from xlt_scale.modeling.vocabulary_loss import CHUNK_ELEMENTS, VocabularyProjection, chunked_cross_entropy

TARGETS, WIDTH, WORDS = 37, 24, 1000
CHUNK = TARGETS * 300  # four slices, the last one shorter


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        made = function(*arguments, **(named or {}))
        for item in made if isinstance(made, tuple | list) else [made]:
            # A view, or what an operation works on in place, is not made by it.
            if isinstance(item, Tensor) and not item._is_view():
                self.elements = max(self.elements, item.numel())
        return made


def drawn(dtype: torch.dtype, requires_grad: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    shapes = ((TARGETS, WIDTH), (WORDS, WIDTH), (WORDS,))
    # Scores of the size that trained models give: a layer norm's output times small weights.
    tensors = [
        (torch.randn(shape, generator=random) * scale).to(dtype).requires_grad_(requires_grad)
        for shape, scale in zip(shapes, (1.0, 0.4, 0.4), strict=True)
    ]
    labels = torch.randint(0, WORDS, (TARGETS,), generator=random)
    labels[:4] = torch.tensor([0, WORDS - 1, 255, 256])  # the ends of slices
    return tensors[0], tensors[1], tensors[2], labels


def plain(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(linear(hidden, weight, bias).float(), labels, reduction="sum")


def difference(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest element."""
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)], ids=["fp32", "bf16"])
def test_the_loss_in_slices_and_its_gradients_are_the_plain_ones(dtype: torch.dtype, tolerance: float) -> None:
    expected = drawn(dtype)
    (plain(*expected) * 0.37).backward()
    found = drawn(dtype)
    (chunked_cross_entropy(*found, chunk_elements=CHUNK) * 0.37).backward()
    # The scores are rounded alike, so that the loss is alike in bf16 too.
    assert difference(chunked_cross_entropy(*found, chunk_elements=CHUNK), plain(*expected)) < 1e-6
    for ours, theirs in zip(found[:3], expected[:3], strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert ours.grad.dtype == dtype
        assert difference(ours.grad, theirs.grad) < tolerance


def test_in_bf16_gradients_are_as_near_to_the_exact_ones_as_without_slices() -> None:
    exact = tuple(tensor.detach().double().requires_grad_() for tensor in drawn(torch.bfloat16)[:3])
    cross_entropy(linear(*exact), drawn(torch.bfloat16)[3], reduction="sum").backward()
    ours, theirs = drawn(torch.bfloat16), drawn(torch.bfloat16)
    chunked_cross_entropy(*ours, chunk_elements=CHUNK).backward()
    plain(*theirs).backward()
    for one, other, true in zip(ours[:3], theirs[:3], exact, strict=True):
        assert one.grad is not None and other.grad is not None and true.grad is not None
        assert difference(one.grad, true.grad) < 1.5 * difference(other.grad, true.grad)


def test_scores_of_any_size_neither_overflow_nor_vanish() -> None:
    hidden, weight, bias, labels = drawn(torch.float32, requires_grad=False)
    found = chunked_cross_entropy(hidden * 1000, weight, bias, labels, CHUNK)
    assert difference(found, plain(hidden * 1000, weight, bias, labels)) < 1e-6


def test_a_matrix_that_is_not_trained_gets_no_gradient() -> None:
    hidden, weight, bias, labels = drawn(torch.float32)
    weight.requires_grad_(False)
    chunked_cross_entropy(hidden, weight, bias, labels, CHUNK).backward()
    assert weight.grad is None
    assert hidden.grad is not None and bias.grad is not None


def test_the_table_of_all_scores_never_exists() -> None:
    """In the forward pass and in the backward one; the plain loss makes it."""
    targets, words = 400, 60_000
    projection = VocabularyProjection(8, words)
    labels = torch.arange(targets) * 149
    hidden = torch.randn(targets, 8, requires_grad=True)
    with LargestTensor() as sliced:
        projection(hidden, labels).backward()
    with LargestTensor() as whole:
        plain(hidden, projection.weight, projection.bias, labels).backward()
    assert sliced.elements <= CHUNK_ELEMENTS < whole.elements == targets * words
    # A slice is as wide as it may be.
    assert sliced.elements > 0.9 * CHUNK_ELEMENTS


def test_few_scores_are_made_at_once_to_the_bit_as_ever() -> None:
    hidden, weight, bias, labels = drawn(torch.float32)
    projection = VocabularyProjection(WIDTH, WORDS)
    projection.weight, projection.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
    assert torch.equal(projection(hidden, labels), plain(hidden, weight, bias, labels))
    assert torch.equal(projection(hidden), linear(hidden, weight, bias))


def test_a_model_trains_alike_with_and_without_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the word embeddings as output matrix: their gradient is the sum of both uses."""
    lengths = (60, 41, 60, 33)
    places = torch.arange(0, sum(lengths), 2)
    batch = batch_of(lengths, MLM, labels=places % 300, label_positions=places)
    models = [build(plan_for("xlm-roberta", vocab_size=300), [MLM, PAIRS]) for _ in range(2)]
    losses = []
    for model, chunk in zip(models, (CHUNK_ELEMENTS, len(places) * 128), strict=True):
        monkeypatch.setattr(vocabulary_loss, "CHUNK_ELEMENTS", chunk)
        loss = model(batch)
        loss.backward()
        losses.append(loss)
    assert difference(losses[1], losses[0]) < 1e-6
    gradients = {name: parameter.grad for name, parameter in models[0].named_parameters()}
    assert models[1].heads["mlm"].decoder.weight is models[1].encoder.get_input_embeddings().weight
    for name, parameter in models[1].named_parameters():
        assert parameter.grad is not None and torch.allclose(parameter.grad, gradients[name], atol=1e-5), name
