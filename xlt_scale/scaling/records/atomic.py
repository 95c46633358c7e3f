"""Files that a reader sees whole or not at all, whoever else writes them."""

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a name of its own and put it in place: several writers do each other no harm.

    Raises:
        OSError: it cannot be written; an old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        # The system names no file when a write fails.
        raise OSError(error.errno, error.strerror, str(path)) from None
