"""A checkpoint as a Hugging Face folder, for `AutoModelFor...from_pretrained` to load; never all of it in memory."""

import copy
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from xlt_scale.checkpoint.huggingface_files import check_weights, elements_per_piece, write_weights
from xlt_scale.checkpoint.huggingface_plan import class_name, describe_head, plan_export
from xlt_scale.checkpoint.manifest import MANIFEST
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.store import check_files
from xlt_scale.checkpoint.tensor_file import flush_to_disk
from xlt_scale.errors import UserError, nearest, reason
from xlt_scale.modeling.heads import HeadSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NO_HEAD = "none"

_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model")
_LEVELS_ABOVE = 4
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is exported; all as a user writes it.

    Attributes:
        head: the head that the folder's model has; 'none' for the bare encoder, '' for the only one.
        dtype: of the weights in the files: float32, bfloat16 or float16.
        max_shard_size: bytes of weights in a file, like '5GB'; a larger tensor has a file of its own.
        max_memory: bytes that the process may take, like '2GB'.
    """

    head: str = ""
    dtype: str = "float32"
    max_shard_size: str = "5GB"
    max_memory: str = "2GB"


def export_checkpoint(
    source: Path, destination: Path, options: ExportOptions | None = None, say: Callable[[str], None] = print
) -> None:
    """Write a checkpoint's encoder, with one of its heads or none, as a Hugging Face folder.

    The files are written beside `destination`, looked at again, flushed to the disk and renamed: the folder is whole or
    not there.

    Args:
        source: a phase's folder, or a checkpoint's.
        destination: the folder to make; must not exist yet.
        say: called with lines for the user.

    Raises:
        UserError: no such checkpoint or a damaged one, a head that Hugging Face's classes cannot express, an option
            that cannot be, or a folder that cannot be written.
    """
    options = options or ExportOptions()
    if options.dtype not in DTYPES:
        raise UserError(f"--dtype {options.dtype} is unknown; {nearest(options.dtype, DTYPES)}")
    max_shard_bytes = parse_bytes(options.max_shard_size, "--max-shard-size")
    max_memory = parse_bytes(options.max_memory, "--max-memory")
    if destination.exists() or destination.is_symlink():
        raise UserError(f"{destination} exists already; remove it or name another folder")

    with closing(CheckpointReader(find_weights(source))) as reader:
        check_files(reader.folder, reader.manifest)
        config = _read_config(reader)
        head = _choose_head(reader, options.head)
        export = plan_export(reader, config, head, DTYPES[options.dtype])
        tokenizer = find_tokenizer(reader)
        elements = elements_per_piece(max_memory)
        _check_space(destination, export.num_bytes)
        with _new_folder(destination) as folder:
            shards = write_weights(folder, export, reader, max_shard_bytes, elements)
            check_weights(folder, shards, export, reader)
            _write_config(folder, config, head, _labels(reader, head), options.dtype)
            for path in tokenizer_files(tokenizer) if tokenizer else ():
                shutil.copyfile(path, folder / path.name)
    if tokenizer is None:
        say(f"{destination}: without a tokenizer, none was found beside the checkpoint; copy its files there")
    say(
        f"{destination}: {class_name(config, head)}, {export.num_elements:,} parameters, {options.dtype}, "
        f"{len(shards)} file{'s' if len(shards) > 1 else ''}"
    )


def parse_bytes(text: str, option: str) -> int:
    """A number of bytes as people write it: '2GB' is 2 * 10^9, '2GiB' 2 * 2^30.

    Raises:
        UserError: it is none, or zero.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None or match[2] not in _UNITS or (count := int(float(match[1]) * _UNITS[match[2]])) < 1:
        raise UserError(f"{option} {text} is not a number of bytes; write it like 500MB or 5GB")
    return count


