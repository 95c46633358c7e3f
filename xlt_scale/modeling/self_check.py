"""Does an encoder give the same hidden states unpadded as padded? Asked at start-up, on a shrunken model of its class.

An encoder may accept what the unpadded path hands it and ignore it (T5's additive position bias), or be off by one in a
local window: nothing crashes, only the results are wrong. So the unpadded path is used only where this check passes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from xlt_scale.modeling import attention
from xlt_scale.modeling.direction import direction_of
from xlt_scale.modeling.family import SMALL_VOCABULARY, encoder_class, shrunken

# fp32 rounding is near 1e-6; a window that is off by one gives 5e-3.
_TOLERANCE = 1e-4
_LENGTHS = (37, 23, 23, 9, 2)


@dataclass(frozen=True)
class UnpaddedCheck:
    """The outcome: whether the encoder may run unpadded and why not if not, the position number of a first token, and
    the name of the attention function that gives the family's own results.
    """

    passed: bool
    first_position: int = 0
    reason: str = ""
    implementation: str = ""


def check_unpadded(config: PretrainedConfig) -> UnpaddedCheck:
    """Compare padded and unpadded hidden states of a small random model of the configuration's class (CPU, fp32).

    Position numbers start at 0 in most families and at padding_idx + 1 in the RoBERTa family; the padded masks of some
    families reach one token further than their layers say (`attention.UNPADDED_WIDER`): all are tried. Every rank does
    it alike, without communication; the global random state is left as it was.
    """
    attention.register()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            small = shrunken(config)
            model = encoder_class(small)._from_config(small, dtype=torch.float32).eval()
            if not model._can_set_attn_implementation():
                return UnpaddedCheck(False, reason="its attention cannot be replaced")
            for parameter in model.parameters():
                # A fresh model's attention is nearly uniform; larger weights make mistakes visible.
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
            batch = [torch.randint(5, SMALL_VOCABULARY, (length,)) for length in _LENGTHS]
            expected = _padded(model, batch, small.pad_token_id)
            differences = []
            for implementation in _implementations(config):
                with _quietly():
                    model.set_attn_implementation(implementation)
                for first_position in dict.fromkeys((0, small.pad_token_id + 1)):
                    found = _unpadded(model, batch, first_position)
                    differences.append((found - expected).abs().max().item())
                    if differences[-1] < _TOLERANCE:
                        return UnpaddedCheck(True, first_position, implementation=implementation)
    except Exception as error:  # whatever stops a foreign model from running this way means: run it padded
        return UnpaddedCheck(False, reason=f"{type(error).__name__}: {str(error)[:100]}")
    return UnpaddedCheck(False, reason=f"hidden states differ by {min(differences):.1e}")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's warning about the decoder of a model that is built without one (T5Gemma)."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _implementations(config: PretrainedConfig) -> tuple[str, ...]:
    is_causal = direction_of(config) == "causal"
    return (attention.UNPADDED_CAUSAL,) if is_causal else (attention.UNPADDED, attention.UNPADDED_WIDER)


def _padded(model: PreTrainedModel, batch: list[torch.Tensor], pad: int) -> torch.Tensor:
    input_ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=pad)
    mask = torch.arange(input_ids.shape[1]) < torch.tensor(_LENGTHS)[:, None]
    hidden = model(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
    return hidden[mask]


def _unpadded(model: PreTrainedModel, batch: list[torch.Tensor], first_position: int) -> torch.Tensor:
    positions = torch.cat([torch.arange(len(sequence)) for sequence in batch]) + first_position
    boundaries = torch.tensor([0, *_LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    arguments = attention.sequence_arguments(_LENGTHS, boundaries)
    output = model(input_ids=torch.cat(batch)[None], position_ids=positions[None], **arguments)
    return output.last_hidden_state[0]
