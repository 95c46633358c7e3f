"""Decoders read in both directions: which models are decoders, and what tells them that early tokens see later ones.

`transformers` makes the masks of an encoder for a decoder whose configuration says `is_causal = False`, so that an
exported folder is read the same way elsewhere. Unpadded there are no masks: the attention function has the direction
(attention.py).
"""

import logging
from typing import Literal

import torch
from transformers import PretrainedConfig

from xlt_scale.errors import reason
from xlt_scale.modeling.family import SMALL_VOCABULARY, encoder_class, shrunken

logger = logging.getLogger(__name__)

# What a later token changes in an early one that does not see it: rounding, where experts take tokens together.
_ROUNDING = 1e-4

Direction = Literal["encoder", "both", "causal"]


def direction_of(config: PretrainedConfig) -> Direction:
    """How a model is read, as `set_direction` has left it: an encoder, or a decoder in both directions or causally."""
    is_causal = getattr(config, "is_causal", None)
    return "encoder" if is_causal is None else "causal" if is_causal else "both"


def set_direction(config: PretrainedConfig, direction: Direction) -> None:
    """Write it into the configuration: there checkpoints, exports and phase hashes find it."""
    if direction != "encoder":
        config.is_causal = direction == "causal"
    elif hasattr(config, "is_causal"):
        config.is_causal = None


def is_decoder(config: PretrainedConfig) -> bool:
    """Whether the family's own attention is causal: asked of a small model, whose early tokens then do not depend on
    later ones. Every rank does it alike; the global random state is left as it was.
    """
    small = shrunken(config)
    if hasattr(small, "is_causal"):
        small.is_causal = True
    try:
        return not early_tokens_see_later_ones(small)
    except Exception as error:  # whatever a foreign family does not take
        logger.info("%s is taken for an encoder: no small one could be tried (%s)", config.model_type, reason(error))
        return False


def early_tokens_see_later_ones(small: PretrainedConfig) -> bool:
    """Whether a small random model of this configuration reads in both directions, on a padded batch."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = encoder_class(small)._from_config(small, dtype=torch.float32).eval()
        first = torch.randint(5, SMALL_VOCABULARY, (1, 6))
        second = first.clone()
        second[0, -1] = (first[0, -1] - 4) % (SMALL_VOCABULARY - 5) + 5
        states = [model(input_ids=ids, attention_mask=torch.ones_like(ids))[0] for ids in (first, second)]
    return bool((states[0][0, 0] - states[1][0, 0]).abs().max() > _ROUNDING)
