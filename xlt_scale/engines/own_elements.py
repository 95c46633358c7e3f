"""What of a tensor lies on this rank."""

from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor


def own_elements(tensor: Any) -> Tensor:
    """A rank's own elements of a tensor, sharded or not, as a flat view without a derivative."""
    data = tensor.detach()
    return (data.to_local() if isinstance(data, DTensor) else data).view(-1)
