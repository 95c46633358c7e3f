"""Score a model on tasks in their languages, and keep its predictions in XTREME's file layout."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from xlt_scale.data.prepare import DataPreparer
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.engines.interface import Engine
from xlt_scale.evaluation.answers import Answers, DecodingOptions, answers
from xlt_scale.evaluation.label_files import write_labels
from xlt_scale.evaluation.outcomes import write_outcomes
from xlt_scale.evaluation.predict import predict
from xlt_scale.evaluation.prediction_files import file_name, write_predictions
from xlt_scale.evaluation.retrieval import Layers, mine_bitext, rank, retrieve
from xlt_scale.evaluation.scorers import SCORERS, Score
from xlt_scale.evaluation.scorers.squad import score_squad_v2
from xlt_scale.tasks.examples import BitextExamples, Examples, RankingExamples, TextExamples
from xlt_scale.tasks.loading import available_languages, load_candidates
from xlt_scale.tasks.spec import Split, TaskSpec


@dataclass(frozen=True)
class Evaluator:
    """Scores one engine's model.

    Attributes:
        token_budget: real tokens of one forward pass on one rank (padded ones when the model runs padded).
        layers: whose mean-pooled states retrieval compares.
        max_examples: score the first so many items of each language; 0 = all.
    """

    engine: Engine
    preparer: DataPreparer
    token_budget: int
    padded: bool
    layers: Layers
    max_examples: int = 0
    decoding: DecodingOptions = field(default_factory=DecodingOptions)

    def score(
        self, spec: TaskSpec, split: Split, languages: Sequence[str], folder: Path | None = None
    ) -> dict[str, dict[str, float]]:
        """The metrics of one task by language; collective.

        Data without gold labels give predictions and no metrics.

        Rank 0 writes below `folder`: predictions/<task>/<split>-<language>.<ending>, labels/ with the same names, and
        what was right, item by item, to outcomes/<task>/<split>-<language>.safetensors.
        """
        pool = self._pool(spec, split) if spec.kind == "dual_encoding" else None
        scores = {}
        for language in languages:
            examples = self.preparer.examples(spec, split, language, self.max_examples)
            if pool is not None:
                found = self._rank(spec, examples, pool)
            elif isinstance(examples, BitextExamples):
                tuning = self.preparer.examples(spec, "dev", language, self.max_examples)
                assert isinstance(tuning, BitextExamples)
                found = mine_bitext(
                    examples, tuning, self.layers, lambda texts, layers: self._embed(spec, texts, layers)
                )
            elif spec.kind == "retrieval":
                assert isinstance(examples, TextExamples)
                found = retrieve(examples, self.layers, lambda texts, layers: self._embed(spec, texts, layers))
            else:
                found = self._answer(spec, examples, self.preparer.tokenize(spec, examples))
            score = _score(spec, found, language)
            self._write(folder, spec, split, language, found, score)
            scores[language] = score.values | found.facts
        return scores

    def headline(self, spec: TaskSpec, language: str, examples: Examples, data: TokenizedData) -> tuple[str, float]:
        """Name and value of the metric that chooses between checkpoints, on these examples; collective.

        Args:
            data: the examples' tokens.
        """
        if isinstance(examples, RankingExamples):
            found = self._rank(spec, examples, _Pool(examples, self._embed_candidates(spec, examples)))
        else:
            found = self._answer(spec, examples, data)
        metric = SCORERS[spec.metric].headline
        return metric, _score(spec, found, language).values[metric]

    def _answer(self, spec: TaskSpec, examples: Examples, data: TokenizedData) -> Answers:
        outputs = predict(self.engine, spec, data, self.token_budget, padded=self.padded)
        return answers(spec, examples, data, outputs, self.decoding)

    def _embed(self, spec: TaskSpec, texts: Sequence[str], layers: Sequence[int]) -> np.ndarray:
        data = self.preparer.tokenize(spec, TextExamples(list(texts)))
        return predict(
            self.engine, spec, data, self.token_budget, padded=self.padded, mode="embedding", layers=tuple(layers)
        )

    def _pool(self, spec: TaskSpec, split: Split) -> "_Pool":
        """The candidates of all languages, whichever are scored: their number decides how hard the search is."""
        source = self.preparer.source
        candidates = load_candidates(spec, split, source, available_languages(spec, split, source))
        return _Pool(candidates, self._embed_candidates(spec, candidates))

    def _embed_candidates(self, spec: TaskSpec, candidates: RankingExamples) -> np.ndarray:
        data = self.preparer.tokenize_candidates(spec, candidates)
        return predict(self.engine, spec, data, self.token_budget, padded=self.padded)

    def _rank(self, spec: TaskSpec, examples: Examples, pool: "_Pool") -> Answers:
        assert isinstance(examples, RankingExamples)
        data = self.preparer.tokenize_queries(spec, examples)
        queries = predict(self.engine, spec, data, self.token_budget, padded=self.padded)
        gold = pool.gold_of(examples)
        ids = pool.candidates.candidate_ids
        return rank(examples.query_ids, gold, queries, ids, pool.vectors, str(self.engine.world.device))

    def _write(
        self, folder: Path | None, spec: TaskSpec, split: Split, language: str, found: Answers, score: Score
    ) -> None:
        """Collective: what rank 0 cannot write ends all ranks with the same `UserError`."""
        if folder is None:
            return
        name = file_name(spec.metric, split, language, spec.kind)
        outcomes = folder / "outcomes" / spec.name / f"{split}-{language}.safetensors"

        def write() -> None:
            write_predictions(folder / "predictions" / spec.name / name, spec.metric, found.predictions)
            if found.labels is None:
                return
            write_labels(folder / "labels" / spec.name / name, spec, found.labels)
            write_outcomes(outcomes, score.items, SCORERS[spec.metric].version)

        self.engine.world.share(write)


@dataclass(frozen=True)
class _Pool:
    """Candidates, and their vectors [candidates, hidden size]."""

    candidates: RankingExamples
    vectors: np.ndarray

    def gold_of(self, examples: RankingExamples) -> list[list[str]]:
        """For each query the ids of all candidates of the pool that answer it: those of its twins in other languages
        too.
        """
        pooled = dict(zip(self.candidates.query_ids, self.candidates.gold, strict=True))
        return [pooled.get(name, gold) for name, gold in zip(examples.query_ids, examples.gold, strict=True)]


def _score(spec: TaskSpec, found: Answers, language: str) -> Score:
    if found.labels is None:
        return Score({}, {})
    scorer = SCORERS[spec.metric]
    score = scorer.score(found.predictions, found.labels, language)
    if not found.no_answer_scores:
        return score
    best = score_squad_v2(found.best_spans, found.labels, language, found.no_answer_scores).values
    return replace(
        score, values=score.values | {name: value for name, value in best.items() if name.startswith("best_")}
    )
