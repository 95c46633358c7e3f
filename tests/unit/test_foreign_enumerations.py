"""Python 3.11.0 to 3.11.3 pickle members of enumerations by `getattr`: that is read, and `getattr` of nothing else."""

import io
import pickle
from collections import OrderedDict
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.config import ZeroStageEnum
from torch.distributed import checkpoint as dcp

from xlt_scale.checkpoint.foreign.dcp_metadata import read_metadata
from xlt_scale.checkpoint.foreign.deepspeed_files import load_deepspeed_file
from xlt_scale.errors import UserError


class Attribute:
    """Is pickled as `getattr` of something."""

    def __init__(self, owner: Any, name: str) -> None:
        self._reduced = getattr, (owner, name)

    def __reduce__(self) -> Any:
        return self._reduced


class OldPickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        return (getattr, (type(value), value.name)) if isinstance(value, Enum) else NotImplemented


def test_metadata_of_an_older_python_are_read(tmp_path: Path) -> None:
    dcp.save({"weight": torch.ones(2, 3)}, checkpoint_id=tmp_path)
    written = io.BytesIO()
    OldPickler(written).dump(pickle.loads((tmp_path / ".metadata").read_bytes()))
    assert b"getattr" in written.getvalue()
    (tmp_path / ".metadata").write_bytes(written.getvalue())
    assert read_metadata(tmp_path).state_dict_metadata["weight"].size == torch.Size([2, 3])


def test_metadata_get_no_other_attribute(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Attribute(OrderedDict, "fromkeys")))
    with pytest.raises(UserError, match="is no member of an enumeration"):
        read_metadata(tmp_path)


def test_deepspeed_files_of_an_older_python_are_read(tmp_path: Path) -> None:
    torch.save({"zero_stage": Attribute(ZeroStageEnum, "weights")}, tmp_path / "states.pt")
    assert load_deepspeed_file(tmp_path / "states.pt") == {"zero_stage": 3}


def test_deepspeed_files_get_no_other_attribute(tmp_path: Path) -> None:
    torch.save({"zero_stage": Attribute(OrderedDict, "fromkeys")}, tmp_path / "states.pt")
    with pytest.raises(UserError, match="is no member of an enumeration"):
        load_deepspeed_file(tmp_path / "states.pt")
