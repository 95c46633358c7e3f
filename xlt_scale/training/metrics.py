"""Rows of metrics.jsonl, TensorBoard, and the progress that a person sees. All on rank 0."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from xlt_scale.config import LoggingOptions
from xlt_scale.training.environment import replace_text

_PLAIN_SECONDS = 5.0


class MetricsWriter:
    """Appends rows to metrics.jsonl, each flushed, and to TensorBoard. Other ranks than 0 write nothing.

    A full disk does not end a run for the sake of a row: the user is told, and what can be written later is.
    """

    def __init__(self, folder: Path, options: LoggingOptions, is_main: bool) -> None:
        self._file = open(folder / "metrics.jsonl", "a", encoding="utf-8") if is_main else None  # noqa: SIM115
        self._announce = announcer(is_main, options)
        self._is_failing = False
        self._board_folder = folder / "tensorboard" if options.tensorboard else None
        self._board: Any = None

    def rewind(self, phase: str, step: int) -> None:
        """Drop the rows that an interrupted start has written of a phase after this step: they are made again.

        Raises:
            OSError: the file cannot be written; it stays as it was.
        """
        if self._file is None:
            return
        path = Path(self._file.name)
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if not _is_later(line, phase, step)]
        replace_text(path, "".join(f"{line}\n" for line in kept))
        self._file.close()
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, row: dict[str, Any]) -> None:
        """One row; numbers also go to TensorBoard under '<phase>/<name>'."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            if not self._is_failing:
                self._announce(f"metrics.jsonl cannot be written, the run goes on: {error.strerror}")
            self._is_failing = True
            return
        self._is_failing = False
        self._show_on_board(row)

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        if self._board is not None:
            with contextlib.suppress(OSError):
                self._board.close()

    def _show_on_board(self, row: dict[str, Any]) -> None:
        if self._board_folder is None:
            return
        try:
            if self._board is None:
                from torch.utils.tensorboard.writer import SummaryWriter

                self._board = SummaryWriter(str(self._board_folder))
            for name, value in row.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(f"{row['phase']}/{name}", value, row["step"])
        except OSError as error:
            self._announce(f"TensorBoard gets no more rows of this start: {error.strerror}")
            self._board_folder = None


def _is_later(line: str, phase: str, step: int) -> bool:
    """Whether a line is a row of the phase after the step, or torn by the end of its process."""
    try:
        row = json.loads(line)
        return row["phase"] == phase and row["step"] > step
    except (ValueError, KeyError, TypeError):
        return True


class ProgressView:
    """A live bar on a terminal, plain lines otherwise; silent on other ranks than 0. A context manager."""

    def __init__(self, phase: str, num_steps: int, options: LoggingOptions, is_main: bool) -> None:
        style = options.progress
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "plain"
        self._style = style if is_main else "none"
        self._phase, self._num_steps = phase, num_steps
        self._started = time.monotonic()
        self._last_line = float("-inf")
        self._bar: Progress | None = None

    def __enter__(self) -> "ProgressView":
        if self._style == "bar":
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total}  {task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._phase, total=self._num_steps, note="")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, step: int) -> None:
        """A step is done; cheap enough for every step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def show(self, row: dict[str, Any]) -> None:
        """Show the numbers of a metrics row."""
        mfu = "" if row["mfu"] is None else f"  MFU {row['mfu']:.1%}"
        note = f"loss {row['loss']:.4f}  {row['tokens_per_second']:,.0f} tokens/s{mfu}  {row['memory_gib']:.1f} GiB"
        if self._bar is not None:
            self._bar.update(self._task, note=note)
        elif self._style == "plain":
            now = time.monotonic()
            if now - self._last_line >= _PLAIN_SECONDS or row["step"] == self._num_steps:
                self._last_line = now
                left = (now - self._started) / row["step"] * (self._num_steps - row["step"])
                line = f"{self._phase}  step {row['step']}/{self._num_steps}  {note}  {_duration(left)} left"
                print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


Announce = Callable[[str], None]


@contextlib.contextmanager
def notes_announced(announce: Announce) -> Iterator[None]:
    """Let what the modules below note (rows left out, a slower path taken) be announced, each note once."""
    logger, handler = logging.getLogger("xlt_scale"), _Announcing(announce)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Announcing(logging.Handler):
    def __init__(self, announce: Announce) -> None:
        super().__init__(logging.INFO)
        self._announce = announce
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._said:
            self._said.add(message)
            self._announce(message)


def announcer(is_main: bool, options: LoggingOptions) -> Announce:
    """Prints a line to the user on rank 0, unless progress is switched off."""

    def announce(text: str) -> None:
        if is_main and options.progress != "none":
            print(text, file=sys.stderr, flush=True)

    return announce
