"""Outcomes item by item in few bytes, and the item values that statistics resample.

A phase's outcomes are one safetensors file with the arrays `<task>/<language>/<name>`:

- right or wrong: a bit an item (`numpy.packbits`);
- shares between 0 and 1 (token F1 of an answer): sixteen bits in steps of 1/55440, which every fraction with a
  denominator up to 12 is a whole number of; others are off by at most 0.0009 points;
- counts: the smallest unsigned type that holds them;
- other numbers: float32.

Its metadata have, as JSON under "outcomes", the kind and the number of items of each array.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from xlt_scale.errors import UserError
from xlt_scale.scaling.records.atomic import write_atomically

Kind = Literal["bits", "shares", "numbers", "counts"]
STEPS = 55440
"""Of a share. Below 2^16, and a multiple of 1 to 12, 14, 15, 16, 18, 20, 21, 22, 24, ..."""
TOLERANCE = 1e-3
"""Points by which the mean of item values may miss the score."""

_KINDS: dict[str, Kind] = {
    "correct": "bits",
    "exact_match": "bits",
    "has_answer": "bits",
    "f1": "shares",
    "average_precision": "numbers",
    "predicted": "numbers",
    "gold": "numbers",
    "counts": "counts",
    "tokens": "counts",
}
_OF_HEADLINE: dict[str, tuple[tuple[str, ...], ...]] = {
    "accuracy": (("correct",),),
    "f1": (("f1",), ("counts",)),
    "exact_match": (("exact_match",),),
    "map_at_20": (("average_precision",),),
    "token_accuracy": (("tokens",),),
    "pearson": (("predicted", "gold"),),
}


@dataclass(frozen=True)
class Packed:
    """One packed array.

    Attributes:
        data: as it is kept: uint8 [bytes], uint16 [items], float32 [items], or unsigned [items, columns].
    """

    kind: Kind
    num_items: int
    data: np.ndarray


Outcomes = Mapping[str, Packed]
"""Packed arrays of one task in one language, by name."""


def pack(name: str, values: np.ndarray) -> Packed:
    """An array of `Score.items` in few bytes.

    Raises:
        ValueError: values that an array of that name cannot have.
    """
    kind = _KINDS.get(name, "numbers")
    if kind == "bits":
        if values.size and int(values.max()) > 1:
            raise ValueError(f"{name} has values beside 0 and 1")
        return Packed(kind, len(values), np.packbits(values.astype(bool)))
    if kind == "shares":
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"{name} has values outside 0 to 1")
        return Packed(kind, len(values), np.rint(values.astype(np.float64) * STEPS).astype(np.uint16))
    if kind == "counts":
        if values.size and values.min() < 0:
            raise ValueError(f"{name} has counts below 0")
        largest = int(values.max()) if values.size else 0
        smallest_type = next(one for one in (np.uint8, np.uint16, np.uint32) if largest <= np.iinfo(one).max)
        return Packed(kind, len(values), np.ascontiguousarray(values.astype(smallest_type)))
    return Packed(kind, len(values), values.astype(np.float32))


def unpack(packed: Packed) -> np.ndarray:
    """The array: uint8 [items], float32 [items], or unsigned [items, columns]."""
    if packed.kind == "bits":
        return np.unpackbits(packed.data, count=packed.num_items)
    if packed.kind == "shares":
        return (packed.data / STEPS).astype(np.float32)
    return packed.data


def headline_arrays(headline: str, names: Sequence[str]) -> tuple[str, ...]:
    """Names of the arrays that the headline metric is a function of; () where those that are there do not allow it."""
    for choice in _OF_HEADLINE.get(headline, ()):
        if set(choice) <= set(names):
            return choice
    return ()


def item_values(arrays: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Values of items in points, float32 [..., items], whose mean over items is the score.

    What is right or wrong and shares are taken times 100. A score that is no mean is taken with each item's influence
    on it (infinitesimal jackknife; Efron 1982, chapter 6): F1 = 2 sum(c) / sum(p + g) gives
    F1 + (2 c_j - F1 (p_j + g_j)) / mean(p + g), and Pearson's r gives r + x_j y_j - r (x_j^2 + y_j^2) / 2 with
    standardised x and y (Devlin, Gnanadesikan & Kettenring 1975).

    Args:
        arrays: as `unpack` gives them, with further dimensions in front.
        names: theirs, as `headline_arrays` gives them.
    """
    if names == ("counts",):
        return _ratio(2.0 * arrays[0][..., 0], arrays[0][..., 1].astype(np.float64) + arrays[0][..., 2])
    if names == ("tokens",):
        return _ratio(arrays[0][..., 0].astype(np.float64), arrays[0][..., 1].astype(np.float64))
    if names == ("predicted", "gold"):
        return _pearson(*(np.asarray(array, np.float64) for array in arrays))
    return np.float32(100.0) * arrays[0].astype(np.float32)


