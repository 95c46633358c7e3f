"""Random numbers as a pure function of a key and a counter, so that no rank has to know what another one drew."""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def key_of(*parts: object) -> int:
    """A 64-bit key from any printable parts; the same on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def random_bits(key: int, counters: np.ndarray) -> np.ndarray:
    """64 random bits for each counter (uint64 in, uint64 out): the finaliser of SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        state = (counters.astype(np.uint64) + np.uint64(key)) * _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * _MIX_1
        state = (state ^ (state >> np.uint64(27))) * _MIX_2
        return state ^ (state >> np.uint64(31))


def uniform(key: int, counters: np.ndarray) -> np.ndarray:
    """A float64 in [0, 1) for each counter."""
    return (random_bits(key, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(*parts: object) -> np.random.Generator:
    """A NumPy generator that starts from a key of these parts."""
    return np.random.Generator(np.random.Philox(key=key_of(*parts)))
