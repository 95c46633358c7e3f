"""Remove a phase's older checkpoints when it is sure that the newest one is good."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xlt_scale.checkpoint.finding import FoundCheckpoint, checkpoints_folder, look_at
from xlt_scale.checkpoint.store import Retention, check_files, list_checkpoints, step_of
from xlt_scale.checkpoint.writer import remove_checkpoint
from xlt_scale.errors import UserError


@dataclass(frozen=True)
class Pruning:
    """What of a phase's checkpoints stays and what goes. Unfinished and damaged ones are in neither list.

    Attributes:
        kept, removed: oldest first; `kept` ends with the newest, and is empty where there is no whole checkpoint.
        passed_over: those that are not whole: left to a person.
    """

    kept: tuple[FoundCheckpoint, ...]
    removed: tuple[FoundCheckpoint, ...]
    passed_over: tuple[FoundCheckpoint, ...]


def plan_pruning(phase: Path, retention: Retention) -> Pruning:
    """What would go from a phase's training checkpoints; its result is none of them. Reads no data."""
    everything = [look_at(folder) for folder in list_checkpoints(checkpoints_folder(phase))]
    whole = [found for found in everything if found.state == "whole"]
    removable = set(retention.removable([step_of(found.folder) for found in whole], _best_step(whole)))
    return Pruning(
        kept=tuple(found for found in whole if step_of(found.folder) not in removable),
        removed=tuple(found for found in whole if step_of(found.folder) in removable),
        passed_over=tuple(found for found in everything if found.state != "whole"),
    )


def check_newest(pruning: Pruning, advance: Callable[[int], object] | None = None) -> None:
    """Read the newest checkpoint that stays, every byte.

    Args:
        advance: called with the number of bytes after each piece that was read.

    Raises:
        UserError: it is damaged.
    """
    newest = pruning.kept[-1]
    assert newest.manifest is not None
    try:
        check_files(newest.folder, newest.manifest, read_all=True, advance=advance)
    except UserError as error:
        raise UserError(f"nothing is removed: {error}, and remove {newest.folder} by hand") from None


def remove(found: FoundCheckpoint) -> None:
    """Delete a checkpoint.

    Raises:
        UserError: its folder may not be changed.
    """
    try:
        remove_checkpoint(found.folder)
    except OSError as error:
        raise UserError(
            f"{found.folder} cannot be removed ({error.strerror}); change its folder's permissions"
        ) from None


def _best_step(whole: list[FoundCheckpoint]) -> int | None:
    """The step of the best score so far, which the newest checkpoint knows."""
    newest = whole[-1].manifest if whole else None
    best = newest.facts.get("best") if newest else None
    step = best.get("step") if isinstance(best, dict) else None
    return step if isinstance(step, int) else None