def packed_outcomes(items: Mapping[str, np.ndarray], headline: str, score: float) -> dict[str, Packed]:
    """The outcomes of a task in a language in few bytes, when they are those of the score.

    Raises:
        ValueError: their values do not average to the score.
    """
    packed = {name: pack(name, values) for name, values in items.items()}
    names = headline_arrays(headline, list(packed))
    if names:
        mean = float(item_values([unpack(packed[name]) for name in names], names).mean(dtype=np.float64))
        if not abs(mean - score) <= TOLERANCE:
            raise ValueError(f"outcomes average to {mean:.4f}, the score is {score:.4f}: they are of another scoring")
    return packed


def write_outcome_file(path: Path, outcomes: Mapping[tuple[str, str], Outcomes]) -> None:
    """Write the outcomes of a phase, by task and language; the same bytes for the same outcomes.

    Raises:
        OSError: the file cannot be written; an old one stays.
    """
    arrays, facts = {}, {}
    for (task, language), packed in outcomes.items():
        for name, one in packed.items():
            place = f"{task}/{language}/{name}"
            arrays[place] = one.data
            facts[place] = {"kind": one.kind, "items": one.num_items}
    # One entry: the order of several is not the same in every process.
    write_atomically(path, save(arrays, metadata={"outcomes": json.dumps(facts, sort_keys=True)}))


def read_outcome_file(path: Path) -> dict[tuple[str, str], dict[str, Packed]]:
    """What `write_outcome_file` wrote, by task and language.

    Raises:
        UserError: the file is missing, cut short, or another program's.
    """
    found: dict[tuple[str, str], dict[str, Packed]] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for place, facts in json.loads((file.metadata() or {})["outcomes"]).items():
                task, language, name = place.split("/")
                packed = Packed(facts["kind"], int(facts["items"]), file.get_tensor(place))
                found.setdefault((task, language), {})[name] = packed
    except FileNotFoundError:
        raise UserError(f"{path} is missing beside its record; {_MEND.format(path.stem)}") from None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged or no outcome file; {_MEND.format(path.stem)}") from None
    return found


_MEND = "remove the record {}.json, and it is made again from the phase's folder"


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """100 sum(numerator) / sum(denominator) with influences."""
    mean = denominator.mean(axis=-1, keepdims=True)
    mean = np.where(mean > 0, mean, 1.0)
    ratio = numerator.mean(axis=-1, keepdims=True) / mean
    return (100.0 * (ratio + (numerator - ratio * denominator) / mean)).astype(np.float32)


def _pearson(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = _standardised(left), _standardised(right)
    r = (left * right).mean(axis=-1, keepdims=True)
    return (100.0 * (r + left * right - r * (left**2 + right**2) / 2)).astype(np.float32)


def _standardised(values: np.ndarray) -> np.ndarray:
    """Zero everywhere where the values are constant: the coefficient is 0 then."""
    shifted = values - values.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((shifted**2).mean(axis=-1, keepdims=True))
    is_constant = np.ptp(values, axis=-1, keepdims=True) == 0
    return np.where(is_constant, 0.0, shifted / np.where(deviation > 0, deviation, 1.0))
