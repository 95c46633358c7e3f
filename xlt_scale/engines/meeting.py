"""All processes of a launch meet, before anything that waits for all of them."""

import os
import socket
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from xlt_scale.cluster.ending import LostError
from xlt_scale.errors import UserError


class Meeting:
    """What the processes have in common before they have a process group: the launcher's key-value store.

    Made on every rank; returns when all have come. The launcher has set RANK, WORLD_SIZE and MASTER_*. A process that
    is alone has nobody to tell an address: its store takes a free port, and MASTER_* say which.

    Args:
        patience: how long to wait for the others.

    Raises:
        LostError: not all have come; it names those that are missing, where the store can tell.
        UserError: the address cannot be used.
    """

    def __init__(self, patience: timedelta) -> None:
        try:
            if os.environ["WORLD_SIZE"] == "1":
                store, self.rank, self.size = _store_of_one(patience), 0, 1
            else:
                store, self.rank, self.size = next(dist.rendezvous("env://", timeout=patience))
        except (dist.DistNetworkError, dist.DistStoreError) as error:
            raise _why_not_met(error) from None
        self.store: dist.Store = store
        self._own = dist.PrefixStore("xlt_scale", store)
        self._wait_for_all(patience)

    def share(self, make: Callable[[], str]) -> str:
        """What `make` gives on rank 0, on every rank; once."""
        if self.rank == 0:
            self._own.set("shared", make())
        return str(self._own.get("shared").decode())

    def _wait_for_all(self, patience: timedelta) -> None:
        """A process group waits for those that have been started, too, but as long as any collective may take."""
        self._own.set(f"here/{self.rank}", socket.gethostname())
        keys = [f"here/{rank}" for rank in range(self.size)]
        try:
            self._own.wait(keys, patience)
        except dist.DistError:
            missing = [str(rank) for rank, key in enumerate(keys) if not self._own.check([key])]
            raise LostError(
                f"{self.size - len(missing)} of {self.size} processes have come to {_address()} within "
                f"{patience.total_seconds():.0f} s; missing: rank {', '.join(missing)}"
            ) from None


def _store_of_one(patience: timedelta) -> dist.Store:
    # Not at the port that is told: it may have been free when it was looked for, and taken since, or be the store's of
    # the process that has started this one and handed on its environment.
    store = dist.TCPStore("127.0.0.1", 0, world_size=1, is_master=True, timeout=patience)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port))
    return store


def _why_not_met(error: Exception) -> Exception:
    said = str(error).split(". ")[0]
    if "EADDRINUSE" in said:
        return UserError(f"the processes cannot meet at {_address()} ({said}); give the launcher another --master_port")
    if isinstance(error, dist.DistStoreError) or "timed out" in said:
        return LostError(f"not all of {os.environ['WORLD_SIZE']} processes have come to {_address()} ({said})")
    return UserError(f"the processes cannot meet at {_address()} ({said}); is it reachable?")


def _address() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
