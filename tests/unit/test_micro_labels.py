"""The micro benchmark's labels: they cannot be guessed without knowing the words, and no two tasks are one."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from micro_worlds import (
    CODES,
    WORLD_SEED,
    choices_of,
    file_of,
    languages_of,
    questions_of,
    rows_of,
    sentences_of,
    written_world,
)

from xlt_scale.micro import SOURCE_LANGUAGE, TASKS, TRAINING_LANGUAGES, LabelledTask
from xlt_scale.micro.concepts import NEGATION, PLACE_MARK
from xlt_scale.micro.items import NO_TAG, SEPARATOR, ChoiceItem, QuestionItem, SentenceItem, TaggedItem
from xlt_scale.micro.languages import build_tongues
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.examples import Examples
from xlt_scale.tasks.loading import DataSource, available_languages, load_examples

MICRO = {name: spec for name, spec in load_catalogue().items() if spec.generator == "micro"}
Data = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def world() -> Path:
    return written_world()


def tasks_of(*items: type) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("task", [task for task in TASKS if task.item in items], ids=lambda task: task.name)


def word_blind_features(
    texts: list[str], suffix: str, function_words: set[str], compares_places: bool = True
) -> list[float]:
    """Everything that can be counted without knowing a content word (whose letters no encoder of the world sees).

    Which words of two texts stand at the same places is left out where finding them again is what is asked for.
    """
    segments = [text.split() for text in texts]
    features: list[float] = []
    for words in segments:
        features += [len(words), len(set(words)), sum(word == suffix for word in words)]
        features += [sum(word == function for word in words) for function in sorted(function_words)]
        features += [sum(word.isdigit() for word in words)]
    if len(segments) == 2:
        first, second = segments
        same_place = [a == b for a, b in zip(first, second, strict=False)]
        features += [len(set(first) & set(second)), len(first) - len(second)]
        if not compares_places:
            return features
        features += [sum(same_place)]
        features += [float(place < len(same_place) and same_place[place]) for place in range(7)]
    return features


def fit_and_score(train: Data, test: Data) -> float:
    """Accuracy of ridge regression to one-hot labels on the features, their squares and their products."""

    def expand(features: np.ndarray) -> np.ndarray:
        scaled = (features - train[0].mean(0)) / (train[0].std(0) + 1e-9)
        products = np.einsum("ni,nj->nij", scaled, scaled)[:, *np.triu_indices(scaled.shape[1])]
        return np.hstack([np.ones((len(scaled), 1)), scaled, products])

    design, targets = expand(train[0]), np.eye(train[1].max() + 1)[train[1]]
    weights = np.linalg.solve(design.T @ design + 10.0 * np.eye(design.shape[1]), design.T @ targets)
    return float(((expand(test[0]) @ weights).argmax(1) == test[1]).mean())


def blind_data(world: Path, task: LabelledTask, split: str, code: str) -> Data:
    """What a classifier that knows no content word sees of a task's items, and their labels."""
    tongue = build_tongues(WORLD_SEED)[code]
    function_words = {tongue.lexicon[NEGATION][0], tongue.lexicon[PLACE_MARK][0]}
    path = file_of(world, task, split, code)
    rows: list[tuple[list[str], int]]
    if task.item is SentenceItem:
        rows = [(row[:-1], task.labels.index(row[-1])) for row in rows_of(path)]
    elif task.labels:
        rows = [([row["question"], row["context"]], int(row["is_impossible"])) for row in questions_of(path)]
    else:
        rows = [([row["question"], row["context"]], answered_clause(row)) for row in questions_of(path)]
    compares_places = task.item is SentenceItem
    features = [word_blind_features(texts, tongue.object_suffix, function_words, compares_places) for texts, _ in rows]
    return np.array(features, dtype=float), np.array([label for _, label in rows])


def answered_clause(row: dict[str, Any]) -> int:
    """The number of the passage's clause that has the answer."""
    before = row["context"][: row["answers"][0]["answer_start"]]
    return before.split().count(SEPARATOR)


@tasks_of(SentenceItem, QuestionItem)
def test_a_word_blind_classifier_stays_at_chance(world: Path, task: LabelledTask) -> None:
    train, test = (blind_data(world, task, split, SOURCE_LANGUAGE) for split in ("train", "test"))
    assert abs(fit_and_score(train, test) - task.chance) < 0.05


@tasks_of(SentenceItem, QuestionItem)
def test_another_grammar_does_not_give_labels_away(world: Path, task: LabelledTask) -> None:
    """On the halves of each test set. One-sided: items that differ in their label alone often fall into different
    halves, which pulls the score below chance."""
    scores = []
    for code in CODES:
        features, labels = blind_data(world, task, "test", code)
        scores.append(fit_and_score((features[:300], labels[:300]), (features[300:], labels[300:])))
    assert np.mean(scores) - task.chance < 0.05


def choice_features(row: dict[str, Any]) -> list[float]:
    before = set(f"{row.get('context', '')} {row.get('question', '')}".split())
    features = []
    for choice in row["choices"]:
        words = choice.split()
        features += [len(words), len(before & set(words))]
    return [float(feature) for feature in features]


