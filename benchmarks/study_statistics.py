"""How often a study's intervals cover the truth and its tests err: simulated studies of which the truth is known.

Each study has four sizes of XLM-R, one arm and a parallel task in five languages; answers are right or wrong, seeds and
items both matter, and seeds matter less at larger sizes. Three truths: no gain at any size; a gain that falls by
`--slope` points per tenfold parameters; a gain that takes the same share of the errors at every size while the baseline
rises, so that it falls in points by headroom alone.

    nice OMP_NUM_THREADS=1 python benchmarks/study_statistics.py --processes 2
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from xlt_scale.scaling.statistics.differences import TaskDifferences, cell_estimates, study_differences
from xlt_scale.scaling.statistics.effects import Effect, Estimate, combine_sizes, summarise
from xlt_scale.scaling.statistics.fits import LineFit, fit_line
from xlt_scale.scaling.statistics.resampling import bootstrap, sign_flip_p
from xlt_scale.scaling.statistics.simulation import (
    XLM_R_SIZES,
    TaskTruth,
    Truth,
    headroom_gains,
    simulate_studies,
    straight_gains,
)

DESIGNS = ((1, 3), (2, 2), (3, 2), (3, 3), (5, 2), (10, 2))
LANGUAGES = ("en", "de", "ru", "sw", "th")
NUM_DRAWS = 400
Tally = dict[str, list[float]]
"""By quantity one number per study."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000, help="per design and truth")
    parser.add_argument("--items", type=int, default=600, help="per language")
    parser.add_argument(
        "--slope", type=float, default=1.5, help="points per tenfold parameters by which the gain falls"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the table's numbers here")
    arguments = parser.parse_args()
    started = time.monotonic()
    truths = campaign_truths(arguments.items, arguments.slope)
    block = 50
    jobs = [
        (name, truth, design, arguments.seed + 1000 * number, block)
        for design in DESIGNS
        for name, truth in truths.items()
        for number in range(-(-arguments.studies // block))
    ]
    tallies: dict[tuple[str, tuple[int, int]], Tally] = {}
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for done, (name, design, tally) in enumerate(pool.imap_unordered(run_block, jobs), 1):
            if done % 20 == 0:
                print(f"{done * block}/{len(jobs) * block} studies", file=sys.stderr, flush=True)
            whole = tallies.setdefault((name, design), {})
            for quantity, values in tally.items():
                whole.setdefault(quantity, []).extend(values)
    rows = {design: table_row(tallies, design, arguments.slope) for design in DESIGNS}
    print(markdown(rows))
    seconds = time.monotonic() - started
    print(f"\n{len(jobs) * block} studies, {arguments.items} items, {len(LANGUAGES)} languages, {seconds:.0f} s.")
    if arguments.json:
        named = {f"{one}x{other}": row for (one, other), row in rows.items()}
        arguments.json.write_text(json.dumps(named, indent=1), encoding="utf-8")


def campaign_truths(num_items: int, slope: float) -> dict[str, Truth]:
    """No gain; a gain that falls; a gain that falls in points by headroom alone."""
    level, rising = (70.0,) * 4, (62.0, 70.0, 76.0, 80.0)

    def truth(base: tuple[float, ...], gains: tuple[float, ...]) -> Truth:
        task = TaskTruth(
            languages=LANGUAGES,
            num_items=num_items,
            base=base,
            gains=gains,
            language_offsets=(6.0, 2.0, 0.0, -4.0, -4.0),
        )
        return Truth(
            sizes=XLM_R_SIZES,
            tasks=(task,),
            intermediate_sd=0.8,
            target_sd=0.6,
            item_share=0.03,
            size_factors=(1.3, 1.0, 0.9, 0.8),
        )

    return {
        "null": truth(level, (0.0,) * 4),
        "falling": truth(level, straight_gains(XLM_R_SIZES, 2.0, -slope)),
        "headroom": truth(rising, headroom_gains(rising, 0.08)),
    }


def run_block(job: tuple[str, Truth, tuple[int, int], int, int]) -> tuple[str, tuple[int, int], Tally]:
    """Studies of one truth and design, one after the other."""
    name, truth, design, seed, count = job
    drawn = Truth(**{**vars(truth), "seeds": design})
    tally: Tally = {}
    for study in simulate_studies(drawn, seed, count):
        differences = {one.size: one for one in study_differences(study)}
        for quantity, value in measure_study(drawn, differences, name == "null").items():
            tally.setdefault(quantity, []).append(value)
    return name, design, tally


def measure_study(truth: Truth, differences: dict[str, TaskDifferences], is_null: bool) -> dict[str, float]:
    """Whether intervals cover, whether tests reject, estimates; what a share is of, averaged over sizes."""
    weights = {language: 1.0 / len(LANGUAGES) for language in LANGUAGES}
    true_gains = dict(zip(truth.sizes, truth.tasks[0].gain("nli"), strict=True))
    sizes = list(truth.sizes)
    effects = {size: differences[size].effect(weights) for size in sizes}
    points = {size: summarise([(1.0, effects[size])]) for size in sizes}
    logs = {size: summarise([(1.0, differences[size].effect(weights, "log error"))]) for size in sizes}
    found: dict[str, float] = {}
    cells = {size: cell_estimates(differences[size]) for size in sizes}
    found["cell"] = float(np.mean([covers(cells[size].estimate("de"), true_gains[size]) for size in sizes]))
    means = {size: combine_sizes([(1.0, points[size])]) for size in sizes}
    found["mean"] = float(np.mean([covers(means[size], true_gains[size]) for size in sizes]))
    naive = np.array([cells[size].item_variance.sum() / len(LANGUAGES) ** 2 for size in sizes])
    joint = np.array([means[size].item_variance for size in sizes])
    found["width_ratio"] = float(np.sqrt(joint.mean() / naive.mean()))
    true_slope = slope_of(truth, list(true_gains.values()), sizes)
    for number in (3, 4):
        kept = sizes[-number:]
        line = fit_line({size: points[size] for size in kept}, truth.decades)
        log_line = fit_line({size: logs[size] for size in kept}, truth.decades)
        found[f"slope{number}"] = float(covers(line.slope, true_slope))
        found[f"estimate{number}"] = line.slope.value
        falls = line.slope.p_value("less") < 0.05
        found[f"falls_in_points{number}"] = float(falls)
        found[f"diminishes{number}"] = float(falls and log_line.slope.p_value("greater") < 0.05)
        if number == 4:
            found["lack_of_fit"] = float(line.lack_of_fit_p < 0.05)
            if is_null:
                found.update(check_by_resampling(line, list(effects.values()), differences[sizes[0]]))
    if is_null:
        found["sign_flip"] = float(np.mean(sign_flip_p([points[size] for size in sizes], NUM_DRAWS) <= 0.05))
    return found


def check_by_resampling(line: LineFit, effects: Sequence[Effect], cell: TaskDifferences) -> dict[str, float]:
    """Coverage of 0 by the joint bootstrap of the slope, and by a plain nested one of the slope and of one cell."""
    draws = bootstrap([list(zip(line.slope_weights.tolist(), line.summaries, strict=True))], NUM_DRAWS)
    (low, high), (low_t, high_t) = draws.percentile()[0], draws.studentised()[0]
    own = cell.items()[cell.languages.index("de")]
    nested_cell = plain_nested_draws([(1.0, cell.pairs, own)], NUM_DRAWS)
    parts = [
        (weight, effect.pairs, effect.items[cell.task])
        for weight, effect in zip(line.slope_weights.tolist(), effects, strict=True)
    ]
    nested_slope = plain_nested_draws(parts, NUM_DRAWS)
    return {
        "percentile": float(low <= 0.0 <= high),
        "studentised": float(low_t <= 0.0 <= high_t),
        "nested_cell": holds_zero(nested_cell),
        "nested_slope": holds_zero(nested_slope),
    }


def plain_nested_draws(
    parts: Sequence[tuple[float, Sequence[tuple[int, int]], np.ndarray]], num_draws: int
) -> np.ndarray:
    """Weighted sums of means of item values [pairs, items]: intermediate seeds, target seeds within them and items
    drawn, without any correction."""
    rng = np.random.default_rng(0)
    num_items = parts[0][2].shape[1]
    drawn_items = rng.integers(0, num_items, (num_draws, num_items)) + num_items * np.arange(num_draws)[:, None]
    item_counts = np.bincount(drawn_items.ravel(), minlength=num_draws * num_items).reshape(num_draws, num_items)
    item_counts = item_counts.astype(np.float32)
    total = np.zeros(num_draws)
    for weight, pairs, items in parts:
        num_clusters = len({one for one, _ in pairs})
        num_targets = len(pairs) // num_clusters
        clusters = rng.integers(0, num_clusters, (num_draws, num_clusters, 1))
        targets = rng.integers(0, num_targets, (num_draws, num_clusters, num_targets))
        rows = (clusters * num_targets + targets).reshape(num_draws, -1)  # pairs are sorted by intermediate seed
        places = rows + len(pairs) * np.arange(num_draws)[:, None]
        counts = np.bincount(places.ravel(), minlength=num_draws * len(pairs)).reshape(num_draws, -1)
        drawn = np.einsum("dk,dk->d", counts.astype(np.float32) @ items, item_counts)
        total += weight * drawn / (len(pairs) * num_items)
    return total


def holds_zero(draws: np.ndarray) -> float:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low <= 0.0 <= high)


def covers(estimate: Estimate, value: float) -> bool:
    low, high = estimate.interval()
    return low <= value <= high


def slope_of(truth: Truth, gains: Sequence[float], sizes: Sequence[str]) -> float:
    x = np.array([truth.decades[size] for size in sizes])
    return float(np.polyfit(x, gains, 1)[0])


def table_row(
    tallies: dict[tuple[str, tuple[int, int]], Tally], design: tuple[int, int], slope: float
) -> dict[str, float]:
    """Means over studies."""
    null, falling, headroom = (tallies[name, design] for name in ("null", "falling", "headroom"))

    def mean(quantity: str, *of: Tally) -> float:
        return float(np.mean(np.concatenate([one[quantity] for one in of])))

    row = {name: mean(name, null, falling) for name in ("cell", "mean", "slope3", "slope4")}
    for number in (3, 4):
        row[f"false{number}"] = mean(f"diminishes{number}", null)
        row[f"false_headroom{number}"] = mean(f"diminishes{number}", headroom)
        row[f"headroom_points{number}"] = mean(f"falls_in_points{number}", headroom)
        row[f"power{number}"] = mean(f"diminishes{number}", falling)
        row[f"bias{number}"] = mean(f"estimate{number}", falling) + slope
    for name in ("lack_of_fit", "percentile", "studentised", "nested_cell", "nested_slope", "sign_flip"):
        row[name] = mean(name, null)
    row["width_ratio"] = mean("width_ratio", null, falling)
    row["studies"] = float(len(null["cell"]))
    return row


def markdown(rows: dict[tuple[int, int], dict[str, float]]) -> str:
    """A table for each question: a column per quantity, a row per design."""

    def percent(value: float) -> str:
        return f"{100 * value:.1f}"

    def number(value: float) -> str:
        return f"{value:+.3f}"

    tables: list[tuple[str, dict[str, tuple[str, Callable[[float], str]]]]] = [
        (
            "Coverage of 95 % intervals, %",
            {
                "cell": ("cell", percent),
                "mean over languages": ("mean", percent),
                "slope, 3 sizes": ("slope3", percent),
                "slope, 4 sizes": ("slope4", percent),
                "joint bootstrap, percentile (slope, 4)": ("percentile", percent),
                "studentised (slope, 4)": ("studentised", percent),
                "plain nested bootstrap (cell)": ("nested_cell", percent),
                "plain nested bootstrap (slope, 4)": ("nested_slope", percent),
            },
        ),
        (
            "Rates of rejection at 5 %, %",
            {
                "false 'diminishes', 3 sizes": ("false3", percent),
                "4 sizes": ("false4", percent),
                "headroom alone, 3 sizes": ("false_headroom3", percent),
                "headroom, 4 sizes": ("false_headroom4", percent),
                "headroom, points alone, 4 sizes": ("headroom_points4", percent),
                "lack of fit": ("lack_of_fit", percent),
                "sign flips": ("sign_flip", percent),
            },
        ),
        (
            "A slope that is there",
            {
                "found, 3 sizes, %": ("power3", percent),
                "found, 4 sizes, %": ("power4", percent),
                "bias, 3 sizes, points": ("bias3", number),
                "bias, 4 sizes, points": ("bias4", number),
                "joint / naive item standard error": ("width_ratio", lambda value: f"{value:.2f}"),
            },
        ),
    ]
    lines = []
    for title, columns in tables:
        lines += [f"\n**{title}**\n", "| seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for (one, other), row in rows.items():
            lines.append(f"| {one} x {other} | " + " | ".join(show(row[key]) for key, show in columns.values()) + " |")
    return "\n".join(lines).strip()


if __name__ == "__main__":
    main()
