"""The micro benchmark: its files, its splits, and that its labels cannot be guessed without knowing the words."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from xlt_scale.micro import GENERATOR_VERSION, LANGUAGES, SOURCE_LANGUAGE, TASKS, write_micro_world
from xlt_scale.micro.concepts import CLASSES, NEGATION, PLACE_MARK, TIMES, forms_in_english
from xlt_scale.micro.labelled import LabelledTask, sample_items
from xlt_scale.micro.languages import Tongue, build_tongues

CODES = [language.code for language in LANGUAGES]
WORLD_SEED = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_micro_world(folder, WORLD_SEED)
    return folder


def rows_of(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def every_file(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_same_seed_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    write_micro_world(tmp_path, WORLD_SEED)
    assert every_file(world) == every_file(tmp_path)


def test_another_seed_gives_another_world() -> None:
    here, there = build_tongues(WORLD_SEED), build_tongues(WORLD_SEED + 1)
    for code in CODES[1:]:
        assert here[code].lexicon != there[code].lexicon
    for task in TASKS:
        shared = set(sample_items(task, "test", WORLD_SEED)) & set(sample_items(task, "test", WORLD_SEED + 1))
        assert len(shared) < task.counts["test"] / 2


def test_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        write_micro_world(tmp_path, -1)


def test_files_are_those_that_world_json_tells_of(world: Path) -> None:
    description = json.loads((world / "world.json").read_text(encoding="utf-8"))
    assert description["generator_version"] == GENERATOR_VERSION
    assert description["world_seed"] == WORLD_SEED
    assert list(description["languages"]) == CODES
    for code, facts in description["languages"].items():
        assert len(rows_of(world / "text" / f"{code}.txt")) == facts["monolingual_sentences"]
        if code != SOURCE_LANGUAGE:
            parallel = rows_of(world / "parallel" / f"{code}-{SOURCE_LANGUAGE}.tsv")
            assert len(parallel) == facts["parallel_sentences"]
            assert {len(row) for row in parallel} == {2}
            for side in (code, SOURCE_LANGUAGE):
                retrieval = rows_of(world / "retrieval" / f"retrieval.{code}-{SOURCE_LANGUAGE}.{side}")
                assert len(retrieval) == description["retrieval"]["counts"]["test"]
    for name, facts in description["tasks"].items():
        assert facts["chance"] == pytest.approx(1 / len(facts["labels"]))
        for split, count in facts["counts"].items():
            for code in CODES if split == "test" else [SOURCE_LANGUAGE]:
                rows = rows_of(world / name / f"{split}-{code}.tsv")
                assert len(rows) == count
                assert Counter(row[-1] for row in rows) == dict.fromkeys(facts["labels"], count // len(facts["labels"]))


@pytest.mark.parametrize("task", [task.name for task in TASKS])
def test_test_rows_are_the_same_items_in_every_language(world: Path, task: str) -> None:
    labels = {code: [row[-1] for row in rows_of(world / task / f"test-{code}.tsv")] for code in CODES}
    assert all(labels[code] == labels[SOURCE_LANGUAGE] for code in CODES)


def concepts_of(tongue: Tongue) -> dict[str, str]:
    return {form: concept for concept, forms in tongue.lexicon.items() for form in forms}


def meaning(text: str, concepts: dict[str, str], suffix: str) -> tuple[str, ...]:
    """What a sentence says, whatever its language, order and choice of synonyms: its concepts, sorted.

    Coarser than the meaning itself (who did it to whom is lost), so it is used only where roles cannot be swapped.
    """
    return tuple(sorted(concepts.get(word, word) for word in text.split() if word != suffix))


@pytest.mark.parametrize("task", [task.name for task in TASKS])
def test_rows_mean_the_same_in_every_language(world: Path, task: str) -> None:
    tongues = build_tongues(WORLD_SEED)
    meanings = {}
    for code, tongue in tongues.items():
        concepts = concepts_of(tongue)
        rows = rows_of(world / task / f"test-{code}.tsv")
        meanings[code] = [[meaning(text, concepts, tongue.object_suffix) for text in row[:-1]] for row in rows]
    assert all(meanings[code] == meanings[SOURCE_LANGUAGE] for code in CODES)


def ordered_meaning(text: str, concepts: dict[str, str]) -> tuple[str, ...]:
    """What a sentence of the source language says; only the time may move."""
    words = [concepts.get(word, word) for word in text.split()]
    return tuple(sorted(words, key=lambda word: word in TIMES))


def test_no_test_sentence_occurs_in_training_data(world: Path) -> None:
    concepts = concepts_of(build_tongues(WORLD_SEED)[SOURCE_LANGUAGE])

    def meanings(path: Path, columns: slice) -> set[tuple[str, ...]]:
        return {ordered_meaning(text, concepts) for row in rows_of(path) for text in row[columns]}

    test: set[tuple[str, ...]] = set()
    train: set[tuple[str, ...]] = set()
    for task in TASKS:
        test |= meanings(world / task.name / f"test-{SOURCE_LANGUAGE}.tsv", slice(0, -1))
        train |= meanings(world / task.name / f"train-{SOURCE_LANGUAGE}.tsv", slice(0, -1))
        train |= meanings(world / task.name / f"dev-{SOURCE_LANGUAGE}.tsv", slice(0, -1))
    for code in CODES[1:]:
        test |= meanings(world / "retrieval" / f"retrieval.{code}-{SOURCE_LANGUAGE}.{SOURCE_LANGUAGE}", slice(None))
        train |= meanings(world / "parallel" / f"{code}-{SOURCE_LANGUAGE}.tsv", slice(1, None))
    for line in (world / "text" / f"{SOURCE_LANGUAGE}.txt").read_text(encoding="utf-8").splitlines():
        train |= {ordered_meaning(sentence, concepts) for sentence in line.split(" . ")}
    assert len(test) > 2000
    assert not test & train


def test_cognate_shares_and_grammar_are_those_of_the_table() -> None:
    tongues = build_tongues(WORLD_SEED)
    slots = [
        (concept, form) for words in CLASSES for concept in words for form in range(len(forms_in_english(concept)))
    ]
    for language in LANGUAGES:
        lexicon = tongues[language.code].lexicon
        shared = sum(lexicon[concept][form] == forms_in_english(concept)[form] for concept, form in slots)
        assert shared / len(slots) == pytest.approx(language.cognates, abs=0.01)
        forms = [form for concept_forms in lexicon.values() for form in concept_forms]
        assert len(set(forms)) == len(forms)


def test_tokenizer_loads_and_lays_sequences_out_as_xlm_r_does(world: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "tokenizer")
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert (tokenizer.bos_token, tokenizer.pad_token, tokenizer.eos_token) == ("<s>", "<pad>", "</s>")
    assert len(tokenizer) < 1000
    first, second, _ = rows_of(world / "micro-nli" / "test-qgb.tsv")[0]
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(first, second)["input_ids"])
    assert pieces == ["<s>", *first.split(), "</s>", "</s>", *second.split(), "</s>"]
    assert tokenizer.decode(tokenizer(first)["input_ids"], skip_special_tokens=True) == first
    masked = tokenizer(f"{first} <mask>")["input_ids"]
    assert masked[-2] == tokenizer.mask_token_id
    for path in [*world.glob("text/*.txt"), *world.glob("micro-*/test-*.tsv")]:
        texts = [" ".join(row[:2]) if len(row) > 2 else row[0] for row in rows_of(path)]
        assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(texts)["input_ids"])


def word_blind_features(texts: list[str], suffix: str, function_words: set[str]) -> list[float]:
    """Everything that can be counted without knowing a content word (whose letters no encoder of the world sees)."""
    segments = [text.split() for text in texts]
    features: list[float] = []
    for words in segments:
        features += [len(words), len(set(words)), sum(word == suffix for word in words)]
        features += [sum(word == function for word in words) for function in sorted(function_words)]
        features += [sum(word.isdigit() for word in words)]
    if len(segments) == 2:
        first, second = segments
        same_place = [a == b for a, b in zip(first, second, strict=False)]
        features += [len(set(first) & set(second)), len(first) - len(second), sum(same_place)]
        features += [float(place < len(same_place) and same_place[place]) for place in range(7)]
    return features


def fit_and_score(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Accuracy of ridge regression to one-hot labels on the features, their squares and their products."""

    def expand(features: np.ndarray) -> np.ndarray:
        scaled = (features - train[0].mean(0)) / (train[0].std(0) + 1e-9)
        products = np.einsum("ni,nj->nij", scaled, scaled)[:, *np.triu_indices(scaled.shape[1])]
        return np.hstack([np.ones((len(scaled), 1)), scaled, products])

    design, targets = expand(train[0]), np.eye(train[1].max() + 1)[train[1]]
    weights = np.linalg.solve(design.T @ design + 10.0 * np.eye(design.shape[1]), design.T @ targets)
    return float(((expand(test[0]) @ weights).argmax(1) == test[1]).mean())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_word_blind_classifier_stays_at_chance(world: Path, task: LabelledTask) -> None:
    tongues = build_tongues(WORLD_SEED)

    def data(split: str, code: str, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        lexicon = tongues[code].lexicon
        function_words = {lexicon[NEGATION][0], lexicon[PLACE_MARK][0]}
        table = rows_of(world / task.name / f"{split}-{code}.tsv")[rows]
        features = [word_blind_features(row[:-1], tongues[code].object_suffix, function_words) for row in table]
        return np.array(features, dtype=float), np.array([task.labels.index(row[-1]) for row in table])

    score = fit_and_score(data("train", SOURCE_LANGUAGE, slice(None)), data("test", SOURCE_LANGUAGE, slice(None)))
    assert abs(score - task.chance) < 0.05
    # A label might leak through another grammar: the same in each language, on the halves of its test set. One-sided:
    # items that differ in their label alone often fall into different halves, which pulls the score below chance.
    within = [fit_and_score(data("test", code, slice(0, 300)), data("test", code, slice(300, 600))) for code in CODES]
    assert np.mean(within) - task.chance < 0.05
