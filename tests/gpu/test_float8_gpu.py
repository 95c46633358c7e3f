"""On a GPU: float8 products are near the bf16 ones, the vocabulary loss needs little memory, and no head waits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from small_models import MLM, batch_of, build, plan_for
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from xlt_scale.config import EngineOptions
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.modeling import vocabulary_loss
from xlt_scale.modeling.float8 import check_float8, use_float8
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.layer_bodies import prepare_layers
from xlt_scale.modeling.vocabulary_loss import chunked_cross_entropy

pytestmark = [pytest.mark.gpu]

CUDA = torch.device("cuda")
LENGTHS = (37, 23, 23, 9, 2)
"""94 tokens: no multiple of 16, which the products that give weights their gradients would need."""
CLASSES = HeadSpec("classes", "classification", num_labels=3)
MEANS = HeadSpec("means", "classification", num_labels=3, pooling="mean")
LASTS = HeadSpec("lasts", "classification", num_labels=3, pooling="last")
NUMBERS = HeadSpec("numbers", "regression", num_labels=1)
CHOICES = HeadSpec("choices", "multiple_choice")
SPANS = HeadSpec("spans", "span")
TAGS = HeadSpec("tags", "tagging", num_labels=5)
RANKINGS = HeadSpec("rankings", "dual_encoding")
HEADS = (MLM, CLASSES, MEANS, LASTS, NUMBERS, CHOICES, SPANS, TAGS, RANKINGS)


def batch_for(head: HeadSpec, **fields: Any) -> MicroBatch:
    """A batch on the GPU, moved there as the training loop moves it."""
    places = torch.arange(0, sum(LENGTHS), 7)
    if head.kind in ("masked_language_modeling", "tagging"):
        fields = {"labels": places % 5, "label_positions": places}
    elif head.kind == "classification":
        fields = {"labels": torch.tensor([0, 1, 2, 0, 1])}
    elif head.kind == "regression":
        fields = {"labels": torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0])}
    elif head.kind == "multiple_choice":
        fields = {"labels": torch.tensor([0, 2]), "group_sizes": [2, 3]}
    elif head.kind == "span":
        fields = {"labels": torch.tensor([[0, 4], [2, 2], [1, 3], [0, 1], [1, 1]])}
    else:
        fields = {"group_sizes": [2, 3]}
    return batch_of(LENGTHS, head, **fields).pinned().to(CUDA)


def model_with(*heads: HeadSpec, **fields: Any) -> HeadedEncoder:
    """In bf16 on the GPU."""
    return build(plan_for("xlm-roberta", hidden_size=64, **fields), heads).to(CUDA, torch.bfloat16)


@contextmanager
def without_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the GPU is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def step(model: HeadedEncoder, batch: MicroBatch) -> Tensor:
    mode = "scores" if batch.kind == "dual_encoding" else "loss"
    result = model(batch, mode=mode).float().sum()
    result.backward()
    return result.detach()


def difference(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
def test_no_forward_or_backward_pass_makes_the_host_wait(head: HeadSpec) -> None:
    model, batch = model_with(*HEADS), batch_for(head)
    step(model, batch)  # the first one loads kernels
    with without_waiting():
        result = step(model, batch)
    assert result.isfinite()


@pytest.mark.parametrize("mode", ["scores", "predictions", "embedding"])
def test_nor_does_what_is_scored(mode: str) -> None:
    model, batch = model_with(*HEADS), batch_for(CHOICES)
    with torch.no_grad():
        model(batch, mode=mode, layers=[1])
        with without_waiting():
            found = model(batch, mode=mode, layers=[1])
    assert len(found) == (5 if mode == "embedding" else 2)


def test_nor_does_a_vocabulary_loss_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_loss, "CHUNK_ELEMENTS", 1)
    model, batch = model_with(MLM, vocab_size=300), batch_for(MLM)
    step(model, batch)
    with without_waiting():
        result = step(model, batch)
    assert result.isfinite()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-2)], ids=["fp32", "bf16"])
def test_a_vocabulary_loss_in_slices_is_the_plain_one_in_a_fraction_of_the_memory(
    dtype: torch.dtype, tolerance: float
) -> None:
    random = torch.Generator(CUDA).manual_seed(1)
    found, peaks = [], []
    labels = torch.randint(0, 250_002, (1229,), generator=random, device=CUDA)
    drawn = [torch.randn(shape, generator=random, device=CUDA) * 0.05 for shape in ((250_002, 256), (250_002,))]
    drawn = [torch.randn(1229, 256, generator=random, device=CUDA), *drawn]
    for is_sliced in (True, False):
        inputs = [tensor.to(dtype).requires_grad_() for tensor in drawn]
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        if is_sliced:
            loss = chunked_cross_entropy(*inputs, labels, vocabulary_loss.CHUNK_ELEMENTS)
        else:
            loss = cross_entropy(linear(*inputs).float(), labels, reduction="sum")
        loss.backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        found.append([loss.detach(), *(tensor.grad for tensor in inputs)])
        del inputs, loss
    assert all(difference(ours, theirs) < tolerance for ours, theirs in zip(*found, strict=True))
    assert peaks[0] < peaks[1] / 3


@pytest.fixture
def float8_gpu() -> None:
    """A device that has float8 products."""
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no float8 products")
    check_float8("bf16", CUDA)


@pytest.mark.parametrize("compile_layers", [False, True], ids=["eager", "compiled"])
def test_float8_products_are_near_the_bf16_ones_whatever_the_number_of_tokens(
    float8_gpu: None, compile_layers: bool
) -> None:
    plain, float8 = model_with(CLASSES), model_with(CLASSES)
    use_float8(float8.encoder, "bf16", CUDA)
    prepare_layers(float8, EngineOptions(name="fsdp2", compile=compile_layers))
    batch = batch_for(CLASSES)
    losses = [step(model, batch) for model in (plain, float8)]
    assert 0 < difference(losses[1], losses[0]) < 1e-2
    gradients = [model.encoder.encoder.layer[0].intermediate.dense.weight.grad for model in (plain, float8)]
    assert 1e-3 < difference(gradients[1], gradients[0]) < 0.2


def test_a_gpu_rounds_as_the_cpu_emulates(float8_gpu: None) -> None:
    """So that what trials on CPUs show of float8 holds on GPUs."""
    gpu, cpu = model_with(CLASSES), model_with(CLASSES).to("cpu")
    use_float8(gpu.encoder, "bf16", CUDA)
    use_float8(cpu.encoder, "bf16", torch.device("cpu"))
    batch = batch_for(CLASSES)
    losses = [step(gpu, batch).cpu(), step(cpu, batch.to(torch.device("cpu")))]
    assert difference(losses[0], losses[1]) < 1e-2
