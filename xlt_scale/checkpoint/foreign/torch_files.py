"""Files of `torch.save`, read without running anything that they hold."""

import pickle
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from xlt_scale.errors import UserError, reason

Replacements = Mapping[str, Callable[..., Any]]
"""What stands in for a class that a file names, by the class's full name."""

_NOTHING: Replacements = {}


def enumeration_member(kind: Any, name: str) -> Any:
    """What Python 3.11.0 to 3.11.3 pickle a member of an enumeration as: getattr(kind, name). Of nothing else.

    Raises:
        ValueError: it is no member.
    """
    if isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__:
        return kind.__members__[name]
    raise ValueError(f"{name!r} of {kind!r} is no member of an enumeration")


def load_torch_file(path: Path, replacements: Replacements = _NOTHING) -> Any:
    """A file's content; its tensors are memory-mapped, so that only what is used is read.

    Raises:
        UserError: the file is missing or damaged, or names a class other than tensors, plain types and `replacements`.
    """
    stand_ins = [(stand_in, name) for name, stand_in in replacements.items()]
    try:
        with safe_globals(stand_ins):  # type: ignore[arg-type]
            refused = sorted(get_unsafe_globals_in_checkpoint(str(path)))
            if refused:
                raise UserError(
                    f"{path} holds an object of {refused[0]}, which might run code and is not loaded; "
                    "save it again without"
                )
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except _DAMAGE as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read ({reason(error)}); use another checkpoint") from None


def load_torch_stream(stream: BinaryIO, place: Path) -> Any:
    """A content that lies inside of a file: tensors and plain types only.

    Raises:
        UserError: it is damaged, or names any class.
    """
    try:
        return torch.load(stream, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise UserError(f"{place} cannot be read ({reason(error)}); use another checkpoint") from None


_DAMAGE = (OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError, pickle.UnpicklingError)
