"""From what a model computes for a task's examples to predictions and gold labels, as the task's scorer takes them.

Pure functions: the same on every rank, whatever engine and world size have computed the outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xlt_scale.data.tokens import TokenizedData
from xlt_scale.evaluation.spans import decode_spans
from xlt_scale.tasks.examples import ChoiceExamples, Examples, QuestionExamples, TaggedExamples, TextExamples
from xlt_scale.tasks.spec import TaskKind, TaskSpec


@dataclass(frozen=True)
class DecodingOptions:
    """How spans become answers.

    Attributes:
        no_answer_threshold: no answer is predicted where its score exceeds the best span's by more than this.
    """

    no_answer_threshold: float = 0.0
    max_answer_tokens: int = 30


@dataclass(frozen=True)
class Answers:
    """Predictions and gold labels of one task in one language.

    Attributes:
        labels: None where the data have none: there are predictions then, and no score.
        facts: numbers to stand beside the scores: items, and the score of guessing where it is known.
        no_answer_scores: by question, how much better no answer is than the best span; {} in other tasks.
        best_spans: by question, the best span whatever was decided; {} in other tasks.
    """

    predictions: Any
    labels: Any
    facts: dict[str, float] = field(default_factory=dict)
    no_answer_scores: dict[str, float] = field(default_factory=dict)
    best_spans: dict[str, str] = field(default_factory=dict)


def answers(
    spec: TaskSpec, examples: Examples, data: TokenizedData, outputs: np.ndarray, options: DecodingOptions
) -> Answers:
    """What the head's outputs say.

    Args:
        data: the examples' tokens, in their order.
        outputs: of `predict`, mode 'predictions'.
    """
    return _ANSWERS[spec.kind](spec, examples, data, outputs, options)


def _classes(
    spec: TaskSpec, examples: Examples, data: TokenizedData, outputs: np.ndarray, options: DecodingOptions
) -> Answers:
    assert isinstance(examples, TextExamples) and spec.chance is not None
    facts = {"num_items": float(len(outputs)), "chance": 100.0 * spec.chance}
    predicted = [spec.labels[number] for number in outputs.tolist()]
    gold = None if examples.labels is None else [spec.labels[int(number)] for number in examples.labels]
    return Answers(predicted, gold, facts)


def _numbers(
    spec: TaskSpec, examples: Examples, data: TokenizedData, outputs: np.ndarray, options: DecodingOptions
) -> Answers:
    assert isinstance(examples, TextExamples)
    gold = None if examples.labels is None else [float(label) for label in examples.labels]
    return Answers(outputs.tolist(), gold, {"num_items": float(len(outputs))})


def _choices(
    spec: TaskSpec, examples: Examples, data: TokenizedData, outputs: np.ndarray, options: DecodingOptions
) -> Answers:
    assert isinstance(examples, ChoiceExamples)
    chance = 100.0 * float(np.mean([1.0 / len(choices) for choices in examples.choices]))
    facts = {"num_items": float(len(outputs)), "chance": chance}
    gold = None if examples.labels is None else [str(number) for number in examples.labels]
    return Answers([str(number) for number in outputs.tolist()], gold, facts)


def _tags(
    spec: TaskSpec, examples: Examples, data: TokenizedData, outputs: np.ndarray, options: DecodingOptions
) -> Answers:
    assert isinstance(examples, TaggedExamples)
    ends = np.cumsum([len(words) for words in examples.words])
    assert ends[-1] == len(outputs), "a word lacks its prediction"
    predicted = [[spec.labels[tag] for tag in part.tolist()] for part in np.split(outputs, ends[:-1])]
    gold = None if examples.tags is None else [[spec.labels[tag] for tag in tags] for tags in examples.tags]
    return Answers(predicted, gold, {"num_items": float(len(predicted)), "num_words": float(ends[-1])})


def _spans(
    spec: TaskSpec, examples: Examples, data: TokenizedData, outputs: np.ndarray, options: DecodingOptions
) -> Answers:
    assert isinstance(examples, QuestionExamples) and data.char_offsets is not None and data.owners is not None
    found = decode_spans(
        start_scores=outputs[:, 0],
        end_scores=outputs[:, 1],
        offsets=data.offsets,
        owners=data.owners,
        char_offsets=data.char_offsets,
        contexts=examples.contexts,
        max_answer_tokens=options.max_answer_tokens,
        no_answer=spec.no_answer,
        no_answer_threshold=options.no_answer_threshold,
    )
    predicted = {name: answer.text for name, answer in zip(examples.ids, found, strict=True)}
    facts = {"num_items": float(len(predicted))}
    if not examples.is_labelled:
        return Answers(predicted, None, facts)
    gold = {name: [text for text, _ in texts] for name, texts in zip(examples.ids, examples.answers, strict=True)}
    if not spec.no_answer:
        return Answers(predicted, gold, facts)
    scores = {name: answer.no_answer_score for name, answer in zip(examples.ids, found, strict=True)}
    best = {
        name: answer.n_best[0].text if answer.n_best else "" for name, answer in zip(examples.ids, found, strict=True)
    }
    return Answers(predicted, gold, facts, scores, best)


_ANSWERS: dict[TaskKind, Callable[[TaskSpec, Examples, TokenizedData, np.ndarray, DecodingOptions], Answers]] = {
    "classification": _classes,
    "regression": _numbers,
    "multiple_choice": _choices,
    "tagging": _tags,
    "span": _spans,
}