def find_weights(source: Path) -> Path:
    """The checkpoint's folder that a user means: it, or the result of the phase in that folder.

    Raises:
        UserError: the folder is neither.
    """
    phase_file = source / "phase.json"
    if phase_file.is_file():
        try:
            named = json.loads(phase_file.read_text(encoding="utf-8"))["checkpoint"]
            if named is None:
                raise UserError(f"{source}: the weights were removed once the phase was scored (weights = 'drop')")
            return source / named
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{phase_file} names no checkpoint; give the checkpoint's folder") from None
    if (source / MANIFEST).is_file():
        return source
    phases = sorted(str(path.parent) for path in source.glob("phases/*/phase.json"))
    mend = f"give one of {', '.join(phases)}" if phases else "give runs/NAME/phases/PHASE or a checkpoint's folder"
    raise UserError(f"{source} is neither a finished phase nor a checkpoint; {mend}")


def find_tokenizer(reader: CheckpointReader) -> Path | None:
    """The folder of the tokenizer that a checkpoint was trained with: a run keeps it above its checkpoints."""
    folders = [reader.folder, *reader.folder.resolve().parents[:_LEVELS_ABOVE]]
    named = reader.manifest.facts.get("tokenizer")
    candidates = [folder / "tokenizer" for folder in folders] + ([Path(named)] if named else [])
    return next((folder for folder in candidates if folder.is_dir() and tokenizer_files(folder)), None)


def tokenizer_files(folder: Path) -> list[Path]:
    """A tokenizer's files in a folder that may hold a whole model."""
    found = {path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()}
    return sorted(found)


def _read_config(reader: CheckpointReader) -> PretrainedConfig:
    fields = dict(reader.manifest.facts.get("model") or {})
    try:
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    except Exception as error:  # whatever a foreign configuration does not accept
        raise UserError(
            f"{reader.folder / MANIFEST}: facts.model is no configuration of a model ({reason(error)}); "
            "use another checkpoint"
        ) from None


def _heads(reader: CheckpointReader) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in reader.manifest.facts.get("heads", [])}


def _choose_head(reader: CheckpointReader, wanted: str) -> HeadSpec | None:
    heads = _heads(reader)
    if wanted == NO_HEAD or not (wanted or heads):
        return None
    if not wanted and len(heads) > 1:
        raise UserError(
            f"{reader.folder} has the heads {', '.join(heads)}; choose one with --head, or --head {NO_HEAD}"
        )
    name = wanted or next(iter(heads))
    if name not in heads:
        raise UserError(f"--head {name}: {reader.folder} has no such head; {nearest(name, [*heads, NO_HEAD])}")
    entry = heads[name]
    return HeadSpec(name, entry["kind"], entry.get("num_labels", 0), entry.get("pooling", "first"))


def _labels(reader: CheckpointReader, head: HeadSpec | None) -> list[str]:
    """What the classes are called; numbers where the checkpoint does not say."""
    labels = list(_heads(reader)[head.name].get("labels") or []) if head else []
    return labels if head and len(labels) == head.num_labels else []


def _write_config(folder: Path, config: PretrainedConfig, head: HeadSpec | None, labels: list[str], dtype: str) -> None:
    config = copy.deepcopy(config)
    describe_head(config, head, labels)
    config.architectures = [class_name(config, head)]
    config.dtype = dtype
    config.save_pretrained(folder)


@contextmanager
def _new_folder(destination: Path) -> Iterator[Path]:
    """A folder beside `destination` to write into; it takes that name when everything in it is on the disk, and is
    removed after an error.
    """
    temporary = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.unfinished")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.iterdir():
            flush_to_disk(path)
        flush_to_disk(temporary)
        os.rename(temporary, destination)
        flush_to_disk(destination.absolute().parent)
    except OSError as error:
        raise UserError(
            f"{destination} cannot be written ({error.strerror or error}); free space or name another folder"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_space(destination: Path, num_bytes: int) -> None:
    folder = next(path for path in destination.absolute().parents if path.exists())
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise UserError(
            f"{destination} needs {num_bytes:,} bytes, {free:,} are free; free space or name another folder"
        )
