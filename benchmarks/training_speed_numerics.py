"""Is our arithmetic as good as the stock stack's? Loss and gradients of one batch after another, against fp32.

The reference is Hugging Face's classifier in fp32 on padded batches. The same weights and examples go through the
same classifier in bf16, and through our engines, unpadded. Gradients of an engine are read from its checkpoint
interface: after a step without clipping and with beta1 = 0 AdamW's first moment is the gradient.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from training_speed_cases import Case
from training_speed_lengths import make_data, pad
from training_speed_ours import HEAD, make_request, one_engine, task_spec
from training_speed_stock import make_model

from xlt_scale.data.assembly import assemble
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.engines.world import World, join_world
from xlt_scale.modeling.weights import WeightSource

NUM_BATCHES = 3
_NO_CHANGE = 1e-12  # a learning rate that moves no weight
_TOLERATED = 1.1  # times the stock stack's error

Gradients = dict[str, Tensor]


class GivenWeights(WeightSource):
    """The weights of a Hugging Face classifier, by our names."""

    def __init__(self, model: nn.Module) -> None:
        state = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self._weights = {our_name(name, model): value for name, value in state.items()}

    def has(self, name: str) -> bool:
        return name in self._weights

    def read_into(self, destination: Tensor, name: str, start: int) -> None:
        destination.copy_(self._weights[name].reshape(-1)[start : start + destination.numel()])


def our_name(name: str, model: Any) -> str:
    """'roberta.embeddings...' -> 'encoder.embeddings...', 'classifier.dense...' -> 'heads.<head>.dense...'."""
    prefix = f"{model.base_model_prefix}."
    if name.startswith(prefix):
        return "encoder." + name.removeprefix(prefix)
    return f"heads.{HEAD}." + name.removeprefix("classifier.")


def measure(case: Case) -> dict[str, Any]:
    """A row of errors for every variant that this machine can run; of the others the reason."""
    world = join_world(case.device)
    torch.manual_seed(case.seed)
    data = make_data(case, NUM_BATCHES * case.batch)
    batches = np.split(np.arange(len(data)), NUM_BATCHES)
    reference = make_model(case, world.device)
    weights = GivenWeights(reference)
    names = {name: our_name(name, reference) for name, _ in reference.named_parameters()}
    expected = [_of_model(reference, data, numbers, names, world) for numbers in batches]
    rows: list[dict[str, Any]] = []

    def compare(name: str, run: Callable[[], list[tuple[float, Gradients]]]) -> None:
        try:
            rows.append({"variant": name} | _errors(run(), expected))
        except Exception as error:  # a variant that cannot run here is a row as well
            rows.append({"variant": name, "reason": f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"})

    stock = make_model(case, world.device, torch.bfloat16)
    stock.load_state_dict(reference.state_dict())
    compare("stock, padded, bf16", lambda: [_of_model(stock, data, numbers, names, world) for numbers in batches])
    stock.to("cpu")
    for name, variant in _variants(case):
        compare(name, lambda variant=variant: _of_engine(variant, world, weights, data, batches))
    return {"rows": rows, "tolerated": _TOLERATED, "num_batches": NUM_BATCHES, "examples": case.batch}


def _variants(case: Case) -> Iterator[tuple[str, Case]]:
    yield "ours/fsdp2, unpadded, fp32", replace(case, precision="fp32")
    for engine in ("fsdp2", "zero3"):
        yield f"ours/{engine}, unpadded, bf16", replace(case, engine=engine)
    yield "ours/fsdp2, bf16, compile", replace(case, compile=True)
    yield "ours/zero3, bf16, compile", replace(case, engine="zero3", compile=True)
    yield "ours/fsdp2, bf16, checkpointing full", replace(case, checkpointing="full")
    yield "ours/fsdp2, bf16, checkpointing selective", replace(case, checkpointing="selective")
    yield "ours/fsdp2, bf16, float8", replace(case, float8=True, compile=True)


def _of_model(
    model: nn.Module, data: TokenizedData, numbers: np.ndarray, names: dict[str, str], world: World
) -> tuple[float, Gradients]:
    batch = pad(data, numbers, int(data.lengths[numbers].max()))
    model.zero_grad(set_to_none=True)
    loss = model(**{name: value.to(world.device) for name, value in batch.items()}).loss
    loss.backward()
    gradients = {names[name]: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients


def _of_engine(
    case: Case, world: World, weights: GivenWeights, data: TokenizedData, batches: list[np.ndarray]
) -> list[tuple[float, Gradients]]:
    found = []
    request = make_request(case, world, gradient_clipping=0.0, betas=(0.0, 0.999), optimizer="adamw")
    with one_engine(request, weights) as engine:
        engine.train(True)
        for numbers in batches:
            batch = assemble(task_spec(), data, numbers).to(world.device)
            loss = engine.forward(batch) / len(numbers)
            engine.backward(loss, is_last=True)
            engine.step(_NO_CHANGE)
            gradients = {
                key.removeprefix("exp_avg/"): values.cpu().clone()
                for key, values in engine.read_states(with_moments=True)
                if key.startswith("exp_avg/")
            }
            found.append((float(loss.detach()), gradients))
    return found


def _errors(found: list[tuple[float, Gradients]], expected: list[tuple[float, Gradients]]) -> dict[str, Any]:
    """Relative errors, means over the batches: of the loss, of all gradients as one vector, of the worst matrix."""
    losses, whole, worst = [], [], []
    for (loss, gradients), (true_loss, true_gradients) in zip(found, expected, strict=True):
        losses.append(abs(loss - true_loss) / abs(true_loss))
        pairs = [(gradients[name].reshape(-1), true.reshape(-1), true.dim()) for name, true in true_gradients.items()]
        squares = [(float((a - b).double().square().sum()), float(b.double().square().sum())) for a, b, _ in pairs]
        whole.append((sum(a for a, _ in squares) / sum(b for _, b in squares)) ** 0.5)
        matrices = [(a / b) ** 0.5 for (a, b), (_, _, rank) in zip(squares, pairs, strict=True) if rank > 1 and b]
        worst.append(max(matrices))
    return {"loss": fmean(losses), "gradients": fmean(whole), "worst_matrix": fmean(worst)}
