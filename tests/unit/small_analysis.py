"""Made-up analyses with every column that a report reads, from one run to twenty thousand records."""

import atexit
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xlt_scale.scaling.report import write_report
from xlt_scale.scaling.results import (
    CELL_COLUMNS,
    GROUP_COLUMNS,
    PREDICTION_COLUMNS,
    RUN_COLUMNS,
    SLOPE_COLUMNS,
    Analysis,
    Answer,
    ArmFacts,
    SizeFacts,
    StudyFacts,
    StudyResults,
    TargetFacts,
    TaskFacts,
)
from xlt_scale.tasks.languages import describe

SIZES = {
    "xlmr-base": (277_453_056, False),
    "xlmr-large": (558_840_832, False),
    "xlmr-xl": (3_475_000_000, True),
    "xlmr-xxl": (10_700_000_000, True),
}
ARMS = ("mnli", "squad", "qqp", "hellaswag", "cosmosqa", "siqa", "ccg", "imdb", "anli-plus", "commonsenseqa")
TARGETS = {
    "xnli": "classification",
    "pawsx": "classification",
    "xcopa": "classification",
    "udpos": "structured prediction",
    "panx": "structured prediction",
    "xquad": "question answering",
    "mlqa": "question answering",
    "tydiqa": "question answering",
    "tatoeba": "retrieval",
    "lareqa": "retrieval",
}
# fmt: off
LANGUAGES = (
    "en", "de", "sw", "yo", "fi", "ar", "zh", "ru", "bn", "th", "hi", "es", "fr", "el",
    "bg", "tr", "vi", "ur", "ja", "ko", "nl", "pt", "af", "it", "fa", "he", "hu", "id",
    "et", "eu", "ta", "te", "mr", "ka", "kk", "ml", "jv", "qu", "wo", "ht",
)
# fmt: on
COLUMNS = {
    "curves": ["record", "size", "arm", "target", "phase", "step", "share", "loss", "dev"],
    "missing": ["size", "arm", "target", "intermediate_seed", "target_seed", "why"],
    "software": ["name", "value", "records"],
    "power": ["quantity", "group", "value", "unit", "note"],
    "collapse": ["size", "arm", "target", "num_runs", "num_collapsed", "rate", "reasons", "records"],
    "costs": ["size", "arm", "gpu_hours", "gain", "low", "high", "points_per_gpu_hour", "unit"],
}


@dataclass(frozen=True)
class Plan:
    """What is made up.

    Attributes:
        seeds: intermediate seeds and target seeds within each.
        curve_steps: points of each learning curve; 0 = no curves.
        same_data: pairs of arm and target that share data.
        missing_cells: pairs of arm and target without records.
    """

    sizes: Sequence[str] = ("xlmr-base", "xlmr-large", "xlmr-xl", "xlmr-xxl")
    arms: Sequence[str] = ("mnli", "squad")
    targets: Sequence[str] = ("xnli", "udpos", "tydiqa", "tatoeba")
    languages: Sequence[str] = LANGUAGES[:8]
    seeds: tuple[int, int] = (3, 2)
    curve_steps: int = 20
    same_data: Sequence[tuple[str, str]] = (("squad", "tydiqa"),)
    missing_cells: Sequence[tuple[str, str]] = (("squad", "tatoeba"),)
    question: str = "Does the gain from intermediate training shrink as the encoder grows?"
    labels: Mapping[str, str] = field(default_factory=dict)


TINY = Plan(sizes=("xlmr-large",), arms=("mnli",), targets=("xnli",), languages=("en", "sw"), seeds=(1, 1))
LARGE = Plan(arms=ARMS, targets=tuple(TARGETS), languages=LANGUAGES, seeds=(9, 5), same_data=(("squad", "mlqa"),))


class NoItems:
    """A study without outcomes item by item."""

    def values(self, records: Sequence[str], task: str, language: str) -> np.ndarray:
        raise KeyError(f"{task} {language}")


