"""Does an encoder give the same hidden states unpadded as padded? Asked at start-up, on a shrunken model of its class.

An encoder may accept what the unpadded path hands it and ignore it (T5's additive position bias), or be off by one in a
local
window: nothing crashes, only the results are wrong. So the unpadded path is used only where this check passes.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from xlt_scale.modeling import attention
from xlt_scale.modeling.family import encoder_class

# fp32 rounding is near 1e-6; a window that is off by one gives 5e-3.
_TOLERANCE = 1e-4
_LENGTHS = (37, 23, 23, 9, 2)
_VOCABULARY = 64
_WINDOW = 8


@dataclass(frozen=True)
class UnpaddedCheck:
    """The outcome: whether the encoder may run unpadded, the position number of a first token, and why not if not."""

    passed: bool
    first_position: int = 0
    reason: str = ""


def check_unpadded(config: PretrainedConfig) -> UnpaddedCheck:
    """Compare padded and unpadded hidden states of a small random model of the configuration's class (CPU, fp32).

    Position numbers start at 0 in most families and at padding_idx + 1 in the RoBERTa family; both are tried. Every
    rank does it alike, without communication; the global random state is left as it was.
    """
    attention.register()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            small = _shrink(config)
            model = encoder_class(small)._from_config(small, dtype=torch.float32).eval()
            for parameter in model.parameters():
                # A fresh model's attention is nearly uniform; larger weights make mistakes visible.
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
            batch = [torch.randint(5, _VOCABULARY, (length,)) for length in _LENGTHS]
            expected = _padded(model, batch, small.pad_token_id)
            model.set_attn_implementation(attention.UNPADDED)
            differences = {}
            for first_position in dict.fromkeys((0, small.pad_token_id + 1)):
                found = _unpadded(model, batch, first_position)
                differences[first_position] = (found - expected).abs().max().item()
                if differences[first_position] < _TOLERANCE:
                    return UnpaddedCheck(True, first_position)
    except Exception as error:  # whatever stops a foreign model from running this way means: run it padded
        return UnpaddedCheck(False, reason=f"{type(error).__name__}: {str(error)[:100]}")
    return UnpaddedCheck(False, reason=f"hidden states differ by {min(differences.values()):.1e}")


def _shrink(config: PretrainedConfig) -> PretrainedConfig:
    """The same class with few and narrow layers, a small vocabulary and a short local window."""
    small = copy.deepcopy(config)
    heads = 2 if getattr(config, "num_key_value_heads", None) in (None, config.num_attention_heads) else 4
    sizes: dict[str, Any] = {
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "hidden_size": heads * 16,
        "head_dim": 16,
        "intermediate_size": 48,
        "vocab_size": _VOCABULARY,
        "local_attention": 2 * _WINDOW,
        "sliding_window": _WINDOW,
        "attention_window": _WINDOW,
        "embedding_size": heads * 16,
        "d_model": heads * 16,
    }
    for name, value in sizes.items():
        if getattr(small, name, None) is not None:
            setattr(small, name, value)
    layers = min(config.num_hidden_layers, 4)
    small.num_hidden_layers = layers
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:layers]
    for name, value in vars(small).items():
        if name.endswith("_token_id") and isinstance(value, int) and value >= _VOCABULARY:
            setattr(small, name, 1 if name == "pad_token_id" else 2)
    if small.pad_token_id is None:
        small.pad_token_id = 0
    small._attn_implementation = "sdpa"
    return small


def _padded(model: torch.nn.Module, batch: list[torch.Tensor], pad: int) -> torch.Tensor:
    input_ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=pad)
    mask = torch.arange(input_ids.shape[1]) < torch.tensor(_LENGTHS)[:, None]
    hidden = model(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
    return hidden[mask]


def _unpadded(model: torch.nn.Module, batch: list[torch.Tensor], first_position: int) -> torch.Tensor:
    positions = torch.cat([torch.arange(len(sequence)) for sequence in batch]) + first_position
    boundaries = torch.tensor([0, *_LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    arguments = attention.sequence_arguments(_LENGTHS, boundaries)
    output = model(input_ids=torch.cat(batch)[None], position_ids=positions[None], **arguments)
    return output.last_hidden_state[0]
