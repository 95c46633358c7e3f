"""Tokenised data on disk, found again by their content."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from xlt_scale.data.build_once import build_lock
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.tasks.examples import Examples

logger = logging.getLogger(__name__)

# Raise this when the arrays that tokenisation makes from the same input change.
_TOKENS_VERSION = 2

_noting: list[list[Path]] = []


@contextmanager
def files_noted() -> Iterator[list[Path]]:
    """Within it, the files of the cache that tokenised data were read from or written to, in their order."""
    used: list[Path] = []
    _noting.append(used)
    try:
        yield used
    finally:
        # By identity: two that have noted the same are equal.
        _noting[:] = [each for each in _noting if each is not used]


def kept_or_made(cache: Path, key: str, make: Callable[[], TokenizedData]) -> TokenizedData:
    """What the cache has under `key`, else what `make` gives, which is then kept.

    Safe for many processes of a node at once: the first makes, the others wait for it and read what it wrote. A file
    that is not whole is made again.

    Raises:
        UserError: the cache cannot be written.
    """
    path = cache / "tokens" / f"{key}.safetensors"
    for used in _noting:
        used.append(path)
    data = _load(path)
    if data is None:
        with build_lock(path):
            data = _load(path)
            if data is None:
                data = make()
                _save(data, path)
    return data


def content_key(examples: Examples, tokenizer: Any, settings: dict[str, Any]) -> str:
    """A name for what these examples become with this tokenizer and these settings."""
    digest = hashlib.blake2b(digest_size=20)
    digest.update(repr((_TOKENS_VERSION, type(examples).__name__, sorted(settings.items()))).encode())
    if tokenizer.is_fast:
        # How the last call cut and padded is part of the tokenizer's state, but not of what it does next.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        digest.update(tokenizer.backend_tokenizer.to_str().encode())
    else:
        digest.update(repr(tokenizer).encode())
    for name, column in examples.columns.items():
        # Python's notation says where each text ends, however deep the lists.
        digest.update(repr((name, column)).encode())
    return digest.hexdigest()


def _save(data: TokenizedData, path: Path) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(data.arrays, temporary, metadata={"fingerprint": data.fingerprint})
    os.replace(temporary, path)


def _load(path: Path) -> TokenizedData | None:
    """What was kept before; None when there is nothing, or a file whose content is not what was written."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            fingerprint = (file.metadata() or {}).get("fingerprint")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        main = (arrays.pop("input_ids"), arrays.pop("token_type_ids", None), arrays.pop("offsets"))
        data = TokenizedData.from_arrays(*main, arrays.pop("labels", None), **arrays)
        if data.fingerprint == fingerprint:
            return data
    except (SafetensorError, KeyError):
        pass
    logger.warning("%s is not whole; it is made again", path)
    return None