def facts_of(plan: Plan) -> StudyFacts:
    sizes = tuple(
        SizeFacts(name, "xlm-roberta", SIZES[name][1], SIZES[name][0], SIZES[name][0] * 3 // 4) for name in plan.sizes
    )
    arms = [ArmFacts("none", "no intermediate task")]
    arms += [ArmFacts(arm, plan.labels.get(arm, arm), (arm,), ("en",), "english") for arm in plan.arms]
    targets = [
        TargetFacts(name, plan.labels.get(name, name), name, (name,), TARGETS.get(name, "classification"), ("en",))
        for name in plan.targets
    ]
    tasks = [TaskFacts(name, "pair", "accuracy", "accuracy-1", True, "en") for name in plan.targets]
    pairs = [(i, j) for i in range(plan.seeds[0]) for j in range(plan.seeds[1])]
    return StudyFacts(
        "scaling", plan.question, "size", "none", sizes, tuple(arms), tuple(targets), tuple(tasks),
        "xlmr-large" if "xlmr-large" in plan.sizes else plan.sizes[0], dict.fromkeys(plan.sizes, pairs),
    )  # fmt: skip


def small_analysis(plan: Plan | None = None, **changes: Any) -> Analysis:
    """An analysis of that plan; `changes` replace fields of `Plan`."""
    plan = Plan(**changes) if plan is None else plan
    facts = facts_of(plan)
    random = np.random.default_rng(7)
    runs = _runs(plan, facts, random)
    cells = _cells(plan, facts, runs)
    groups = _groups(facts, cells)
    slopes, predictions = _slopes(facts, groups)
    records = list(dict.fromkeys(runs["record"]))
    paths = {name: f"records/{name}.json" for name in records}
    missing = [
        (size, arm, target, 0, 0, "not run yet") for size in plan.sizes for arm, target in plan.missing_cells
    ]  # fmt: skip
    collapsed = [
        (plan.sizes[0], plan.arms[0], plan.targets[0], 6, 1, 1 / 6, "score within 2 points of chance", records[:1])
    ]
    software = [("torch", "2.13.0", len(records)), ("deepspeed", "0.19.2", len(records))]
    results = StudyResults(
        facts,
        runs,
        NoItems(),
        _curves(plan, runs, random),
        pd.DataFrame(missing, columns=COLUMNS["missing"]),
        paths,
        pd.DataFrame(software, columns=COLUMNS["software"]),
    )
    answer = Answer(
        "diminishes",
        (
            "The gain falls by 1.4 points per tenfold parameters [−2.1, −0.7] (95 %, 3 intermediate seeds).",
            "Both agree.",
        ),
        ("Layer normalisation moves between Large and XL.", "A fixed list of languages."),
    )
    return Analysis(
        results, answer, cells, groups, slopes, predictions,
        pd.DataFrame(collapsed, columns=COLUMNS["collapse"]),
        _costs(facts, groups),
        pd.DataFrame([("slope", "headline", 0.55, "points per decade", "80 % power")], columns=COLUMNS["power"]),
        {"Ranks of arms": pd.DataFrame({"arm": list(plan.arms), "mean_rank": np.arange(len(plan.arms)) + 1.0})},
        ("Gains are paired by seed. 10,000 resamples.",),
        ("No item outcomes were kept.",),
        {"rule": "last"},
    )  # fmt: skip


@cache
def small_report() -> tuple[Analysis, Path]:
    """An analysis and the page of its report, written once for all tests that only read it."""
    study = Path(tempfile.mkdtemp(prefix="small_report_"))
    atexit.register(shutil.rmtree, study, ignore_errors=True)
    analysis = small_analysis(
        sizes=("xlmr-base", "xlmr-large", "xlmr-xxl"), languages=LANGUAGES[:5], seeds=(2, 2), curve_steps=4
    )
    for path in analysis.results.record_paths.values():
        (study / path).parent.mkdir(exist_ok=True)
        (study / path).write_text("{}")
    return analysis, write_report(analysis, study / "report")


def _runs(plan: Plan, facts: StudyFacts, random: np.random.Generator) -> pd.DataFrame:
    frames = []
    num_pairs = plan.seeds[0] * plan.seeds[1]
    languages = np.array(plan.languages)
    difficulty = random.normal(0, 6, len(languages))
    for s, size in enumerate(facts.sizes):
        growth = 4 * math.log10(size.num_parameters / 5.6e8)
        for t, target in enumerate(facts.targets):
            noise = random.normal(0, 0.6, (num_pairs, len(languages)))
            for a, arm in enumerate(facts.arms):
                if (arm.name, target.name) in plan.missing_cells:
                    continue
                gain = 0.0 if a == 0 else 3 + 0.4 * a - t * 0.5 - 1.4 * (growth / 4) - 0.05 * difficulty
                seeds = random.normal(0, 0.5, (num_pairs, 1))
                scores = 68 + t + growth + difficulty + noise + gain + seeds + random.normal(0, 0.3, noise.shape)
                index = [f"{size.name}-{arm.name}-{target.name}-i{i}-t{j}".replace("/", "-")
                         for i in range(plan.seeds[0]) for j in range(plan.seeds[1])]  # fmt: skip
                length = num_pairs * len(languages)
                frames.append(
                    pd.DataFrame(
                        {
                            "record": np.repeat(index, len(languages)),
                            "size": size.name,
                            "arm": arm.name,
                            "target": target.name,
                            "task": target.tasks[0],
                            "language": np.tile(languages, num_pairs),
                            "intermediate_seed": np.repeat(np.arange(plan.seeds[0]), plan.seeds[1] * len(languages)),
                            "target_seed": np.tile(np.repeat(np.arange(plan.seeds[1]), len(languages)), plan.seeds[0]),
                            "rule": "last",
                            "score": np.clip(scores, 0, 100).reshape(length),
                            "chance": 33.3,
                            "is_trained_language": np.tile(languages == "en", num_pairs),
                            "same_data": "training data" if (arm.name, target.name) in plan.same_data else "",
                            "first_loss": 1.1,
                            "last_loss": 0.3,
                            "gpu_hours": 0.5 * (s + 1),
                            "arm_gpu_hours": 2.0 * (s + 1) * (a > 0),
                            "tokens": 1_000_000,
                        }
                    )
                )
    return pd.concat(frames, ignore_index=True)[list(RUN_COLUMNS)]


def _estimate(gain: float, error: float, plan_pairs: tuple[int, int]) -> dict[str, float]:
    freedom = plan_pairs[0] - 1
    half = 2.2 * error if freedom else math.nan
    row = {
        "gain": gain, "standard_error": error, "degrees_of_freedom": freedom or math.nan, "low": gain - half,
        "high": gain + half, "p": 0.03 if freedom else math.nan, "p_permutation": math.nan, "seed_share": 0.6,
        "num_intermediate_seeds": plan_pairs[0], "num_pairs": plan_pairs[0] * plan_pairs[1],
    }  # fmt: skip
    return row


def _cells(plan: Plan, facts: StudyFacts, runs: pd.DataFrame) -> pd.DataFrame:
    keys = ["size", "arm", "target", "task", "language"]
    means = runs.groupby(keys, sort=False)["score"].mean()
    flags = runs.groupby(keys, sort=False)[["is_trained_language", "same_data"]].first()
    names = runs.drop_duplicates("record").groupby(["size", "arm", "target"], sort=False)["record"].agg(list)
    rows = []
    for key, score in means.items():
        size, arm, target, task, language = key
        if arm == facts.baseline:
            continue
        base = means[(size, facts.baseline, target, task, language)]
        about = describe(language)
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "language_family": about.family,
                "is_seen": about.seen,
                **flags.loc[key].to_dict(),
                "base": base,
                "with_arm": score,
                **_estimate(score - base, 0.9, plan.seeds),
                "p_bh": 0.05,
                "log_error_ratio": math.log((100 - score) / (100 - base)),
                "num_collapsed": 0,
                "records": list(zip(names[(size, facts.baseline, target)], names[(size, arm, target)], strict=True)),
            }
        )
    return pd.DataFrame(rows, columns=list(CELL_COLUMNS))


