"""The tokenised data that the phases of a run will look up, as pieces that can be made beforehand."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from xlt_scale.config import PhaseOptions
from xlt_scale.data.prepare import DataPreparer
from xlt_scale.evaluation.scoring_plan import plan_scoring
from xlt_scale.tasks.examples import BitextExamples, Examples, RankingExamples, TextExamples
from xlt_scale.tasks.hub import where_read
from xlt_scale.tasks.layouts import FileLayout
from xlt_scale.tasks.loading import available_languages, find_origin, load_candidates
from xlt_scale.tasks.sources import code_of, companion, is_candidates
from xlt_scale.tasks.spec import Split, TaskSpec
from xlt_scale.training.setup import RunSetup, selection_task

Use = Literal["training", "selection", "scoring", "candidates"]


@dataclass(frozen=True)
class Piece:
    """One split of a task in one language, and what for; of candidates all languages at once ('')."""

    use: Use
    task: str
    split: Split
    language: str
    max_examples: int
    max_length: int


def pieces_of(setup: RunSetup, phase: PhaseOptions) -> Iterator[Piece]:
    """What a phase trains on, chooses checkpoints by and is scored on.

    Raises:
        UserError: data are missing.
    """
    length = phase.max_length
    for task in phase.tasks:
        for language in setup.training_languages(phase, task):
            yield Piece("training", task, phase.train_split, language, phase.max_examples, length)
    chooser = selection_task(setup, phase)
    if chooser is not None:
        yield Piece("selection", chooser.name, "dev", chooser.source_language, phase.evaluation_examples, length)
    specs = [setup.catalogue[name] for name in phase.evaluate]
    for task, (split, languages) in plan_scoring(specs, phase, None, setup.preparer.source).items():
        kind = setup.catalogue[task].kind
        if kind == "dual_encoding":
            yield Piece("candidates", task, split, "", 0, length)
        for language in languages:
            yield Piece("scoring", task, split, language, phase.evaluate_examples, length)
            if kind == "bitext_mining":
                yield Piece("scoring", task, "dev", language, phase.evaluate_examples, length)


def tokenize_piece(preparer: DataPreparer, spec: TaskSpec, piece: Piece) -> None:
    """Put the tokens of a piece into the cache, under the names by which a run looks them up.

    Raises:
        UserError: the data are missing or broken, or the cache cannot be written.
    """
    if piece.use == "candidates":
        source = preparer.source
        found = load_candidates(spec, piece.split, source, available_languages(spec, piece.split, source))
        preparer.tokenize_candidates(spec, found)
        return
    if piece.use == "training":
        preparer.training_data(spec, [piece.language], piece.max_examples, piece.split)
        return
    examples = preparer.examples(spec, piece.split, piece.language, piece.max_examples)
    if piece.use == "selection":
        _tokenize_selection(preparer, spec, examples)
    elif isinstance(examples, RankingExamples):
        preparer.tokenize_queries(spec, examples)
    elif isinstance(examples, BitextExamples):
        _tokenize_sides(preparer, spec, examples.texts, examples.source_texts)
    elif spec.kind == "retrieval":
        assert isinstance(examples, TextExamples) and examples.text_pairs is not None
        _tokenize_sides(preparer, spec, examples.texts, examples.text_pairs)
    else:
        preparer.tokenize(spec, examples)


def _tokenize_selection(preparer: DataPreparer, spec: TaskSpec, examples: Examples) -> None:
    if not examples.is_labelled:
        return
    if isinstance(examples, RankingExamples):
        if not examples.candidates:
            return
        preparer.tokenize_candidates(spec, examples)
        preparer.tokenize_queries(spec, examples)
    preparer.tokenize(spec, examples)


def _tokenize_sides(preparer: DataPreparer, spec: TaskSpec, *sides: list[str]) -> None:
    for texts in sides:
        preparer.tokenize(spec, TextExamples(list(texts)))


@dataclass(frozen=True)
class Origins:
    """What a piece was read from.

    Attributes:
        files: of the user's data root, or written by the micro benchmark's generator.
        hub: tables of hub data sets, with their notes.
        commits: of the hub data sets.
        revisions: that were asked for.
    """

    files: tuple[Path, ...] = ()
    hub: tuple[Path, ...] = ()
    commits: tuple[str, ...] = ()
    revisions: tuple[str, ...] = ()


def origins_of(preparer: DataPreparer, whole: TaskSpec, piece: Piece) -> Origins:
    """The files behind a piece that has been read."""
    files: list[Path] = []
    hub: list[Path] = []
    commits, revisions = [], []
    source = preparer.source
    for spec in whole.part_tasks or [whole]:
        if piece.use == "candidates":
            pools = [layout for layout in spec.files if is_candidates(layout) and layout.split == piece.split]
            files += [path for layout in pools for path in source.find_files(spec, layout, spec.source_language)]
            continue
        origin = find_origin(spec, piece.split, piece.language, source)
        if origin.layout is not None:
            files += origin.files
            code = code_of(spec, origin.layout, piece.language)
            files += [path for one in origin.files for path in _companions(one, origin.layout, code)]
        elif origin.hub is not None:
            found = where_read(origin.hub, code_of(spec, origin.hub, piece.language))
            hub += found.files if found else []
            commits += [found.commit] if found else []
            revisions.append(origin.hub.revision)
    return Origins(tuple(files), tuple(hub), tuple(commits), tuple(revisions))


def _companions(path: Path, layout: FileLayout, code: str) -> list[Path]:
    patterns = filter(None, (layout.pair_pattern, layout.gold_pattern))
    found = [companion(path, layout, pattern, code) for pattern in patterns]
    return [other for other in found if other.is_file()]


def identity_of(preparer: DataPreparer, spec: TaskSpec, piece: Piece) -> tuple[Any, ...]:
    """What two pieces have in common that become the same tokens: of a study's sizes, say, with one tokenizer."""
    source = preparer.source
    return (
        _tokenizer_digest(preparer.tokenizer),
        preparer.token_types,
        preparer.length_of(spec),
        str(sorted(source.roots.items())),
        (source.use_files, source.use_hub),
        spec.model_dump_json(),
        (piece.use, piece.task, piece.split, piece.language, piece.max_examples),
    )


@lru_cache(maxsize=64)
def _tokenizer_digest(tokenizer: Any) -> str:
    text = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else repr(tokenizer)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
