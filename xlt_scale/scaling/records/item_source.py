"""Item values of a study's records, from the outcomes in its index."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from xlt_scale.scaling.records.outcome_store import Kind, Packed, item_values, unpack
from xlt_scale.scaling.records.record_index import Place, RecordIndex

CACHE_BYTES = 512 << 20
"""Packed outcomes that are kept in memory."""


class IndexedItems:
    """Item values by record, task and language; what was read last is kept, packed, up to a limit (`ItemSource`)."""

    def __init__(self, index: RecordIndex, cache_bytes: int = CACHE_BYTES) -> None:
        self._index, self._limit = index, cache_bytes
        self._blocks: OrderedDict[Place, _Block] = OrderedDict()

    def values(self, records: Sequence[str], task: str, language: str) -> np.ndarray:
        """float32 [records, items], in points: the mean over items is the record's score.

        Raises:
            KeyError: a record has no outcomes of that task and language, or of other items than the first.
        """
        return self._block((task, language)).values(records)

    def _block(self, place: Place) -> "_Block":
        found = self._blocks.pop(place, None)
        if found is None:
            found = _Block.of(self._index.outcomes(place))
        self._blocks[place] = found
        while len(self._blocks) > 1 and sum(block.num_bytes for block in self._blocks.values()) > self._limit:
            self._blocks.popitem(last=False)
        return found


@dataclass(frozen=True)
class _Format:
    """How outcomes are packed: rows of one format can be unpacked together."""

    arrays: tuple[str, ...]
    kind: Kind
    dtype: str
    num_items: int


@dataclass(frozen=True)
class _Block:
    """Packed outcomes of one task in one language.

    Attributes:
        rows: by record its format, and its row in that format's bytes.
        packed: by format uint8 [records, bytes].
    """

    rows: dict[str, tuple[_Format, int]]
    packed: dict[_Format, np.ndarray]

    @staticmethod
    def of(table: pa.Table) -> "_Block":
        columns = [table[name].to_pylist() for name in ("record", "arrays", "kind", "dtype", "num_items", "data")]
        of_format: dict[_Format, list[bytes]] = {}
        rows = {}
        for record, arrays, kind, dtype, num_items, data in zip(*columns, strict=True):
            key = _Format(tuple(arrays.split(",")), kind, dtype, num_items)
            own = of_format.setdefault(key, [])
            rows[record] = (key, len(own))
            own.append(data)
        packed = {
            key: np.frombuffer(b"".join(data), np.uint8).reshape(len(data), -1) for key, data in of_format.items()
        }
        return _Block(rows, packed)

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.packed.values())

    def values(self, records: Sequence[str]) -> np.ndarray:
        found = [self.rows[record] for record in records]
        formats = list(dict.fromkeys(key for key, _ in found))
        if len({key.num_items for key in formats}) > 1:
            raise KeyError("the records have outcomes of different items")
        if len(formats) == 1:
            return _unpack(formats[0], self.packed[formats[0]][[row for _, row in found]])
        values = np.empty((len(found), formats[0].num_items), np.float32)
        for key in formats:
            places = [number for number, (other, _) in enumerate(found) if other == key]
            values[places] = _unpack(key, self.packed[key][[found[number][1] for number in places]])
        return values


def _unpack(key: _Format, packed: np.ndarray) -> np.ndarray:
    """Item values of packed rows, uint8 [records, bytes] -> float32 [records, items]."""
    return item_values(_PARTS[key.kind](key, packed), key.arrays)


def _bits(key: _Format, packed: np.ndarray) -> list[np.ndarray]:
    return [np.unpackbits(packed, axis=1, count=key.num_items)]


def _numbers(key: _Format, packed: np.ndarray) -> list[np.ndarray]:
    values = packed.view(np.dtype(key.dtype)).reshape(len(packed), len(key.arrays), key.num_items)
    return [unpack(Packed(key.kind, key.num_items, values[:, number])) for number in range(len(key.arrays))]


def _counts(key: _Format, packed: np.ndarray) -> list[np.ndarray]:
    return [packed.view(np.dtype(key.dtype)).reshape(len(packed), key.num_items, -1)]


_PARTS: dict[Kind, Callable[[_Format, np.ndarray], list[np.ndarray]]] = {
    "bits": _bits,
    "shares": _numbers,
    "numbers": _numbers,
    "counts": _counts,
}
