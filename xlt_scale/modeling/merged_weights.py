"""An adapted encoder's weights as ordinary ones."""

from collections.abc import Mapping

from torch import Tensor

from xlt_scale.modeling.weights import WeightSource

_PIECE = 1 << 22


class MergedWeights(WeightSource):
    """The encoder's frozen weights with the adapters' products added: what the adapted model computes, as ordinary
    weights.

    A merged weight is W + (alpha / rank) B A, of fp64 products rounded once: its bits do not depend on the range that
    is read.

    Args:
        base: gives the weights without adapters.
        factors: every adapter's matrices by name, fp32 on the CPU, whole.
        scaling: alpha / rank.
    """

    def __init__(self, base: WeightSource, factors: Mapping[str, Tensor], scaling: float) -> None:
        self._base, self._factors, self._scaling = base, factors, scaling

    def has(self, name: str) -> bool:
        return self._base.has(name)

    def read_into(self, destination: Tensor, name: str, start: int) -> None:
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A.weight" not in self._factors:
            self._base.read_into(destination, name, start)
            return
        stop = start + destination.numel()
        values = self._base.read(name, start, stop)
        wide = self._factors[f"{layer}.lora_A.weight"].double()
        tall = self._factors[f"{layer}.lora_B.weight"]
        width = wide.shape[1]
        rows_at_once = max(1, _PIECE // width)
        for row in range(start // width, -(-stop // width), rows_at_once):
            rows = tall[row : row + rows_at_once].double() @ wide
            low, high = max(start, row * width), min(stop, row * width + rows.numel())
            part = values[low - start : high - start]
            part.copy_(part.double() + self._scaling * rows.view(-1)[low - row * width : high - row * width])
        destination.copy_(values)
