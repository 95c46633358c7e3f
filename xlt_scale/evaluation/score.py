"""Score a model on a task in each language, and keep its predictions in XTREME's file layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xlt_scale.config import PhaseOptions
from xlt_scale.data.prepare import DataPreparer
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.engines.interface import Engine
from xlt_scale.errors import UserError, nearest
from xlt_scale.evaluation.predict import predict
from xlt_scale.evaluation.scorers import (
    ACCURACY_VERSION,
    RETRIEVAL_VERSION,
    accuracy,
    nearest_neighbours,
    retrieval_accuracy,
)
from xlt_scale.tasks.examples import DataSource, Examples, available_languages, load_examples, scored_split
from xlt_scale.tasks.spec import Split, TaskSpec

SCORER_VERSIONS = {"classification": ACCURACY_VERSION, "retrieval": RETRIEVAL_VERSION}


@dataclass(frozen=True)
class Evaluator:
    """Scores one engine's model.

    Attributes:
        token_budget: real tokens of one forward pass on one rank (padded ones when the model runs padded).
        retrieval_layer: the layer whose mean-pooled states retrieval compares.
    """

    engine: Engine
    preparer: DataPreparer
    token_budget: int
    padded: bool
    retrieval_layer: int

    def score(self, spec: TaskSpec, split: Split, language: str, folder: Path | None = None) -> dict[str, float]:
        """The metrics of one task in one language; collective.

        Rank 0 writes the predictions to `<folder>/<task>/<split>-<language>.tsv`.
        """
        examples = load_examples(spec, split, language, self.preparer.source)
        if spec.kind == "retrieval":
            found = self._retrieve(spec, examples)
            self._write(folder, spec, split, language, [str(number) for number in found])
            return {"accuracy": retrieval_accuracy(found), "num_items": len(found), "chance": 100.0 / len(found)}
        predictions = self._classify(spec, self.preparer.tokenize(spec, examples))
        self._write(folder, spec, split, language, [spec.labels[number] for number in predictions])
        assert spec.chance is not None
        value = accuracy(predictions, np.asarray(examples.labels))
        return {"accuracy": value, "num_items": len(predictions), "chance": 100.0 * spec.chance}

    def score_data(self, spec: TaskSpec, data: TokenizedData) -> float:
        """Accuracy on tokenised examples, for choosing between checkpoints; collective."""
        assert data.labels is not None
        return accuracy(self._classify(spec, data), data.labels)

    def _classify(self, spec: TaskSpec, data: TokenizedData) -> np.ndarray:
        return predict(self.engine, spec, data, self.token_budget, padded=self.padded)

    def _retrieve(self, spec: TaskSpec, examples: Examples) -> np.ndarray:
        """For each source-language sentence the number of its nearest sentence in the other language."""
        assert examples.text_pairs is not None
        foreign, source = (
            predict(
                self.engine,
                spec,
                self.preparer.tokenize(spec, Examples(texts)),
                self.token_budget,
                padded=self.padded,
                mode="embedding",
                layer=self.retrieval_layer,
            )
            for texts in (examples.texts, examples.text_pairs)
        )
        return nearest_neighbours(source, foreign)

    def _write(self, folder: Path | None, spec: TaskSpec, split: Split, language: str, lines: list[str]) -> None:
        """Collective: what rank 0 cannot write ends all ranks with the same `UserError`."""
        if folder is None:
            return
        path = folder / spec.name / f"{split}-{language}.tsv"

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

        self.engine.world.share(write)


def plan_scoring(
    specs: Sequence[TaskSpec], phase: PhaseOptions, heads: Sequence[str], source: DataSource
) -> dict[str, tuple[Split, list[str]]]:
    """What will be scored, checked before any training: the split and the languages of each task of `phase.evaluate`.

    Args:
        specs: the declarations of those tasks.
        heads: names of the heads that the phase trains.

    Raises:
        UserError: a task needs a head that the phase does not train, cannot be scored, or has no data; or a wanted
            language is in none of the tasks.
    """
    plan: dict[str, tuple[Split, list[str]]] = {}
    everywhere: set[str] = set()
    for spec in specs:
        _check_scorable(spec, heads, phase.name)
        split = scored_split(spec, source, phase.evaluate_split)
        there = available_languages(spec, split, source)
        if not there:
            root = source.roots.get(spec.generator)
            place = f"below {root}" if root else "because neither data.root nor XLT_SCALE_DATA is set"
            raise UserError(f"phase {phase.name!r}: no {split} files of task {spec.name!r} found {place}")
        everywhere |= set(there)
        wanted = phase.evaluate_languages
        plan[spec.name] = split, [language for language in there if not wanted or language in wanted]
    for language in phase.evaluate_languages:
        if language not in everywhere:
            raise UserError(
                f"phase {phase.name!r}: evaluate_languages has {language!r}, but no evaluated task has data in it; "
                f"{nearest(language, everywhere)}"
            )
    for task, (_, languages) in plan.items():
        if not languages:
            raise UserError(
                f"phase {phase.name!r}: task {task!r} has data in none of evaluate_languages; remove one of them"
            )
    return plan


def _check_scorable(spec: TaskSpec, heads: Sequence[str], phase: str) -> None:
    if spec.kind not in SCORER_VERSIONS:
        raise UserError(f"phase {phase!r}: task {spec.name!r} ({spec.kind}) has no score; remove it from evaluate")
    if spec.kind == "classification" and spec.head not in heads:
        trained = ", ".join(sorted(heads)) or "none"
        raise UserError(
            f"phase {phase!r} cannot be scored on {spec.name!r}: it needs a head {spec.head!r}, "
            f"the phase trains: {trained}"
        )
