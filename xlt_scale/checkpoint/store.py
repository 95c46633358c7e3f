"""The checkpoints of a phase's folder: which there are, which are whole, and which may go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xlt_scale.checkpoint.manifest import Manifest, read_manifest
from xlt_scale.checkpoint.tensor_file import file_checksum
from xlt_scale.errors import UserError


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return checkpoints / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step that a checkpoint's folder is named by."""
    return int(folder.name.removeprefix("step-"))


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """The folders of checkpoints, whole or not, oldest first."""
    found = [path for path in checkpoints.glob("step-*") if path.name.removeprefix("step-").isdigit() and path.is_dir()]
    return sorted(found, key=step_of)


def check_files(
    folder: Path, manifest: Manifest, read_all: bool = False, advance: Callable[[int], object] | None = None
) -> None:
    """Every file is there and as large as it was written; with `read_all` its content is too, by checksum.

    Args:
        advance: called with the number of bytes after each piece that was read.

    Raises:
        UserError: the first file that is not, with the reason.
    """
    for name, stored in manifest.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != stored.num_bytes:
                raise UserError(f"{path} has {size:,} bytes of {stored.num_bytes:,}; use another checkpoint")
            if read_all and file_checksum(path, advance)[0] != stored.crc32:
                raise UserError(f"{path} is not as it was written (its checksum differs); use another checkpoint")
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); use another checkpoint") from None


def find_problem(folder: Path, read_all: bool = False) -> str:
    """What is wrong with a checkpoint, in one line; '' when it is whole."""
    try:
        check_files(folder, read_manifest(folder), read_all)
    except UserError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the last `last`, those of every `every`-th step, and the best.

    Attributes:
        every: steps; 0 for none.
    """

    last: int = 2
    every: int = 0

    def removable(self, whole: Sequence[int], best: int | None = None) -> list[int]:
        """Of the steps of whole checkpoints, oldest first, those that may be removed; the newest never."""
        kept = set(whole[-max(1, self.last) :])
        if self.every:
            kept |= {step for step in whole if step % self.every == 0}
        if best is not None:
            kept.add(best)
        return [step for step in whole if step not in kept]
