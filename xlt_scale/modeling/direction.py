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

# What a token changes in another that does not see it, of what it changes in itself: rounding, where experts take
# tokens together.
_ROUNDING = 1e-5

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
    later ones, and later ones do on early ones. Every rank does it alike; the global random state is left as it was.
    """
    try:
        small = shrunken(config)
        if hasattr(small, "is_causal"):
            small.is_causal = True
        return not early_tokens_see_later_ones(small) and _sees(small, seeing=-1, seen=0)
    except Exception as error:  # whatever a foreign family does not take
        logger.info("%s is taken for an encoder: no small one could be tried (%s)", config.model_type, reason(error))
        return False


def early_tokens_see_later_ones(small: PretrainedConfig) -> bool:
    """Whether a small random model of this configuration reads in both directions, on a padded batch."""
    return _sees(small, seeing=0, seen=-1)


def _sees(small: PretrainedConfig, seeing: int, seen: int) -> bool:
    """Whether the state of one token depends on another, in a sequence of six."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = encoder_class(small)._from_config(small, dtype=torch.float32).eval()
        for parameter in model.parameters():
            # Of a fresh model some families' tokens hardly see each other (MobileBERT).
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        first = torch.randint(5, SMALL_VOCABULARY, (1, 6))
        second = first.clone()
        second[0, seen] = (first[0, seen] - 4) % (SMALL_VOCABULARY - 5) + 5
        states = [model(input_ids=ids, attention_mask=torch.ones_like(ids))[0] for ids in (first, second)]
    changes = (states[0] - states[1])[0].abs().amax(1)
    return bool(changes[seeing] > _ROUNDING * changes[seen])
