"""Whether two checkpoints hold the same state: by the checksums in their manifests, whatever wrote them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xlt_scale.checkpoint.checksum import PIECE
from xlt_scale.checkpoint.manifest import Manifest
from xlt_scale.checkpoint.reader import CheckpointReader

_OF_THE_STATE = ("step", "num_steps", "optimizer", "position")
"""Facts that training goes on from, beside the tensors. All others tell where a state comes from."""

Change = tuple[Any, Any]
"""What a fact is in the first and in the second checkpoint; None where it is missing."""


@dataclass(frozen=True)
class Comparison:
    """How two checkpoints differ.

    Attributes:
        num_equal: tensors with the same shape and, bit by bit, the same content.
        differing: keys of tensors with the same shape and other content.
        reshaped: keys of tensors with other shapes: the two shapes.
        only_first, only_second: keys of tensors that one of them lacks.
        state_facts: differing facts of the state, nested ones by dotted names: step, optimiser, position in the data.
        other_facts: all other differing facts, such as engine and world size.
    """

    num_equal: int
    differing: tuple[str, ...]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    state_facts: dict[str, Change]
    other_facts: dict[str, Change]

    @property
    def is_equal(self) -> bool:
        """Whether the states are equal; who saved them, where and when does not count."""
        tensors_differ = self.differing or self.reshaped or self.only_first or self.only_second
        return not (tensors_differ or self.state_facts)


def compare(first: Manifest, second: Manifest, weights_only: bool = False) -> Comparison:
    """Compare two checkpoints by their manifests; no data is read.

    Args:
        weights_only: leave the optimiser's tensors, and all facts of the state, out.
    """
    ours, theirs = (
        {key: tensor for key, tensor in manifest.tensors.items() if key.startswith("param/") or not weights_only}
        for manifest in (first, second)
    )
    shared = [key for key in ours if key in theirs]
    same_shape = [key for key in shared if ours[key].shape == theirs[key].shape]
    differing = tuple(key for key in same_shape if ours[key].crc32 != theirs[key].crc32)
    changes = changed_facts(first.facts, second.facts)
    of_the_state = {name: change for name, change in changes.items() if name.split(".")[0] in _OF_THE_STATE}
    return Comparison(
        num_equal=len(same_shape) - len(differing),
        differing=differing,
        reshaped={key: (ours[key].shape, theirs[key].shape) for key in shared if key not in same_shape},
        only_first=tuple(key for key in ours if key not in theirs),
        only_second=tuple(key for key in theirs if key not in ours),
        state_facts={} if weights_only else of_the_state,
        other_facts={name: change for name, change in changes.items() if weights_only or name not in of_the_state},
    )


def changed_facts(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Change]:
    """Facts that differ, nested ones by dotted names: 'optimizer.groups.decay.lr'."""
    before, after = _flat(first), _flat(second)
    names = list(before) + [name for name in after if name not in before]
    # A list is what JSON makes of a tuple; a fact that is null is as good as missing.
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def largest_difference(first: CheckpointReader, second: CheckpointReader, key: str) -> float:
    """The largest absolute difference of two tensors of the same shape, read piece by piece; NaN where one has a NaN.

    Raises:
        UserError: a file cannot be read.
    """
    numel, largest = first.manifest.tensors[key].numel, 0.0
    for low in range(0, numel, PIECE):
        high = min(low + PIECE, numel)
        difference = first.read(key, low, high).sub_(second.read(key, low, high)).abs_().max().item()
        if math.isnan(difference):
            return difference
        largest = max(largest, difference)
    return largest


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return flat
