"""The files of a pre-trained model: where they lie, and which they are."""

import hashlib
from pathlib import Path

from xlt_scale.errors import UserError, reason

_SMALL_FILES = ["*.json", "tokenizer*", "sentencepiece*", "*.model"]
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

    try:
        # Repositories often hold the same weights in several formats; the next is fetched only where the first is
        # absent.
        for pattern in _WEIGHT_FILES:
            folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=[*_SMALL_FILES, pattern]))
            if any(folder.glob(pattern)):
                break
    except Exception as error:  # the library raises many kinds for "not there" and "no network"
        raise UserError(
            f"model.name = {name!r} cannot be fetched: {reason(error)}; "
            "give a folder, or fetch it first on a machine with a network"
        ) from None
    return folder


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
