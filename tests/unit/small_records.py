"""A small study whose phases are written by hand: folders of the pool as training and scoring leave them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xlt_scale.evaluation.outcomes import write_outcomes
from xlt_scale.evaluation.scorers import SCORERS, Score
from xlt_scale.scaling.grid.design import PlannedPhase, StudyGrid, design
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.study_config import StudyOptions
from xlt_scale.tasks.catalogue import load_catalogue

LANGUAGES = ("en", "de", "sw")
NUM_ITEMS = 37
CATALOGUE = load_catalogue()


def study_table(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two sizes; an arm that trains MNLI and one that trains SQuAD; sentence pairs, questions, parts of speech, and
    encoders that are scored as they are.
    """
    return {
        "name": "small",
        "question": "Does it help?",
        "output": str(folder),
        "run": {"model": {"tokenizer": "micro"}, "engine": {"device": "cpu"}},
        "seeds": {"intermediate": [1, 2], "target": [1, 2]},
        "pretraining": [{"task": "mlm", "steps": 5}],
        "intermediate": {"steps": 10},
        "target": {"steps": 20},
        "sizes": [{"name": "micro-tiny"}, {"name": "micro-small"}],
        "arms": [
            {"name": "none"},
            {"name": "inference", "phases": [{"task": "mnli"}]},
            {"name": "questions", "phases": [{"task": "squad"}]},
        ],
        "targets": [
            {"name": "pairs", "phase": {"task": "pawsx"}, "evaluate": ["pawsx"]},
            {"name": "spans", "phase": {"task": "squad"}, "evaluate": ["xquad"]},
            {"name": "words", "phase": {"task": "udpos"}, "evaluate": ["udpos"]},
            {"name": "sentences", "evaluate": ["tatoeba"]},
        ],
        **changes,
    }


@dataclass
class SmallStudy:
    """The study, its grid and its folder."""

    study: StudyOptions
    grid: StudyGrid
    folder: StudyFolder

    @staticmethod
    def make(root: Path, **changes: Any) -> "SmallStudy":
        study = StudyOptions.model_validate(study_table(root, **changes))
        return SmallStudy(study, design(study), StudyFolder.of(study))

    def phases(self, **where: Any) -> list[PlannedPhase]:
        """Phases with these attributes."""
        return [
            phase
            for phase in self.grid.phases.values()
            if all(getattr(phase, name) == value for name, value in where.items())
        ]

    def phase(self, **where: Any) -> PlannedPhase:
        """The first of them."""
        return self.phases(**where)[0]

    def finish(self, phases: Iterable[PlannedPhase], **options: Any) -> list[str]:
        """Leave the phases as training and scoring do; their names."""
        return [finish_phase(self.folder, self.grid, phase, **options) for phase in phases]


def finish_phase(
    folder: StudyFolder,
    grid: StudyGrid,
    phase: PlannedPhase,
    languages: Sequence[str] = LANGUAGES,
    unlabelled: Sequence[str] = (),
    seconds: float = 36.0,
) -> str:
    """Write phase.json, scores.json and outcomes of a phase.

    Args:
        unlabelled: languages without gold labels.
    """
    place = folder.phase(phase.name)
    place.mkdir(parents=True, exist_ok=True)
    (place / "phase.json").write_text(json.dumps(phase_facts(grid, phase, seconds)))
    scores: dict[str, Any] = {}
    requests: dict[str, Any] = {}
    for task in phase.options.evaluate:
        spec = CATALOGUE[task]
        scorer = SCORERS[spec.metric]
        split = phase.options.evaluate_split.replace("auto", "test")
        requests[task] = {
            "split": split,
            "languages": list(languages),
            "max_examples": phase.options.evaluate_examples,
            "labels": spec.labels,
            "scorer": scorer.version,
            "headline": scorer.headline,
        }
        scores[task] = {}
        for number, language in enumerate(languages):
            if language in unlabelled:
                scores[task][language] = {"num_items": float(NUM_ITEMS)}
                continue
            found = made_up_score(spec.metric, f"{phase.name}-{number}")
            scores[task][language] = found.values | {"num_items": float(NUM_ITEMS), "chance": 33.3}
            write_outcomes(place / "outcomes" / task / f"{split}-{language}.safetensors", found.items, scorer.version)
    if phase.options.evaluate:
        table = {"scores": scores, "request": {"tasks": requests}, "phase": phase.name}
        (place / "scores.json").write_text(json.dumps(table))
    return phase.name


