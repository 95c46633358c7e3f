"""What was right, item by item: kept beside the predictions for paired tests."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def write_outcomes(path: Path, items: Mapping[str, np.ndarray], scorer: str) -> None:
    """Write the outcomes of one task in one language: arrays of `Score.items`, by name.

    Args:
        scorer: version of the scorer that made them.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(values) for name, values in items.items()}
    save_file(arrays, path, metadata={"scorer": scorer})


def read_outcomes(path: Path) -> dict[str, np.ndarray]:
    """The arrays that `write_outcomes` wrote."""
    return load_file(path)
