"""Simulated studies of which the truth is known: to see how often intervals cover it and tests err.

An answer is right where a latent normal variable is positive: difficulty of the item (the same for all arms and sizes),
the arm's own effect on the item (the same for all sizes and runs), intermediate seed, target seed, and noise of one run
on one item. The mean score of a (size, arm, language) is then Phi(mean / standard deviation), so gains can be planted
exactly. Soft items are the chance of a right answer given all but half of the noise: bounded, continuous, same mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from xlt_scale.scaling.results import (
    RUN_COLUMNS,
    ArmFacts,
    SizeFacts,
    StudyFacts,
    StudyResults,
    TargetFacts,
    TaskFacts,
)

BASELINE = "baseline"
XLM_R_SIZES = {"base": 0.28e9, "large": 0.56e9, "xl": 3.5e9, "xxl": 10.7e9}


@dataclass(frozen=True)
class TaskTruth:
    """A scored task that is its own target.

    Attributes:
        kind: binary (right or wrong), soft (values between) or tagging (counts of which F1 is made; there the means
            below are recall and F1 follows only roughly).
        is_parallel: item j is the same in every language; else effects of items are independent between languages.
        is_retrieval: nothing is trained: one record of the baseline and one of the arm per intermediate seed.
        base: expected score of the baseline by size, in points.
        gains: expected gain by size, in points; by arm where arms differ.
        language_offsets: added to the expected scores, by language.
    """

    name: str = "xnli"
    languages: tuple[str, ...] = ("en", "de", "sw")
    num_items: int = 300
    kind: str = "binary"
    is_parallel: bool = True
    is_retrieval: bool = False
    base: tuple[float, ...] = (70.0, 70.0, 70.0)
    gains: tuple[float, ...] | Mapping[str, tuple[float, ...]] = (0.0, 0.0, 0.0)
    language_offsets: tuple[float, ...] = ()

    def gain(self, arm: str) -> np.ndarray:
        """float64 [sizes]"""
        return np.array(self.gains[arm] if isinstance(self.gains, Mapping) else self.gains, float)


@dataclass(frozen=True)
class Truth:
    """What a study is drawn from.

    Attributes:
        sizes: number of parameters by name, smallest first.
        seeds: intermediate seeds, target seeds within each.
        intermediate_sd: of an intermediate seed's effect on scores, in points (near the expected score).
        target_sd: of a target seed's effect on the score of one run, in points; arms and baseline apart.
        seed_correlation: of these effects between languages.
        item_share: share of the latent variance that is the arm's own effect on items.
        noise_share: share that is noise of one run on one item; the rest is the items' difficulty.
        language_correlation: of items' effects between languages of parallel test sets.
        size_factors: what seeds' standard deviations are multiplied with, by size; () = 1.
        collapse_rate: chance that a run guesses: `chance` points.
    """

    sizes: Mapping[str, float] = field(default_factory=lambda: {k: v for k, v in XLM_R_SIZES.items() if k != "base"})
    seeds: tuple[int, int] = (3, 2)
    arms: tuple[str, ...] = ("nli",)
    tasks: tuple[TaskTruth, ...] = (TaskTruth(),)
    intermediate_sd: float = 0.5
    target_sd: float = 0.5
    seed_correlation: float = 0.7
    item_share: float = 0.08
    noise_share: float = 0.22
    language_correlation: float = 0.6
    size_factors: tuple[float, ...] = ()
    collapse_rate: float = 0.0
    chance: float = 33.3

    @property
    def decades(self) -> dict[str, float]:
        """log10(N / N of the smallest size) by size."""
        first = min(self.sizes.values())
        return {name: float(np.log10(number / first)) for name, number in self.sizes.items()}


def straight_gains(truth_sizes: Mapping[str, float], middle: float, slope: float) -> tuple[float, ...]:
    """Gains in points on a line: `middle` at the mean of log10(N), `slope` per tenfold parameters."""
    x = np.log10(list(truth_sizes.values()))
    return tuple(float(value) for value in middle + slope * (x - x.mean()))


def headroom_gains(base: Sequence[float], error_reduction: float) -> tuple[float, ...]:
    """Gains in points that take away the same share of the error at every size: no trend but that of the headroom."""
    return tuple((100.0 - score) * error_reduction for score in base)


@dataclass(frozen=True)
class ArrayItems:
    """Outcomes item by item, in memory (`results.ItemSource`).

    Attributes:
        rows: by task the row of each record.
        arrays: by task and language, float32 [records, items].
    """

    rows: Mapping[str, Mapping[str, int]]
    arrays: Mapping[tuple[str, str], np.ndarray]

    def values(self, records: Sequence[str], task: str, language: str) -> np.ndarray:
        rows = self.rows[task]
        return self.arrays[task, language][[rows[record] for record in records]]


def simulate_study(truth: Truth, rng: np.random.Generator) -> StudyResults:
    """One study, every planned run done."""
    tables, rows, arrays = [], {}, {}
    for task in truth.tasks:
        table, values = _simulate_task(truth, task, rng)
        tables.append(table)
        names = table["record"].iloc[:: len(task.languages)].tolist()
        rows[task.name] = {name: row for row, name in enumerate(names)}
        arrays.update({(task.name, language): values[:, column] for column, language in enumerate(task.languages)})
    runs = pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]
    return StudyResults(
        facts=study_facts(truth),
        runs=runs,
        items=ArrayItems(rows, arrays),
        curves=pd.DataFrame(columns=["record", "size", "arm", "target", "phase", "step", "share", "loss", "dev"]),
        missing=pd.DataFrame(columns=["size", "arm", "target", "intermediate_seed", "target_seed", "why"]),
        record_paths={name: f"records/{name}.json" for own in rows.values() for name in own},
        software=pd.DataFrame({"name": ["simulation"], "value": ["1"], "records": [sum(map(len, rows.values()))]}),
    )


def simulate_studies(truth: Truth, seed: int, count: int) -> Iterator[StudyResults]:
    """Studies of one truth, each of its own stream of random numbers: any of them can be drawn alone."""
    for child in np.random.SeedSequence(seed).spawn(count):
        yield simulate_study(truth, np.random.default_rng(child))


def without_runs(results: StudyResults, share: float, rng: np.random.Generator) -> StudyResults:
    """The study with a share of its records missing."""
    names = results.runs["record"].unique()
    lost = set(rng.choice(names, int(share * len(names)), replace=False))
    return replace(results, runs=results.runs[~results.runs["record"].isin(lost)].reset_index(drop=True))


def study_facts(truth: Truth) -> StudyFacts:
    """What the simulated study says of itself."""
    num_intermediate, num_target = truth.seeds
    pairs = [(one, other) for one in range(num_intermediate) for other in range(num_target)]
    sizes = tuple(
        SizeFacts(name, "xlm-roberta", number > 2e9, int(number), int(0.9 * number))
        for name, number in truth.sizes.items()
    )
    kinds = {"binary": ("classification", "accuracy"), "soft": ("qa", "f1"), "tagging": ("tagging", "f1")}
    tasks, targets = [], []
    for task in truth.tasks:
        kind, metric = kinds[task.kind]
        kind = "retrieval" if task.is_retrieval else kind
        tasks.append(TaskFacts(task.name, kind, metric, metric, task.is_parallel, task.languages[0]))
        trained = "" if task.is_retrieval else task.name
        targets.append(TargetFacts(task.name, task.name, trained, (task.name,), kind, task.languages[:1]))
    arms = (ArmFacts(BASELINE, "no intermediate task"), *(ArmFacts(arm, arm, (arm,), ("en",)) for arm in truth.arms))
    return StudyFacts(
        name="simulated",
        question="How does the gain from intermediate training change with model size?",
        kind="size",
        baseline=BASELINE,
        sizes=sizes,
        arms=arms,
        targets=tuple(targets),
        tasks=tuple(tasks),
        reference_size=next(iter(truth.sizes)),
        seeds=dict.fromkeys(truth.sizes, pairs),
    )


def _simulate_task(truth: Truth, task: TaskTruth, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of runs, language by language within records, and item values float32 [records, languages, items]."""
    num_intermediate, num_target = truth.seeds
    pairs = [(one, other) for one in range(num_intermediate) for other in range(num_target)]
    arm_pairs = [(one, -1) for one in range(num_intermediate)] if task.is_retrieval else pairs
    base_pairs = [(-1, -1)] if task.is_retrieval else pairs
    arms = [(BASELINE, base_pairs), *((arm, arm_pairs) for arm in truth.arms)]
    blocks: list[np.ndarray] = []
    keys: list[tuple[str, str, int, int]] = []
    difficulty = _item_effects(truth, task, rng) * np.float32(np.sqrt(1 - truth.item_share - truth.noise_share))
    own = {arm: _item_effects(truth, task, rng) * np.float32(np.sqrt(truth.item_share)) for arm, _ in arms}
    for row, size in enumerate(truth.sizes):
        for arm, wanted in arms:
            blocks.append(_simulate_arm(truth, task, rng, row, arm, wanted, difficulty + own[arm]))
            keys.extend((size, arm, *pair) for pair in wanted)
    values = np.concatenate(blocks)
    return _run_table(truth, task, keys, values), values