def _groups(facts: StudyFacts, cells: pd.DataFrame) -> pd.DataFrame:
    group_of = {task: target.group for target in facts.targets for task in target.tasks}
    columns = {
        "task": (cells["task"], ""),
        "target group": (cells["task"].map(group_of), ""),
        "headline": (pd.Series("all", index=cells.index), ""),
        "family": (cells["language_family"], "all"),
    }
    plan_pairs = (int(cells["num_intermediate_seeds"].iloc[0]),
                  int(cells["num_pairs"].iloc[0] // cells["num_intermediate_seeds"].iloc[0]))  # fmt: skip
    rows = []
    for kind, (names, task) in columns.items():
        for (size, arm, group), rows_of in cells.groupby([cells["size"], cells["arm"], names], sort=False):
            kept = rows_of[rows_of["same_data"] == ""]
            zero_shot = kept[~kept["is_trained_language"].astype(bool)]
            kept = zero_shot if len(zero_shot) else kept
            if kept.empty:
                continue
            error = 0.9 / math.sqrt(len(kept)) + 0.1
            rows.append(
                {
                    "size": size, "arm": arm, "group_kind": kind, "group": group, "task": task,
                    "base": kept["base"].mean(), "with_arm": kept["with_arm"].mean(),
                    **_estimate(kept["gain"].mean(), error, plan_pairs), "p_holm": 0.04 if kind == "task" else math.nan,
                    "log_error_ratio": kept["log_error_ratio"].mean(),
                    "log_error_low": kept["log_error_ratio"].mean() - 0.03,
                    "log_error_high": kept["log_error_ratio"].mean() + 0.03,
                    "num_cells": len(kept), "num_excluded": len(rows_of) - len(kept), "cells": kept.index.tolist(),
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=list(GROUP_COLUMNS))


def _slopes(facts: StudyFacts, groups: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    parameters = {size.name: size.num_parameters for size in facts.sizes}
    reference = parameters[facts.reference_size]
    slopes: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    if len(parameters) >= 2:
        grid = np.geomspace(min(parameters.values()), max(parameters.values()) * 3, 25)
        keys = ["arm", "group_kind", "group"]
        everything = pd.concat([groups, groups[groups["group_kind"] == "headline"].assign(arm="all")])
        for key, rows in everything.groupby(keys, sort=False):
            x = np.log10(rows["size"].map(parameters).to_numpy(float) / reference)
            head = dict(zip(keys, key, strict=True))
            variants = ["primary"]
            if head["group_kind"] == "headline":
                variants += ["non-embedding", *(f"without {size}" for size in parameters), "pre-norm only"]
            for column, scale, error in (("gain", "points", 0.3), ("log_error_ratio", "log error", 0.01)):
                slope, intercept = np.polyfit(x, rows[column].to_numpy(float), 1) if len(set(x)) > 1 else (0.0, 0.0)
                for v, variant in enumerate(variants):
                    estimate = _estimate(slope * (1 + 0.1 * v), error * (1 + 0.2 * v), (3, 2))
                    slopes.append({**head, "variant": variant, "scale": scale, **estimate, "intercept": intercept,
                                   "p_falling": 0.01, "lack_of_fit_p": 0.4, "num_sizes": len(set(x))})  # fmt: skip
                if scale == "points":
                    for n in grid:
                        line = intercept + slope * math.log10(n / reference)
                        half = 0.6 + 0.5 * abs(math.log10(n / reference) - 0.5)
                        predictions.append({**head, "num_parameters": n, "gain": line, "low": line - half,
                                            "high": line + half, "prediction_low": line - 2.5 * half,
                                            "prediction_high": line + 2.5 * half,
                                            "is_extrapolated": n > max(parameters.values()) * 1.001})  # fmt: skip
    return pd.DataFrame(slopes, columns=list(SLOPE_COLUMNS)), pd.DataFrame(
        predictions, columns=list(PREDICTION_COLUMNS)
    )


def _curves(plan: Plan, runs: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    if not plan.curve_steps:
        return pd.DataFrame(columns=COLUMNS["curves"])
    heads = runs.drop_duplicates("record")[["record", "size", "arm", "target"]]
    steps = np.arange(1, plan.curve_steps + 1)
    frame = heads.loc[heads.index.repeat(len(steps))].reset_index(drop=True)
    share = np.tile(steps / len(steps), len(heads))
    loss = 0.3 + 0.9 * np.exp(-4 * share) + random.normal(0, 0.04, len(frame))
    columns = {"phase": "target", "step": np.tile(steps * 10, len(heads)), "share": share, "loss": loss}
    return frame.assign(**columns, dev=math.nan)[COLUMNS["curves"]]


def _costs(facts: StudyFacts, groups: pd.DataFrame) -> pd.DataFrame:
    rows = groups[groups["group_kind"] == "headline"]
    hours = rows["size"].map({size.name: size.num_parameters / 1e8 for size in facts.sizes})
    hours = hours * rows["arm"].map({arm.name: 1 + 0.3 * i for i, arm in enumerate(facts.arms)})
    frame = rows[["size", "arm", "gain", "low", "high"]].assign(
        gpu_hours=hours, points_per_gpu_hour=rows["gain"] / hours, unit="GPU hours"
    )
    return frame[COLUMNS["costs"]].reset_index(drop=True)