def phase_facts(grid: StudyGrid, phase: PlannedPhase, seconds: float = 36.0) -> dict[str, Any]:
    """What training writes into phase.json."""
    steps = phase.options.steps if phase.options.trains else 0
    curve = [{"step": step, "loss": 2.0 / step} for step in range(5, steps + 1, 5)]
    languages = phase.options.languages or ["en"]
    return {
        "name": phase.name,
        "hash": f"hash-of-{phase.name}",
        "identity": {"model": {"num_hidden_layers": 2}},
        "checkpoint": "result",
        "num_steps": steps,
        "parent": phase.parent,
        "seed": phase.seed,
        "data": {task: {language: {"from": "a file"} for language in languages} for task in phase.options.tasks},
        "training": {
            "steps": steps,
            "examples": 32 * steps,
            "tokens": 1000 * steps,
            "flops": 1e9 * steps,
            "seconds": seconds if steps else 0.0,
            "device_seconds": seconds if steps else 0.0,
            "memory_gib": 0.5,
            "mfu": None,
            "engine": "fsdp2",
            "precision": "fp32",
            "attention": "unpadded",
            "num_parameters": 413_056,
            "num_non_embedding_parameters": 265_216,
            "model_type": "xlm-roberta",
            "options": phase.options.model_dump(mode="json"),
            "environment": {
                "time": "2026-11-21T16:11:34+00:00",
                "python": "3.11.7",
                "git_revision": "0123456",
                "versions": {"xlt-scale": "0.1.0", "torch": "2.13.0"},
                "host": "here",
                "device": "a processor",
                "world_size": 1,
                "threads": 1,
            },
            "curve": [*curve, {"step": steps, "dev": 80.0}] if steps else [],
        },
    }


def made_up_score(metric: str, seed: str) -> Score:
    """A scorer's result over made-up predictions, the same for the same text."""
    draw = np.random.default_rng(list(seed.encode()))
    return _MADE_UP[metric](draw)


def _labels(draw: np.random.Generator, metric: str) -> Score:
    gold = [str(value) for value in draw.integers(0, 3, NUM_ITEMS)]
    found = [label if draw.random() < 0.7 else str(draw.integers(0, 3)) for label in gold]
    return SCORERS[metric].score(found, gold, "en")


def _answers(draw: np.random.Generator, metric: str) -> Score:
    words = ["one", "two", "three", "four", "five", "six", "seven"]

    def answer() -> str:
        return " ".join(draw.choice(words, int(draw.integers(1, 6))))

    gold = {str(number): [answer()] for number in range(NUM_ITEMS)}
    return SCORERS[metric].score({name: answer() for name in gold}, gold, "en")


def _tags(draw: np.random.Generator, metric: str) -> Score:
    tags = ["NOUN", "VERB", "ADJ"] if metric != "entity_f1" else ["O", "B-PER", "I-PER", "B-LOC"]
    gold = [[str(tag) for tag in draw.choice(tags, int(draw.integers(1, 9)))] for _ in range(NUM_ITEMS)]
    found = [[tag if draw.random() < 0.8 else str(draw.choice(tags)) for tag in sentence] for sentence in gold]
    return SCORERS[metric].score(found, gold, "en")


def _numbers(draw: np.random.Generator, metric: str) -> Score:
    gold = draw.normal(size=NUM_ITEMS)
    return SCORERS[metric].score((gold + draw.normal(size=NUM_ITEMS)).tolist(), gold.tolist(), "en")


def _pairs(draw: np.random.Generator, metric: str) -> Score:
    gold = [(str(number), str(number)) for number in range(NUM_ITEMS)]
    found = [(str(number), str(number + int(draw.integers(0, 2)))) for number in range(2 * NUM_ITEMS)]
    return SCORERS[metric].score(found, gold, "en")


def _ranks(draw: np.random.Generator, metric: str) -> Score:
    gold = {str(number): [str(number), str(number + 100)] for number in range(NUM_ITEMS)}
    found = {name: [str(one) for one in draw.permutation(150)[:20]] + [name] for name in gold}
    return SCORERS[metric].score(found, gold, "en")


_MADE_UP: Mapping[str, Any] = {
    "accuracy": lambda draw: _labels(draw, "accuracy"),
    "accuracy_and_f1": lambda draw: _labels(draw, "accuracy_and_f1"),
    "bitext_accuracy": lambda draw: _labels(draw, "bitext_accuracy"),
    "squad": lambda draw: _answers(draw, "squad"),
    "squad_v2": lambda draw: _answers(draw, "squad_v2"),
    "mlqa": lambda draw: _answers(draw, "mlqa"),
    "entity_f1": lambda draw: _tags(draw, "entity_f1"),
    "tagging_f1": lambda draw: _tags(draw, "tagging_f1"),
    "token_accuracy": lambda draw: _tags(draw, "token_accuracy"),
    "correlation": lambda draw: _numbers(draw, "correlation"),
    "bitext_mining": lambda draw: _pairs(draw, "bitext_mining"),
    "map_at_20": lambda draw: _ranks(draw, "map_at_20"),
}
