"""How many elements are stepped at once where weights or gradients lie in bf16; loaded without torch."""

NUM_PORTIONS = 16
SMALLEST_PORTION, LARGEST_PORTION = 1 << 22, 1 << 28
BLOCK = 256
"""Elements of 8-bit states that share a scale: bitsandbytes' blockwise quantisation."""


def portion_of(num_elements: float) -> int:
    """Of so many on a device: a sixteenth, so that their fp32 copies are small beside the model and the host has few
    calls to make.
    """
    return max(SMALLEST_PORTION, min(LARGEST_PORTION, int(num_elements) // NUM_PORTIONS // BLOCK * BLOCK))