def _item_effects(truth: Truth, task: TaskTruth, rng: np.random.Generator) -> np.ndarray:
    """Standard normal, float32 [languages, items]."""
    shape = (len(task.languages), task.num_items)
    apart = rng.standard_normal(shape, np.float32)
    if not task.is_parallel:
        return apart
    shared = np.float32(truth.language_correlation)
    return np.sqrt(shared) * rng.standard_normal(shape[1:], np.float32) + np.sqrt(1 - shared) * apart


def _simulate_arm(
    truth: Truth,
    task: TaskTruth,
    rng: np.random.Generator,
    size: int,
    arm: str,
    pairs: Sequence[tuple[int, int]],
    item_effects: np.ndarray,
) -> np.ndarray:
    """Item values of one arm at one size, float32 [pairs, languages, items]."""
    offsets = np.array(task.language_offsets or (0.0,) * len(task.languages))
    expected = task.base[size] + offsets + (0.0 if arm == BASELINE else task.gain(arm)[size])
    middle = ndtri(expected / 100.0)
    # Points to latent units: by the slope of Phi where the score is.
    per_point = 0.01 * np.sqrt(2 * np.pi) * np.exp(middle**2 / 2)
    factor = truth.size_factors[size] if truth.size_factors else 1.0
    own_sd = 0.0 if arm == BASELINE else factor * truth.intermediate_sd
    run_sd = 0.0 if task.is_retrieval else factor * truth.target_sd
    spread = np.sqrt(1.0 + (own_sd**2 + run_sd**2) * per_point**2)
    clusters = sorted({intermediate for intermediate, _ in pairs})
    position = [clusters.index(intermediate) for intermediate, _ in pairs]
    of_clusters = own_sd * _seed_effects(truth, len(clusters), len(offsets), rng)[position]
    of_runs = run_sd * _seed_effects(truth, len(pairs), len(offsets), rng)
    latent = (middle * spread + (of_clusters + of_runs) * per_point).astype(np.float32)[:, :, None] + item_effects
    values = _answers(task, latent, np.float32(truth.noise_share), rng)
    if truth.collapse_rate:
        for row in np.flatnonzero(rng.random(len(pairs)) < truth.collapse_rate):
            values[row] = 100.0 * (rng.random(values[row].shape) < truth.chance / 100.0)
    return values


