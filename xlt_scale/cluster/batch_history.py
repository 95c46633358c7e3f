"""How the starts of a batch job ended: read from what their nodes left, kept over requeues."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xlt_scale.errors import LOST_EXIT_CODE, STOPPED_EXIT_CODE

HISTORY_FILE = "history.jsonl"
TIMES_LOST_TO_BE_EXCLUDED = 2
STARTS_WITHOUT_PROGRESS = {LOST_EXIT_CODE: 3, STOPPED_EXIT_CODE: 10}
"""After so many in a row nobody starts again by himself. Pre-emption may well come several times during start-up."""


_KILLED = (137, 247)
"""SIGKILL, as shells and as DeepSpeed's launcher report it."""


@dataclass(frozen=True)
class Outcome:
    """How a start ended.

    Attributes:
        start: its number, from 1.
        lost_node: SLURM's name of a lost node, or ''.
        phase, step: how far the run was; '' and 0 when nobody said.
        is_told: a node, or the launcher, has said so; otherwise it is only known that it ended.
    """

    start: int
    code: int
    reason: str
    lost_node: str = ""
    phase: str = ""
    step: int = 0
    time: float = 0.0
    is_told: bool = True


@dataclass(frozen=True)
class Start:
    """A start's folder, in which its nodes leave how they end.

    Attributes:
        first_host: host name of the node that the batch script runs on.
    """

    number: int
    folder: Path
    first_host: str

    @staticmethod
    def at(folder: Path) -> "Start":
        with contextlib.suppress(OSError):
            return Start(_number(folder), folder, (folder / "first_host").read_text().strip())
        return Start(_number(folder), folder, "")

    def end_files(self) -> dict[str, dict[str, Any]]:
        """By host name; what cannot be read yet is left out."""
        found = {}
        for path in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                content = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(content, dict) and isinstance(content.get("code"), int):
                    found[path.stem] = content
        return found

    def nodes(self, mark: str) -> dict[str, str]:
        """SLURM's names of the nodes that have left this mark ('began', 'ended'), with its content."""
        found = {}
        for path in self.folder.glob(f"*.{mark}"):
            with contextlib.suppress(OSError):
                found[path.name.removesuffix(f".{mark}")] = path.read_text().strip()
        return found

    def node_of(self, host: str) -> str:
        """SLURM's name of a host."""
        named = {name: node for node, name in self.nodes("began").items()}
        return named.get(host, host.split(".")[0])


def outcome_of(start: Start, launcher_code: int | None) -> Outcome:
    """How a start ended. The first node's word counts before the others': when a link is cut, both sides blame each
    other, and the first node is the one that goes on.
    """
    ended = start.nodes("ended").get(start.node_of(start.first_host), "")
    own_code = int(ended) if ended.isdecimal() else launcher_code
    files = start.end_files()
    if own_code == 0:
        return Outcome(start.number, 0, "done")
    told = files.get(start.first_host) or min(files.values(), key=lambda file: float(file.get("time", 0)), default=None)
    if told:
        lost = str(told.get("lost_node") or "")
        return Outcome(
            start=start.number,
            code=told["code"],
            reason=str(told.get("reason", "")),
            lost_node=start.node_of(lost) if lost else "",
            phase=str(told.get("phase") or ""),
            step=int(told.get("step") or 0),
            time=float(told.get("time") or 0),
        )
    # Others may still have their word to say.
    return Outcome(start.number, *_without_a_word(start, own_code), time=time.time(), is_told=False)


def _without_a_word(start: Start, code: int | None) -> tuple[int, str, str]:
    began = start.nodes("began")
    absent = [node for node in _planned(start) if node not in began]
    if began and absent:
        return LOST_EXIT_CODE, f"{', '.join(absent)} never began", absent[0] if len(absent) == 1 else ""
    if code is None or code in _KILLED:
        return LOST_EXIT_CODE, "the launcher was killed", ""
    return code, f"the launcher ended with code {code}", ""


