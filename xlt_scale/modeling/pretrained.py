"""The files of a pre-trained model: where they lie, and which they are."""

import hashlib
import logging
from pathlib import Path

from xlt_scale.errors import UserError
from xlt_scale.hub import PREFETCH, hub_cache, is_offline, not_to_be_had

logger = logging.getLogger(__name__)

_SMALL_FILES = ["*.json", "tokenizer*", "sentencepiece*", "*.model"]
_VOCABULARIES = ["vocab.txt", "merges.txt"]
_WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16


def pretrained_folder(name: str, revision: str) -> Path:
    """The local folder of a pre-trained model: itself, or the hub's snapshot (fetched when there is a network).

    Called on every rank; the hub library locks its cache, so the ranks of a node fetch once.

    Raises:
        UserError: neither a folder nor to be had from the hub.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    _announce_download(name, revision)
    try:
        # Repositories often hold the same weights in several formats; the next is fetched only where the first is
        # absent.
        for pattern in _WEIGHT_FILES:
            folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=[*_SMALL_FILES, pattern]))
            if any(folder.glob(pattern)):
                break
    except Exception as error:  # the library raises many kinds for "not there" and "no network"
        raise not_to_be_had(f"model.name = {name!r}", error, hub_cache(), "give a folder") from None
    if not any(file for pattern in _WEIGHT_FILES for file in folder.glob(pattern)):
        mend = PREFETCH if is_offline() else "name a repository that has them"
        raise UserError(f"model.name = {name!r}: no {' or '.join(_WEIGHT_FILES)} in {folder}; {mend}")
    return folder


def _announce_download(name: str, revision: str) -> None:
    from huggingface_hub import snapshot_download

    if is_offline():
        return
    try:
        snapshot_download(name, revision=revision or None, allow_patterns=_WEIGHT_FILES[0], local_files_only=True)
    except Exception:  # the library raises many kinds for "not there"
        logger.info("downloading %s to %s; use xlt-scale prefetch beforehand", name, hub_cache())


def tokenizer_folder(name: str, revision: str = "") -> Path:
    """The local folder of a tokenizer: itself, or the hub's snapshot without weights (fetched when there is a network).

    Raises:
        UserError: neither a folder nor to be had from the hub.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=[*_SMALL_FILES, *_VOCABULARIES]))
    except Exception as error:  # the library raises many kinds for "not there" and "no network"
        raise not_to_be_had(f"model.tokenizer = {name!r}", error, hub_cache(), "give a folder") from None


def content_of_weight_files(folder: Path) -> str:
    """A hash that tells one set of weight files from another: their names, sizes, and samples from all over each.

    Training changes every weight, so samples see it; reading all of the largest models would take minutes at each
    start.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(file for pattern in _WEIGHT_FILES for file in folder.glob(pattern)):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with open(path, "rb") as file:
            for sample in range(_SAMPLES):
                file.seek(sample * max(size - _SAMPLE_BYTES, 0) // max(_SAMPLES - 1, 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
