"""Writes while training goes on: which failures training outlives."""

import pytest
import torch

from xlt_scale.checkpoint.background import BackgroundWriter
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError


@pytest.fixture
def writer() -> BackgroundWriter:
    return BackgroundWriter(World(0, 1, 0, torch.device("cpu")))


def test_a_write_that_fails_is_told_and_does_not_end_training(writer: BackgroundWriter) -> None:
    def full(world: World) -> None:
        raise UserError("/full: no space left on device")

    writer.start(full)
    outcome = writer.wait()
    assert outcome is not None
    assert outcome.problem == "/full: no space left on device"


def test_a_rank_that_is_gone_is_no_failed_write(writer: BackgroundWriter) -> None:
    def lost(world: World) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:21898: Connection reset by peer")

    writer.start(lost)
    with pytest.raises(RuntimeError, match="Connection reset by peer"):
        writer.wait()
    assert writer.wait() is None
