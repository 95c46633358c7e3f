"""All ranks learn at the same step that one of them wants to stop."""

import torch
from torch import Tensor

from xlt_scale.engines.world import World


class StopVote:
    """The votes of one step, counted at the next: by then the sum has long arrived, and no rank waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._votes: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def note(self, votes: Tensor) -> None:
        """Keep this step's sum of votes over all ranks, a scalar on the device; does not wait for it."""
        if not self._is_cuda:
            self._votes = votes.clone()
            return
        self._votes = torch.empty((), dtype=votes.dtype, pin_memory=True)
        self._votes.copy_(votes, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record()

    def is_carried(self) -> bool:
        """Whether any rank wanted to stop when the last sum was noted; the same on every rank."""
        if self._votes is None:
            return False
        if self._arrived is not None:
            self._arrived.synchronize()
        return float(self._votes) > 0


def wants_to_stop(world: World, why: str) -> str:
    """Why one of the ranks wants to stop, '' when none does, on every rank; collective, at a place without steps."""
    if world.size == 1:
        return why
    vote = world.sum(torch.tensor(float(bool(why)), device=world.device))
    if not float(vote):
        return ""
    return next(str(text) for text in world.gather(why) if text)