def _planned(start: Start) -> list[str]:
    with contextlib.suppress(OSError):
        return (start.folder / "nodes").read_text().split()
    return []


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("start-"))


class History:
    """The starts of a job.

    Args:
        folder: of the job; `open` makes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def open(folder: Path, is_first: bool) -> "History":
        """The history of a job. On its first start what lies there is another job's, from before SLURM began to count
        anew: it is put aside.

        Raises:
            OSError: the folder cannot be made.
        """
        if is_first and folder.exists():
            numbers = [int(found[1]) for path in folder.parent.glob("*") if (found := _aside(folder, path))]
            folder.rename(folder.with_name(f"{folder.name}.before-{max(numbers, default=0) + 1}"))
        folder.mkdir(parents=True, exist_ok=True)
        return History(folder)

    def new_start(self, first_host: str, nodes: tuple[str, ...] = ()) -> Start:
        """The next start's folder.

        Raises:
            OSError: it cannot be made.
        """
        number = max((start.number for start in self.starts()), default=0) + 1
        folder = self.folder / f"start-{number}"
        folder.mkdir()
        (folder / "first_host").write_text(f"{first_host}\n")
        (folder / "nodes").write_text("\n".join(nodes) + "\n")
        return Start(number, folder, first_host)

    def starts(self) -> list[Start]:
        return sorted(map(Start.at, self.folder.glob("start-*")), key=lambda start: start.number)

    def outcomes(self) -> list[Outcome]:
        """Of the starts that ended otherwise than well, oldest first."""
        return list(self._read())

    def add(self, outcome: Outcome) -> None:
        with (self.folder / HISTORY_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")

    def take_over(self, before: Start) -> list[Outcome]:
        """Note how earlier starts ended whose batch script did not live to do so: its node was lost, or SLURM has
        requeued the job before the script was done. What no node has said anything about counts as neither.
        """
        known = {outcome.start for outcome in self.outcomes()}
        found = []
        for start in self.starts():
            if start.number < before.number and start.number not in known and start.end_files():
                found.append(outcome_of(start, None))
                self.add(found[-1])
        return found

    def nodes_to_exclude(self) -> list[str]:
        """Nodes that were lost twice."""
        lost = [outcome.lost_node for outcome in self.outcomes() if outcome.code == LOST_EXIT_CODE]
        return sorted({node for node in lost if node and lost.count(node) >= TIMES_LOST_TO_BE_EXCLUDED})

    def why_no_more(self) -> str:
        """Why another start would be of no use: too many in a row without a step of progress. '' otherwise."""
        in_a_row: dict[int, int] = dict.fromkeys(STARTS_WITHOUT_PROGRESS, 0)
        furthest: tuple[str, int] = ("", 0)
        for outcome in self.outcomes():
            if outcome.phase and (outcome.phase != furthest[0] or outcome.step > furthest[1]):
                furthest = (outcome.phase, outcome.step)
                in_a_row = dict.fromkeys(STARTS_WITHOUT_PROGRESS, 0)
            if outcome.code in in_a_row:
                in_a_row[outcome.code] += 1
        for code, count in in_a_row.items():
            if count >= STARTS_WITHOUT_PROGRESS[code]:
                how = "lost" if code == LOST_EXIT_CODE else "stopped"
                at = f" since phase {furthest[0]}, step {furthest[1]}" if furthest[0] else ""
                return f"{how} {count} times without a step of progress{at}"
        return ""

    def _read(self) -> Iterator[Outcome]:
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / HISTORY_FILE).read_text(encoding="utf-8").splitlines():
                # A line that was cut when its writer was killed.
                with contextlib.suppress(ValueError, TypeError):
                    yield Outcome(**json.loads(line))


def _aside(folder: Path, path: Path) -> re.Match[str] | None:
    return re.fullmatch(rf"{re.escape(folder.name)}\.before-(\d+)", path.name)
