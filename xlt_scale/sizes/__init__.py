"""The size ladders: architectures, exact parameter counts, and the floating-point operations of a training step."""

from xlt_scale.errors import UserError, nearest
from xlt_scale.sizes.ladders import LADDERS, SIZES
from xlt_scale.sizes.model_size import ModelSize, size_of_fields
from xlt_scale.sizes.structure import family_of

__all__ = ["LADDERS", "SIZES", "ModelSize", "family_of", "find_size", "size_of_fields", "training_flops"]


def find_size(name: str) -> ModelSize:
    """The size of that name; an unknown name is a `UserError` with the nearest one."""
    if name not in SIZES:
        raise UserError(f"model.size = {name!r} is unknown; {nearest(name, SIZES)}")
    return SIZES[name]


def training_flops(
    num_non_embedding_parameters: int, num_layers: int, attention_width: int, num_tokens: int, sum_squared_lengths: int
) -> int:
    """Floating-point operations of forward and backward over real tokens: 6 N sum(n) + 12 L d sum(n^2).

    N without embeddings and the attention term bidirectional (no causal half), after Kaplan et al. 2020, section 2.1,
    and Chowdhery et al. 2022, appendix B. Recomputation does not count, so this gives MFU rather than hardware
    utilisation.

    Args:
        attention_width: of all query heads together; in most families the hidden size.
    """
    return 6 * num_non_embedding_parameters * num_tokens + 12 * num_layers * attention_width * sum_squared_lengths
