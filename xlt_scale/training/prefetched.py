"""What was fetched for a run or a study, written down: where it lies, which revision it is, sizes and hashes.

The list is prefetched.json in the output folder. The check reads it, hashes the files again and needs no network.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from xlt_scale.errors import UserError

LIST = "prefetched.json"
_VERSION = 1
_BLOCK = 1 << 22

Mend = Literal["leave", "file", "parent", "whole"]


@dataclass(frozen=True)
class FileFacts:
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """One thing that a run needs, made of files.

    Attributes:
        kind, name: what it is, as 'model' and 'xlm-roberta-base'.
        where: the folder to show a person.
        files: by absolute path.
        revision: that was asked for; '' where it has none or the newest was.
        commit: that this stood for.
        state: how it came to be there.
        mend: what is removed of it when a file of it has changed, so that it is fetched anew: that file, its folder, or
            everything; 'leave' where it is the user's own.
    """

    kind: str
    name: str
    where: str
    files: dict[str, FileFacts]
    revision: str = ""
    commit: str = ""
    state: str = ""
    mend: Mend = "leave"

    @property
    def size(self) -> int:
        return sum(facts.size for facts in self.files.values())

    @property
    def sha256(self) -> str:
        """Of one file its own; of several that of the list of theirs, in the order of the paths."""
        hashes = [facts.sha256 for _, facts in sorted(self.files.items())]
        return (
            hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest() if hashes else ""
        )

    def row(self) -> dict[str, Any]:
        """The entry for a person, or without its files for a program."""
        return {
            "what": f"{self.kind} {self.name}",
            "where": self.where,
            "revision": self.commit or self.revision,
            "files": len(self.files),
            "size": self.size,
            "sha256": self.sha256,
            "state": self.state,
        }


@dataclass(frozen=True)
class Prefetched:
    """The list.

    Attributes:
        request: what it was made for; another request needs another prefetch.
        places: the folders that the environment named, by the variable or key that names them.
    """

    request: Any
    places: dict[str, str]
    entries: list[Entry]


@dataclass
class Hashes:
    """SHA-256 of files, each read once as long as it stays the same."""

    _known: dict[Path, tuple[int, int, str]] = field(default_factory=dict)

    def facts(self, path: Path) -> FileFacts:
        """Size and hash of a file.

        Raises:
            OSError: it cannot be read.
        """
        status = path.stat()
        known = self._known.get(path)
        if known is None or known[:2] != (status.st_size, status.st_mtime_ns):
            known = (status.st_size, status.st_mtime_ns, digest_of(path, hashlib.sha256()))
            self._known[path] = known
        return FileFacts(known[0], known[2])

    def of(self, paths: Iterable[Path]) -> dict[str, FileFacts]:
        """By absolute path."""
        return {str(path.absolute()): self.facts(path) for path in paths}


def digest_of(path: Path, digest: Any) -> str:
    """The hexadecimal digest of a file, read in blocks."""
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return str(digest.hexdigest())


def write_list(folder: Path, found: Prefetched) -> Path:
    """Write the list into the output folder, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    path = folder / LIST
    temporary = path.with_name(f".{LIST}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"version": _VERSION, **asdict(found)}, indent=1), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another output folder") from None
    return path


def read_list(folder: Path) -> Prefetched | None:
    """The list in an output folder; None where there is none that this version can read."""
    try:
        table = json.loads((folder / LIST).read_text(encoding="utf-8"))
        if table["version"] != _VERSION:
            return None
        return Prefetched(table["request"], table["places"], [_entry(entry) for entry in table["entries"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _entry(table: Mapping[str, Any]) -> Entry:
    return Entry(**{**table, "files": {path: FileFacts(**facts) for path, facts in table["files"].items()}})


def check_list(folder: Path, request: Any, places: Mapping[str, str]) -> Iterator[Entry]:
    """Every entry of the list, with what is the matter with it as its state, or 'ok'.

    Raises:
        UserError: there is no list, it is of other options, or this environment looks elsewhere.
    """
    found = read_list(folder)
    if found is None:
        raise UserError(
            f"{folder / LIST}: there is no list of what was fetched; run xlt-scale prefetch, without --check"
        )
    if found.request != json.loads(json.dumps(request)):
        raise UserError(
            f"{folder / LIST} was made for other options of model, data, tasks or phases; run xlt-scale prefetch again"
        )
    for name, place in found.places.items():
        if places.get(name) != place:
            raise UserError(
                f"{name} is {places.get(name)} here and was {place} when it was fetched; set it to that, or run "
                "xlt-scale prefetch with the environment of the jobs"
            )
    hashes = Hashes()
    for entry in found.entries:
        problems = [f"{what}: {path}" for path, what in _changed(entry, hashes)]
        yield Entry(**{**vars(entry), "state": "; ".join(problems) or "ok"})


def remove_changed(folder: Path, hashes: Hashes, say: Callable[[str], None]) -> None:
    """Remove what an earlier prefetch has fetched and is not as it was, so that it is fetched anew."""
    found = read_list(folder)
    for entry in found.entries if found else ():
        for path, what in _changed(entry, hashes):
            if entry.mend == "leave":
                continue
            place = {"file": Path(path), "parent": Path(path).parent, "whole": Path(entry.where)}[entry.mend]
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            elif os.path.lexists(place):
                remove_with_links(place)
            say(f"{what}: {path}; fetched again")


def remove_with_links(path: Path) -> None:
    """Remove a file, and what it links to where it is a link, as the hub's cache has them."""
    while os.path.lexists(path):
        target = path.parent / path.readlink() if path.is_symlink() else None
        path.unlink()
        if target is None:
            return
        path = target


def _changed(entry: Entry, hashes: Hashes) -> Iterator[tuple[str, str]]:
    """Files of an entry that are not what they were, and what is the matter with each."""
    for path, facts in entry.files.items():
        try:
            now = hashes.facts(Path(path))
        except OSError:
            yield path, "missing"
            continue
        if now != facts:
            yield path, "changed"
