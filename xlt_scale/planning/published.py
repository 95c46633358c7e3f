"""Numbers of examples as published, and typical lengths: for data that are not on this machine."""

from statistics import NormalDist

from xlt_scale.planning.workload import Lengths
from xlt_scale.tasks.spec import TaskKind, TaskSpec

# docs/tasks.md, whose counts are the publishers'.
TRAINING_EXAMPLES = {
    "anli": 162_865,
    "mnli": 392_702,
    "snli": 549_367,
    "anli-plus": 1_104_934,
    "qqp": 363_846,
    "paws": 49_401,
    "squad": 87_599,
    "squad-v2": 130_319,
    "squad-retrieval": 87_599,
    "hellaswag": 39_905,
    "cosmosqa": 25_262,
    "commonsenseqa": 9_741,
    "siqa": 33_410,
    "copa": 400,
    "ccg": 38_015,
    "imdb": 25_000,
    "pawsx": 49_401,
    "udpos": 21_253,
    "panx": 20_000,
    "tydiqa": 3_696,
}
# Of a language, the mean where they differ. BUCC: both sides of the 2018 training sets (Zweigenbaum et al. 2018), which
# XTREME scores, rounded. Mewsli-X: its candidates by language.
SCORED_ITEMS = {
    "xnli": 5_010,
    "americasnli": 750,
    "pawsx": 2_000,
    "xcopa": 500,
    "panx": 6_300,
    "xquad": 1_190,
    "mlqa": 6_000,
    "tydiqa": 560,
    "bucc2018": 660_000,
    "tatoeba": 2_000,
    "lareqa": 2_400,
    "mewslix": 92_000,
}
_UNKNOWN_TRAINING_EXAMPLES = 100_000
_UNKNOWN_SCORED_ITEMS = 2_000
_UNKNOWN_LANGUAGES = 8

# Median tokens of a sequence, spread of its logarithm, sequences of an example. Of inference pairs the measured runs'
# own; the others are assumed.
_TYPICAL: dict[TaskKind, tuple[float, float, int]] = {
    "masked_language_modeling": (128, 0.0, 1),
    "classification": (40, 0.5, 1),
    "regression": (40, 0.5, 1),
    "multiple_choice": (55, 0.4, 4),
    "span": (200, 0.35, 1),
    "tagging": (26, 0.55, 1),
    "dual_encoding": (80, 0.4, 2),
    "retrieval": (22, 0.5, 1),
    "bitext_mining": (22, 0.5, 1),
}
_INFERENCE = (38, 0.5, 1)
_MICRO = (13, 0.3, 1)
_NUM_QUANTILES = 1000
_BATCH_THAT_IS_PADDED = 32


def training_examples(spec: TaskSpec) -> tuple[int, str]:
    """Published training examples of a language, and how they are called in a note."""
    count = TRAINING_EXAMPLES.get(spec.name)
    if count is None:
        return _UNKNOWN_TRAINING_EXAMPLES, f"counted as {_UNKNOWN_TRAINING_EXAMPLES:,} examples"
    count = int(count * spec.split_shares.get("train", 1.0))
    return count, f"counted as the published {count:,} examples"


def scored_items(spec: TaskSpec, num_languages: int = 0) -> int:
    """Items that a task is scored on, over all languages.

    Args:
        num_languages: 0 = all of the task.
    """
    languages = num_languages or len(spec.languages) or _UNKNOWN_LANGUAGES
    return SCORED_ITEMS.get(spec.name, _UNKNOWN_SCORED_ITEMS) * languages


def typical_lengths(spec: TaskSpec, max_length: int) -> Lengths:
    """Lengths of a task's examples where its kind is all that is known: log-normal, cut at `max_length`."""
    median: float
    if spec.generator == "micro":
        median, spread, num_sequences = _MICRO
    elif spec.type == "natural language inference":
        median, spread, num_sequences = _INFERENCE
    elif spec.kind == "masked_language_modeling" and spec.join_lines:
        median, spread, num_sequences = max_length, 0.0, 1
    else:
        median, spread, num_sequences = _TYPICAL[spec.kind]
    normal = NormalDist(0.0, 1.0)
    steps = [(number + 0.5) / _NUM_QUANTILES for number in range(_NUM_QUANTILES)]
    tokens = [min(median * 2.718281828 ** (spread * normal.inv_cdf(step)), max_length) for step in steps]
    mean = sum(tokens) / _NUM_QUANTILES
    # The longest of a batch: its quantile is near 1 - 1 / (batch + 1).
    longest_of_batch = tokens[int(_NUM_QUANTILES * (1 - 1 / (_BATCH_THAT_IS_PADDED + 1)))]
    return Lengths(
        mean=num_sequences * mean,
        mean_square=num_sequences * sum(length * length for length in tokens) / _NUM_QUANTILES,
        # Of thousands some reach it.
        longest=num_sequences * max_length if spread else num_sequences * round(tokens[-1]),
        padding=longest_of_batch / mean,
    )
