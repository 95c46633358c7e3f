"""Models and tokenizers of the hub as files of this machine, compared with the hashes that the hub states.

The hub's cache names every file after the hash that the hub gave with it: SHA-256 where it lies in LFS, git's SHA-1
otherwise. So the comparison needs no network.
"""

import hashlib
import re
from pathlib import Path

from xlt_scale.errors import UserError
from xlt_scale.training.prefetched import Entry, Hashes, digest_of, remove_with_links

_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")


def snapshot_entry(kind: str, name: str, revision: str, folder: Path, hashes: Hashes) -> Entry:
    """What lies in the folder of a model, each file compared with the hub's hash.

    Raises:
        UserError: a file is not what the hub says; it is removed, so that the next start fetches it.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not _is_snapshot(folder):
        return Entry(kind, name, str(folder), hashes.of(paths), revision)
    for path in paths:
        _compare(path, f"{kind} {name}@{folder.name[:12]}", hashes)
    branch = folder.parent.parent / "refs" / (revision or "main")
    files = hashes.of([*paths, branch] if branch.is_file() else paths)
    return Entry(kind, name, str(folder), files, revision, folder.name, mend="file")


def _is_snapshot(folder: Path) -> bool:
    return folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) is not None


def _compare(path: Path, what: str, hashes: Hashes) -> None:
    if not path.is_symlink():
        return
    stated = path.readlink().name
    if _SHA256.fullmatch(stated):
        kind, found = "sha256", hashes.facts(path).sha256
    elif _COMMIT.fullmatch(stated):
        kind, found = "git's sha1", digest_of(path, hashlib.sha1(b"blob %d\0" % path.stat().st_size))
    else:
        return
    if found != stated:
        remove_with_links(path)
        raise UserError(
            f"{path.name} of {what}: {kind} is {found}, the hub says {stated}; the file is removed, run the same "
            "command again to fetch it anew"
        )
