"""With dropout 0 a run takes the same path on any number of ranks and with any token budget: that of plain PyTorch."""

from collections.abc import Sequence

import pytest
from agreement import relative_difference
from small_run import plain_losses
from small_runs import ENGINES, LONG, SHORT, SmallRuns

pytestmark = [pytest.mark.distributed]

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def plain() -> Sequence[float]:
    """Losses of one process with the whole batch, PyTorch's AdamW and clipping, and no engine."""
    return plain_losses(LONG)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_world_size_follows_plain_pytorch(
    world_size: int, engine: str, plain: Sequence[float], small_runs: SmallRuns
) -> None:
    losses = small_runs.at(world_size)[engine][0]["losses"]
    assert len(losses) == (SHORT if world_size == 4 else LONG)
    assert relative_difference(losses, plain) < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_another_token_budget_changes_nothing(engine: str, plain: Sequence[float], small_runs: SmallRuns) -> None:
    assert relative_difference(small_runs.two[f"{engine} one micro-batch"][0]["losses"], plain) < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rank_with_many_micro_batches_beside_one_with_a_single_one_changes_nothing(
    engine: str, plain: Sequence[float], small_runs: SmallRuns
) -> None:
    assert relative_difference(small_runs.two[f"{engine} lopsided"][0]["losses"], plain) < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_the_path_leads_away_from_its_start(engine: str, small_runs: SmallRuns) -> None:
    """A run that stays where it is would be the same everywhere."""
    run = small_runs.two[engine][0]
    assert all(run["final"][name] != digest for name, digest in run["initial"].items())
    unclipped = small_runs.two[f"{engine} unclipped"][0]["losses"]
    assert relative_difference(unclipped, run["losses"]) > 100 * TOLERANCE
