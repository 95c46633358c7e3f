"""Writes a micro world to a folder, as plain files that the toolkit reads like any published data set."""

import json
import random
from pathlib import Path

from xlt_scale.collector import collector_paused
from xlt_scale.micro.concepts import NAMES, NUMBERS
from xlt_scale.micro.formats import write_items, write_lines
from xlt_scale.micro.items import SEPARATOR
from xlt_scale.micro.labelled import TASKS, sample_items
from xlt_scale.micro.languages import LANGUAGES, SOURCE_LANGUAGE, TRAINING_LANGUAGES, Clause, Tongue, build_tongues
from xlt_scale.micro.sentences import Habits, any_clause, coherent_text, draw, random_forms, split_of
from xlt_scale.micro.tokenizer import write_tokenizer

# Bump whenever the files of a seed change.
GENERATOR_VERSION = "5"

MONOLINGUAL_LINES = 1500
RETRIEVAL_LINES = 300


def write_micro_world(folder: Path, world_seed: int) -> None:
    """Write the world of that seed below `folder`; the same seed gives the same bytes.

    Text without labels (monolingual, parallel) never holds a clause of the test split, so test and retrieval sentences
    are new to a pre-trained encoder.

    Raises:
        ValueError: the seed is negative.
    """
    if world_seed < 0:
        raise ValueError(f"world_seed is {world_seed}: give an integer of 0 or more")
    with collector_paused():
        _write(Path(folder), world_seed)


def _write(folder: Path, world_seed: int) -> None:
    tongues = build_tongues(world_seed)
    for code, tongue in tongues.items():
        write_lines(folder / "text" / f"{code}.txt", _monolingual(tongue, world_seed))
        if code != SOURCE_LANGUAGE:
            rows = _parallel(tongue, tongues[SOURCE_LANGUAGE], world_seed)
            write_lines(folder / "parallel" / f"{code}-{SOURCE_LANGUAGE}.tsv", rows)
    _write_labelled(folder, tongues, world_seed)
    _write_retrieval(folder, tongues, world_seed)
    vocabulary_size = write_tokenizer(folder / "tokenizer", _vocabulary(tongues))
    description = json.dumps(_describe(world_seed, vocabulary_size), indent=2)
    write_lines(folder / "world.json", [description])


def _monolingual(tongue: Tongue, world_seed: int) -> list[str]:
    rng = random.Random(f"{world_seed}/text/{tongue.language.code}")
    choose = random_forms(rng)
    habits = Habits(world_seed)
    lines: list[str] = []
    while len(lines) < MONOLINGUAL_LINES:
        clauses = coherent_text(rng, habits)
        if all(split_of(clause, world_seed) != "test" for clause in clauses):
            lines.append(f" {SEPARATOR} ".join(tongue.sentence(clause, choose) for clause in clauses))
    return lines


def _parallel(tongue: Tongue, source: Tongue, world_seed: int) -> list[str]:
    rng = random.Random(f"{world_seed}/parallel/{tongue.language.code}")
    choose = random_forms(rng)
    habits = Habits(world_seed)
    rows = []
    for _ in range(tongue.language.parallel_sentences):
        clause = draw(rng, world_seed, ("train", "dev"), lambda r: any_clause(r, habits))
        rows.append(f"{tongue.sentence(clause, choose)}\t{source.sentence(clause, choose)}")
    return rows


def _write_labelled(folder: Path, tongues: dict[str, Tongue], world_seed: int) -> None:
    """Every set in all of its languages: the same items in the same order, so that languages can be compared."""
    for task in TASKS:
        for split in task.counts:
            items = sample_items(task, split, world_seed)
            for code in tongues if split == "test" else TRAINING_LANGUAGES:
                rng = random.Random(f"{world_seed}/{task.name}/{split}/{code}")
                write_items(folder / task.name / f"{split}-{code}", items, tongues[code], rng)


def _write_retrieval(folder: Path, tongues: dict[str, Tongue], world_seed: int) -> None:
    rng = random.Random(f"{world_seed}/retrieval")
    habits = Habits(world_seed)
    clauses: list[Clause] = []
    while len(clauses) < RETRIEVAL_LINES:
        clause = draw(rng, world_seed, ("test",), lambda r: any_clause(r, habits))
        if clause not in clauses:
            clauses.append(clause)
    for code, tongue in tongues.items():
        if code == SOURCE_LANGUAGE:
            continue
        stem = f"retrieval.{code}-{SOURCE_LANGUAGE}"
        for side in (tongue, tongues[SOURCE_LANGUAGE]):
            choose = random_forms(random.Random(f"{world_seed}/retrieval/{side.language.code}"))
            path = folder / "retrieval" / f"{stem}.{side.language.code}"
            write_lines(path, (side.sentence(clause, choose) for clause in clauses))


def _vocabulary(tongues: dict[str, Tongue]) -> list[str]:
    words = {SEPARATOR, *NAMES, *NUMBERS}
    for tongue in tongues.values():
        words.update(form for forms in tongue.lexicon.values() for form in forms)
        if tongue.object_suffix:
            words.add(tongue.object_suffix)
    return sorted(words)


def _describe(world_seed: int, vocabulary_size: int) -> dict[str, object]:
    """The contents of world.json."""
    return {
        "generator_version": GENERATOR_VERSION,
        "world_seed": world_seed,
        "source_language": SOURCE_LANGUAGE,
        "training_languages": list(TRAINING_LANGUAGES),
        "vocabulary_size": vocabulary_size,
        "languages": {
            language.code: {
                "family": language.family,
                "cognates": language.cognates,
                "order": language.order,
                "monolingual_sentences": MONOLINGUAL_LINES,
                "parallel_sentences": language.parallel_sentences,
            }
            for language in LANGUAGES
        },
        "tasks": {
            task.name: {
                "purpose": task.purpose,
                "part_of_the_world": task.part,
                "labels": list(task.labels),
                "chance": task.chance,
                "counts": dict(task.counts),
                "description": task.description,
            }
            for task in TASKS
        },
        "retrieval": {"counts": {"test": RETRIEVAL_LINES}, "chance": 1 / RETRIEVAL_LINES},
    }
