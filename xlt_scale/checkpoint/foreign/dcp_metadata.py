"""The `.metadata` file of `torch.distributed.checkpoint`: a pickle, read without running anything that it holds."""

import io
import pathlib
import pickle
from collections import OrderedDict
from dataclasses import is_dataclass
from pathlib import Path
from types import new_class
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo

from xlt_scale.checkpoint.foreign.torch_files import enumeration_member
from xlt_scale.errors import UserError, reason

METADATA = ".metadata"

_ALLOWED: dict[tuple[str, str], Any] = {
    (found.__module__, found.__name__): found
    for found in (
        dcp.Metadata,
        dcp.TensorStorageMetadata,
        dcp.BytesStorageMetadata,
        dcp.ChunkStorageMetadata,
        dcp.TensorProperties,
        dcp.MetadataIndex,
        dcp.StorageMeta,
        dcp._MEM_FORMAT_ENCODING,
        _StorageInfo,
        torch.serialization._get_layout,
        OrderedDict,
        set,
        frozenset,
    )
}
_ALLOWED["torch", "Size"] = torch.Size
_ALLOWED["builtins", "getattr"] = enumeration_member
# The folder that was saved to, of whatever system: kept as a pure path, which touches no file.
for _module in ("pathlib", "pathlib._local"):
    for _name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"):
        _ALLOWED[_module, _name] = pathlib.PurePosixPath


class _MetadataUnpickler(pickle.Unpickler):
    """Knows the classes that DCP's metadata is made of, and no others."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._copies: dict[Any, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            found: Any = _ALLOWED[module, name]
            if not is_dataclass(found) and found is not pathlib.PurePosixPath:
                return found
            # A pickle can set attributes of a class: it gets one that nothing else uses.
            if found not in self._copies:
                self._copies[found] = new_class(name, (found,))
            return self._copies[found]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise _Refused(f"{module}.{name}")


class _Refused(Exception):
    """A pickle names a class that has no place in it."""


def read_metadata(folder: Path) -> dcp.Metadata:
    """What tensors a DCP folder holds and where each of their chunks lies.

    Raises:
        UserError: it is missing or damaged, or names a class that is none of DCP's metadata.
    """
    path = folder / METADATA
    try:
        found = _MetadataUnpickler(path.read_bytes()).load()
    except _Refused as error:
        raise UserError(
            f"{path} names {error}, which is no part of DCP's metadata and might run code; it is not loaded: "
            "use another checkpoint"
        ) from None
    except Exception as error:  # a damaged pickle fails in as many ways as there are instructions
        raise UserError(f"{path} cannot be read ({reason(error)}); use another checkpoint") from None
    if not isinstance(found, dcp.Metadata) or not isinstance(found.storage_data, dict):
        raise UserError(f"{path} is no metadata of torch.distributed.checkpoint; use another checkpoint")
    return found