def _seed_effects(truth: Truth, count: int, num_languages: int, rng: np.random.Generator) -> np.ndarray:
    """Standard normal, float64 [count, languages]."""
    shared = truth.seed_correlation
    apart = rng.standard_normal((count, num_languages))
    return np.sqrt(shared) * rng.standard_normal((count, 1)) + np.sqrt(1 - shared) * apart


def _answers(task: TaskTruth, latent: np.ndarray, noise: np.floating, rng: np.random.Generator) -> np.ndarray:
    """Item values in points, of the latent variables without the run's noise."""
    if task.kind == "binary":
        latent = latent + np.sqrt(noise) * rng.standard_normal(latent.shape, np.float32)
        return np.where(latent > 0, np.float32(100), np.float32(0))
    if task.kind == "soft":
        half = noise / 2
        chance = ndtr((latent + np.sqrt(half) * rng.standard_normal(latent.shape, np.float32)) / np.sqrt(half))
        return (100.0 * chance).astype(np.float32)
    recall = ndtr(latent / np.sqrt(noise))
    return f1_item_values(simulate_counts(recall, rng))


def simulate_counts(recall: np.ndarray, rng: np.random.Generator, mean_spans: float = 2.0) -> np.ndarray:
    """Spans of sentences as (right, predicted, gold) [..., 3], of the recall of each sentence [...]."""
    gold = 1 + rng.poisson(mean_spans, recall.shape[1:] if recall.ndim > 2 else recall.shape)
    gold = np.broadcast_to(gold, recall.shape)
    right = rng.binomial(gold, recall)
    predicted = right + rng.binomial(gold, 0.8 * (1.0 - recall))
    return np.stack([right, predicted, gold], axis=-1)


