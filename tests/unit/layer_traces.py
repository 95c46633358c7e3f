"""What the real layers keep for the backward pass, on meta tensors: shapes and bytes without values."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import accelerate
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import masking_utils
from transformers.initialization import no_init_weights

from xlt_scale.config import EngineOptions, ModelOptions
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.modeling import attention
from xlt_scale.modeling.encoder import EncoderPlan, build_encoder, plan_encoder
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.layer_bodies import prepare_layers

PAIRS = HeadSpec("pairs", "classification", num_labels=3)


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of storages that operators have made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in self._known and id(storage) not in given:
                    self._add(storage)
        return result

    def _add(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        self.bytes += size
        self._known[key] = weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.bytes -= size


def bytes_kept(
    model_type: str, lengths: list[int], shape: dict[str, Any], dropout: float, dtype: torch.dtype, **engine: Any
) -> int:
    """Bytes that are there at the end of a forward pass because the backward pass needs them."""
    model = _meta_model(model_type, shape, dropout, dtype)
    prepare_layers(model, EngineOptions(**engine))
    batch = _meta_batch(lengths)
    with LiveStorages() as live, _as_on_a_gpu():
        loss = model(batch)
        assert loss.requires_grad
        return live.bytes


def bytes_saved(model_type: str, lengths: list[int], shape: dict[str, Any], dropout: float, dtype: torch.dtype) -> int:
    """Bytes of all storages that operators save, parameters left out."""
    model, batch = _meta_model(model_type, shape, dropout, dtype), _meta_batch(lengths)
    return _bytes_saved_in(model, lambda: model(batch))


def bytes_saved_by_encoder(
    architecture: dict[str, Any], lengths: list[int], dropout: float | None, dtype: torch.dtype
) -> int:
    """The same of an encoder alone, of any family, as a run builds it. All lengths are equal."""
    plan, encoder = _meta_encoder(architecture, dropout, dtype)
    return _bytes_saved_in(encoder, lambda: _run(plan, encoder, lengths))


def _bytes_saved_in(model: nn.Module, run: Callable[[], object]) -> int:
    """Bytes of all storages that operators of a forward pass save, the model's own left out."""
    saved: dict[int, Any] = {}
    own = {id(tensor.untyped_storage()) for tensor in [*model.parameters(), *model.buffers()]}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in own:
            saved[id(storage)] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _as_on_a_gpu():
        run()
    return sum(storage.nbytes() for storage in saved.values())


def bytes_moved_by_encoder(
    architecture: dict[str, Any], lengths: list[int], dtype: torch.dtype
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Bytes that operators other than products and attention read and write, and the number of all operators: of the
    forward and of the backward pass, without dropout.
    """
    plan, encoder = _meta_encoder(architecture, 0.0, dtype)
    with _as_on_a_gpu():
        with MovedBytes() as forward:
            hidden = _run(plan, encoder, lengths)
        gradient = torch.empty_like(hidden)
        with MovedBytes() as backward:
            hidden.backward(gradient)
    return (forward.bytes, forward.operators), (backward.bytes, backward.operators)


class MovedBytes(TorchDispatchMode):
    """Counts what operators read and write, each tensor once; views are free."""

    _PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
    _FREE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "_unsafe_view")

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.device.type == "meta"]
        if not made or func.is_view or name in self._FREE:
            return result
        self.operators += 1
        if name not in self._PRODUCTS and "_attention_" not in name:
            leaves = {id(leaf): leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)}
            self.bytes += sum(_own_bytes(leaf) for leaf in leaves.values())
        return result


def _own_bytes(tensor: Tensor) -> int:
    """Of what is read of it: an expanded tensor lies in memory once."""
    whole = tensor.numel() * tensor.element_size()
    return min(whole, tensor.untyped_storage().nbytes()) if 0 in tensor.stride() else whole


def _meta_encoder(
    architecture: dict[str, Any], dropout: float | None, dtype: torch.dtype
) -> tuple[EncoderPlan, nn.Module]:
    options = ModelOptions(architecture=architecture, tokenizer="micro", max_length=128, dropout=dropout)
    plan = plan_encoder(options)
    with accelerate.init_empty_weights(), no_init_weights():
        encoder = build_encoder(plan)
    return plan, encoder.to("meta").to(dtype).train()


def _run(plan: EncoderPlan, encoder: nn.Module, lengths: list[int]) -> Tensor:
    """Hidden states of sequences of one length."""
    rows, columns = (1, sum(lengths)) if plan.unpadded else (len(lengths), lengths[0])
    numbers = torch.zeros(rows, columns, dtype=torch.long, device="meta")
    if not plan.unpadded:
        return encoder(input_ids=numbers, attention_mask=torch.ones_like(numbers)).last_hidden_state
    boundaries = torch.zeros(len(lengths) + 1, dtype=torch.int32, device="meta")
    arguments = attention.sequence_arguments(lengths, boundaries)
    return encoder(input_ids=numbers, position_ids=numbers, **arguments).last_hidden_state


def _meta_model(model_type: str, shape: dict[str, Any], dropout: float, dtype: torch.dtype) -> HeadedEncoder:
    architecture = {"model_type": model_type, "pad_token_id": 1, "type_vocab_size": 1} | shape
    options = ModelOptions(architecture=architecture, tokenizer="micro", max_length=128, dropout=dropout)
    plan = plan_encoder(options)
    with accelerate.init_empty_weights(), no_init_weights():
        model = HeadedEncoder(plan, [PAIRS])
    return model.to("meta").to(dtype).train()


def _meta_batch(lengths: list[int]) -> MicroBatch:
    num_tokens = sum(lengths)
    return MicroBatch(
        head=PAIRS.name,
        kind=PAIRS.kind,
        input_ids=torch.zeros(num_tokens, dtype=torch.long, device="meta"),
        positions=torch.zeros(num_tokens, dtype=torch.long, device="meta"),
        lengths=lengths,
        labels=torch.zeros(len(lengths), dtype=torch.long, device="meta"),
        boundaries=torch.zeros(len(lengths) + 1, dtype=torch.int32, device="meta"),
    )


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """The flash kernel, and dropout with a mask of bytes: on meta tensors PyTorch would take what it takes on CPUs."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(attention, "_has_kernel", lambda query: True))
        stack.enter_context(mock.patch.object(torch.nn.functional, "dropout", _dropout_of_gpus))
        stack.enter_context(mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", _masked_attention))
        # It looks at values, whether a mask hides anything; meta tensors have none.
        never = mock.patch.object(masking_utils, "_ignore_bidirectional_mask_sdpa", lambda *_, **__: False, create=True)
        stack.enter_context(never)
        yield


def _masked_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float = 0.0, **named: Any
) -> Tensor:
    """The kernel that GPUs have for attention with a mask of numbers."""
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
    attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    scale = named.get("scale")
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, attn_mask, True, dropout_p, scale=scale)[0]


def _dropout_of_gpus(values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(values, p, training)[0] if p and training else values