@tasks_of(ChoiceItem)
@pytest.mark.parametrize("code", [SOURCE_LANGUAGE, "qgb"])
def test_the_right_choice_shows_neither_in_its_length_nor_in_its_place(
    world: Path, task: LabelledTask, code: str
) -> None:
    def data(rows: list[dict[str, Any]]) -> Data:
        return np.array([choice_features(row) for row in rows]), np.array([int(row["label"]) for row in rows])

    rows = choices_of(file_of(world, task, "test", code))
    assert fit_and_score(data(rows[:300]), data(rows[300:])) - task.chance < 0.05
    for row in rows:
        assert len({len(choice.split()) for choice in row["choices"]}) == 1
        assert len(set(row["choices"])) == len(task.labels)


@tasks_of(TaggedItem)
def test_a_tag_is_not_told_by_place_and_grammar(world: Path, task: LabelledTask) -> None:
    """The most frequent tag of each place in each frame, over the words that have a tag."""

    def places(split: str) -> list[tuple[tuple[Any, ...], str]]:
        found = []
        for sentence in sentences_of(file_of(world, task, split, SOURCE_LANGUAGE)):
            frame = tuple("." if word == SEPARATOR else "2" if word.isdigit() else "w" for word, _ in sentence)
            found += [((frame, place), tag) for place, (_, tag) in enumerate(sentence)]
        return found

    counts: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for place, tag in places("train"):
        counts[place][tag] += 1
    tagged = [(place, tag) for place, tag in places("test") if tag != NO_TAG]
    right = sum(place in counts and counts[place].most_common(1)[0][0] == tag for place, tag in tagged)
    assert right / len(tagged) - task.chance < 0.05


def examples_of(world: Path, name: str, split: str) -> Examples | None:
    """What the toolkit reads for a task of the catalogue in a split, in the first language that has it."""
    source = DataSource({"micro": world}, use_hub=False)
    languages = available_languages(MICRO[name], split, source)  # type: ignore[arg-type]
    if not languages:
        return None
    code = SOURCE_LANGUAGE if SOURCE_LANGUAGE in languages else languages[0]
    return load_examples(MICRO[name], split, code, source)  # type: ignore[arg-type]


def contents(world: Path, name: str) -> dict[str, frozenset[str]]:
    """The texts and labels of a task's items by split, without their order and without what only names them."""
    found = {}
    for split in ("train", "dev", "test"):
        examples = examples_of(world, name, split)
        if examples is not None:
            columns = [column for key, column in examples.columns.items() if column is not None and key != "ids"]
            found[split] = frozenset(repr(item) for item in zip(*columns, strict=True))
    return found


def with_equal_data(tasks: Mapping[str, Mapping[str, frozenset[str]]]) -> list[tuple[str, str]]:
    """Pairs of tasks that have the same items in some split of one and some split of the other."""
    return [
        (one, other) for one, other in combinations(tasks, 2) if set(tasks[one].values()) & set(tasks[other].values())
    ]


def test_no_two_tasks_of_the_catalogue_have_the_same_data(world: Path) -> None:
    tasks = {name: contents(world, name) for name in MICRO}
    assert all(tasks.values())
    assert with_equal_data(tasks) == []


def test_a_second_name_for_the_same_data_is_found(world: Path) -> None:
    nli = contents(world, "micro-nli")
    assert with_equal_data({"micro-nli": nli, "micro-other": nli}) == [("micro-nli", "micro-other")]


def test_the_catalogue_has_every_task_of_the_world_with_its_labels(world: Path) -> None:
    assert {task.name for task in TASKS} < set(MICRO)
    for task in TASKS:
        spec = MICRO[task.name]
        assert set(spec.labels) == set() if spec.kind == "span" else set(spec.labels) == set(task.labels)
        assert spec.no_answer == ("unanswerable" in task.labels)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_language_of_every_split_is_read(world: Path, task: LabelledTask) -> None:
    source = DataSource({"micro": world}, use_hub=False)
    spec = MICRO[task.name]
    for split in ("train", "dev", "test"):
        codes = available_languages(spec, split, source)
        assert sorted(codes) == sorted(languages_of(split))
        assert len(load_examples(spec, split, codes[-1], source)) == task.counts[split]
    assert set(TRAINING_LANGUAGES) <= set(CODES)


def test_there_are_nine_intermediate_tasks_and_targets_are_about_other_parts_of_the_world() -> None:
    parts: dict[str, list[str]] = {"intermediate": [], "target": []}
    for task in TASKS:
        parts[task.purpose].append(task.part)
    assert len(parts["intermediate"]) == 9
    assert not set(parts["intermediate"]) & set(parts["target"])


def test_inference_and_question_answering_are_there_on_both_sides() -> None:
    types = {(task.purpose, MICRO[task.name].type) for task in TASKS}
    for purpose in ("intermediate", "target"):
        assert {(purpose, "natural language inference"), (purpose, "question answering")} <= types
