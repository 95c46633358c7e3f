"""The micro benchmark: its files, its languages and its splits."""

import json
from collections import Counter
from pathlib import Path

import pytest
from micro_worlds import (
    CODES,
    WORLD_SEED,
    labels_of,
    languages_of,
    lines_of,
    rows_of,
    texts_of,
    written_world,
)
from transformers import AutoTokenizer

from xlt_scale.micro import GENERATOR_VERSION, LANGUAGES, SOURCE_LANGUAGE, TASKS, LabelledTask, write_micro_world
from xlt_scale.micro.concepts import CLASSES, TIMES, forms_in_english
from xlt_scale.micro.items import SEPARATOR
from xlt_scale.micro.labelled import sample_items
from xlt_scale.micro.languages import Tongue, build_tongues
from xlt_scale.micro.tokenizer import MAX_LENGTH
from xlt_scale.sizes import SIZES

EVERY_TASK = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


@pytest.fixture(scope="module")
def world() -> Path:
    return written_world()


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
        own, other = (
            {item.meaning for item in sample_items(task, "test", seed)} for seed in (WORLD_SEED, WORLD_SEED + 1)
        )
        assert len(own & other) < len(own) / 2


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


@EVERY_TASK
def test_every_label_occurs_equally_often(world: Path, task: LabelledTask) -> None:
    for split, count in task.counts.items():
        labels = labels_of(world, task, split, SOURCE_LANGUAGE)
        assert len(labels) == count
        if not isinstance(labels[0], list):
            occurrences = Counter(labels).values()
            assert max(occurrences) == min(occurrences)
            assert len(occurrences) == max(1, len(task.labels))


@EVERY_TASK
def test_rows_are_the_same_items_in_every_language(world: Path, task: LabelledTask) -> None:
    for split in task.counts:
        source, *others = (labels_of(world, task, split, code) for code in languages_of(split))
        assert all(labels == source for labels in others)


def test_training_data_are_there_in_near_and_far_languages() -> None:
    families = {language.code: language.family for language in LANGUAGES}
    assert [families[code] for code in languages_of("train")] == ["e", "e", "f", "g"]


def concepts_of(tongue: Tongue) -> dict[str, str]:
    return {form: concept for concept, forms in tongue.lexicon.items() for form in forms}


def meaning(text: str, concepts: dict[str, str], suffix: str) -> tuple[str, ...]:
    """What a sentence says, whatever its language, order and choice of synonyms: its concepts, sorted.

    Coarser than the meaning itself (who did it to whom is lost), so it is used only where roles cannot be swapped.
    """
    return tuple(sorted(concepts.get(word, word) for word in text.split() if word != suffix))


@EVERY_TASK
def test_rows_mean_the_same_in_every_language(world: Path, task: LabelledTask) -> None:
    tongues = build_tongues(WORLD_SEED)
    for split in ("dev", "test"):
        meanings = []
        for code in languages_of(split):
            concepts, suffix = concepts_of(tongues[code]), tongues[code].object_suffix
            rows = texts_of(world, task, split, code)
            meanings.append([[meaning(text, concepts, suffix) for text in row] for row in rows])
        assert all(other == meanings[0] for other in meanings)


def ordered_meanings(text: str, concepts: dict[str, str]) -> set[tuple[str, ...]]:
    """What the sentences of a text of the source language say; only the time may move."""
    sentences = [[concepts.get(word, word) for word in part.split()] for part in text.split(SEPARATOR)]
    return {tuple(sorted(words, key=lambda word: word in TIMES)) for words in sentences if words}


def test_no_test_sentence_occurs_in_training_data(world: Path) -> None:
    """In the source language; in the others it is the same items."""
    concepts = concepts_of(build_tongues(WORLD_SEED)[SOURCE_LANGUAGE])

    def meanings(task: LabelledTask, split: str) -> set[tuple[str, ...]]:
        found: set[tuple[str, ...]] = set()
        for row in texts_of(world, task, split, SOURCE_LANGUAGE):
            # Choices are words and phrases, which are no sentences.
            for text in row[:2]:
                found |= ordered_meanings(text, concepts)
        return found

    test: set[tuple[str, ...]] = set()
    train: set[tuple[str, ...]] = set()
    for task in TASKS:
        test |= meanings(task, "test")
        train |= meanings(task, "train") | meanings(task, "dev")
    for code in CODES[1:]:
        for line in lines_of(world / "retrieval" / f"retrieval.{code}-{SOURCE_LANGUAGE}.{SOURCE_LANGUAGE}"):
            test |= ordered_meanings(line, concepts)
        for row in rows_of(world / "parallel" / f"{code}-{SOURCE_LANGUAGE}.tsv"):
            train |= ordered_meanings(row[1], concepts)
    for line in lines_of(world / "text" / f"{SOURCE_LANGUAGE}.txt"):
        train |= ordered_meanings(line, concepts)
    assert len(test) > 5000
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


def test_every_text_is_known_to_the_tokenizer_and_short_enough(world: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "tokenizer")
    texts = {line for path in world.glob("text/*.txt") for line in lines_of(path)}
    for task in TASKS:
        for code in CODES:
            texts |= {" ".join(row) for row in texts_of(world, task, "test", code)}
    # Two texts have four special tokens; all choices of an item count here, though they are read one by one.
    lengths = []
    for ids in tokenizer(sorted(texts))["input_ids"]:
        assert tokenizer.unk_token_id not in ids
        lengths.append(len(ids) + 2)
    assert max(lengths) <= MAX_LENGTH


def test_the_vocabulary_fits_the_micro_sizes(world: Path) -> None:
    vocabulary_size = json.loads((world / "world.json").read_text(encoding="utf-8"))["vocabulary_size"]
    sizes = [size for name, size in SIZES.items() if name.startswith("micro-")]
    assert [size.hidden_size for size in sizes] == [32, 64, 96, 128]
    assert all(vocabulary_size <= size.vocab_size and size.vocab_size % 64 == 0 for size in sizes)
