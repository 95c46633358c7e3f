"""From a run's data options to tokenised splits."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt_scale.config import DataOptions
from xlt_scale.data.build_once import build_folder_once
from xlt_scale.data.ranking_tokens import QUERY_MAX_LENGTH
from xlt_scale.data.tokenizing import tokenize
from xlt_scale.data.tokens import TokenizedData, concatenate
from xlt_scale.errors import UserError
from xlt_scale.tasks.examples import Examples, RankingExamples, TextExamples
from xlt_scale.tasks.loading import DataSource, available_languages, load_examples
from xlt_scale.tasks.spec import Split, TaskSpec


def cache_folder(options: DataOptions) -> Path:
    """Where tokenised data and generated worlds are kept."""
    return Path(options.cache).expanduser() if options.cache else Path.home() / ".cache" / "xlt_scale"


def data_source(options: DataOptions, uses_micro: bool) -> DataSource:
    """Where examples come from; writes the micro benchmark's world when a task needs it.

    Raises:
        UserError: the data root does not exist.
    """
    roots: dict[str, Path] = {}
    root = options.root or os.environ.get("XLT_SCALE_DATA", "")
    if root:
        roots[""] = Path(root).expanduser()
        if not roots[""].is_dir():
            key = "data.root" if options.root else "XLT_SCALE_DATA"
            raise UserError(f"{key} = {root!r} is not a folder; give the folder that holds the task files")
    if uses_micro:
        roots["micro"] = micro_world_folder(options)
    return DataSource(roots, use_files=options.source != "hub", use_hub=options.source != "files")


def micro_world_folder(options: DataOptions) -> Path:
    """The files of the micro benchmark's world, written when not there yet; safe for many processes at once."""
    from xlt_scale.micro import GENERATOR_VERSION, write_micro_world

    folder = cache_folder(options) / "micro" / f"world-{options.micro_world}-v{GENERATOR_VERSION}"
    return build_folder_once(folder, lambda temporary: write_micro_world(temporary, options.micro_world))


@dataclass(frozen=True)
class DataPreparer:
    """Loads and tokenises splits for one model.

    Attributes:
        max_length: tokens of a sequence, for tasks that declare none of their own.
        length: tokens of a sequence of any task, whatever it declares; 0 = as declared.
        token_types: whether the model has a second token type for the second sentence.
        max_positions: the longest sequence that the model reads; 0 = no limit.
    """

    source: DataSource
    tokenizer: Any
    max_length: int
    token_types: bool
    cache: Path
    max_positions: int = 0
    length: int = 0

    def training_languages(self, spec: TaskSpec, languages: Sequence[str], split: Split = "train") -> list[str]:
        """The languages that a task is trained in: those given, else its source language; masked language modelling
        takes every language that has training data.

        Raises:
            UserError: none is given, and there are no training data in any.
        """
        if languages:
            return list(languages)
        if spec.kind != "masked_language_modeling":
            return [spec.source_language]
        found = available_languages(spec, split, self.source)
        if not found:
            raise UserError(f"task {spec.name!r}: no training files; looked below {self._root(spec)}")
        return found

    def training_data(
        self, spec: TaskSpec, languages: Sequence[str], max_examples: int = 0, split: Split = "train"
    ) -> TokenizedData:
        """The training split in the given languages, one after another; in `training_languages` when none is given.

        Args:
            max_examples: of each language the first so many; 0 = all.
            split: the published split that is trained on.

        Raises:
            UserError: the data are missing or broken.
        """
        parts = []
        for language in self.training_languages(spec, languages, split):
            examples = self.examples(spec, split, language, max_examples)
            if spec.kind != "masked_language_modeling" and not examples.is_labelled:
                raise UserError(
                    f"task {spec.name!r}: the {split} data in {language!r} have no gold labels to learn from"
                )
            parts.append(self.tokenize(spec, examples))
        return concatenate(parts)

    def split(self, spec: TaskSpec, split: Split, language: str, max_examples: int = 0) -> TokenizedData:
        """One split in one language as tokens; of its examples the first `max_examples` when that is not 0."""
        return self.tokenize(spec, self.examples(spec, split, language, max_examples))

    def examples(self, spec: TaskSpec, split: Split, language: str, max_examples: int = 0) -> Examples:
        """One split in one language as it is published; its first `max_examples` when that is not 0."""
        examples: Examples = load_examples(spec, split, language, self.source)
        if max_examples and max_examples < len(examples):
            examples = examples.take(range(max_examples))
        return examples

    def tokenize(self, spec: TaskSpec, examples: Examples) -> TokenizedData:
        """Tokenise examples of a task, through the cache."""
        return tokenize(
            examples,
            self.tokenizer,
            self.length_of(spec),
            join_lines=spec.join_lines,
            token_types=self.token_types,
            stride=spec.stride,
            cache=self.cache,
        )

    def tokenize_queries(self, spec: TaskSpec, examples: RankingExamples) -> TokenizedData:
        """The queries of a ranking task for scoring: one sequence each, cut as in training."""
        return self._tokenize_texts(examples.queries, None, min(QUERY_MAX_LENGTH, self.length_of(spec)))

    def tokenize_candidates(self, spec: TaskSpec, examples: RankingExamples) -> TokenizedData:
        """The candidates of a ranking task for scoring: one sequence each, with its context, cut as in training."""
        return self._tokenize_texts(examples.candidates, examples.candidate_contexts, self.length_of(spec))

    def _tokenize_texts(self, texts: list[str], pairs: list[str] | None, max_length: int) -> TokenizedData:
        examples = TextExamples(texts, pairs)
        return tokenize(examples, self.tokenizer, max_length, token_types=self.token_types, cache=self.cache)

    def length_of(self, spec: TaskSpec) -> int:
        """Tokens of a sequence of this task.

        Raises:
            UserError: the task's are more than the model has positions.
        """
        wanted = self.length or spec.max_length
        if self.max_positions and wanted > self.max_positions:
            place = "the phase's max_length" if self.length else f"[tasks.{spec.name}] max_length"
            raise UserError(
                f"task {spec.name!r}: max_length = {wanted}, but the model has {self.max_positions} "
                f"positions; set {place} to {self.max_positions} or less"
            )
        return wanted or self.max_length

    def _root(self, spec: TaskSpec) -> str:
        return str(self.source.roots.get(spec.generator, "data.root (which is not set)"))