def f1_item_values(counts: np.ndarray) -> np.ndarray:
    """Values whose mean is F1 in points, float32 [..., items], of counts (right, predicted, gold) [..., items, 3].

    The infinitesimal jackknife of a ratio (Efron 1982, chapter 6): F1 + items x (2 c_j - F1 (p_j + g_j)) / sum(p + g).
    """
    right, both = counts[..., 0].astype(float), counts[..., 1:].sum(axis=-1).astype(float)
    total = both.sum(axis=-1, keepdims=True)
    score = 2.0 * right.sum(axis=-1, keepdims=True) / total
    influence = counts.shape[-2] * (2.0 * right - score * both) / total
    return (100.0 * (score + influence)).astype(np.float32)


def _run_table(
    truth: Truth, task: TaskTruth, keys: Sequence[tuple[str, str, int, int]], values: np.ndarray
) -> pd.DataFrame:
    num_languages = len(task.languages)
    scores = values.mean(axis=2, dtype=np.float64)
    looks_collapsed = np.abs(scores.mean(axis=1) - truth.chance) < 2.0
    records = [f"{size}.{arm}.{task.name}.i{one}.t{other}" for size, arm, one, other in keys]
    loss = np.where(looks_collapsed, 1.09, 0.3)
    columns = {
        "record": records,
        "size": [key[0] for key in keys],
        "arm": [key[1] for key in keys],
        "intermediate_seed": [key[2] for key in keys],
        "target_seed": [key[3] for key in keys],
        "first_loss": np.full(len(keys), np.nan if task.is_retrieval else 1.1),
        "last_loss": np.where(task.is_retrieval, np.nan, loss),
    }
    repeated = {name: np.repeat(np.asarray(column), num_languages) for name, column in columns.items()}
    constants = {
        "target": task.name,
        "task": task.name,
        "rule": "last",
        "chance": truth.chance if task.kind == "binary" and not task.is_retrieval else np.nan,
        "same_data": "",
        "gpu_hours": 0.0 if task.is_retrieval else 1.0,
        "arm_gpu_hours": 4.0,
        "tokens": 0 if task.is_retrieval else 10**8,
    }
    table = pd.DataFrame(
        {
            **repeated,
            **constants,
            "language": np.tile(np.asarray(task.languages), len(keys)),
            "is_trained_language": np.tile(np.arange(num_languages) == 0, len(keys)),
            "score": scores.ravel(),
        }
    )
    table["arm_gpu_hours"] = np.where(table["arm"] == BASELINE, 0.0, table["arm_gpu_hours"])
    return table[list(RUN_COLUMNS)]
