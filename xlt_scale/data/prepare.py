"""From a run's data options to tokenised splits."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt_scale.config import DataOptions
from xlt_scale.data.build_once import build_folder_once
from xlt_scale.data.tokens import TokenizedData, concatenate, tokenize
from xlt_scale.errors import UserError
from xlt_scale.tasks.examples import DataSource, Examples, available_languages, load_examples
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
        token_types: whether the model has a second token type for the second sentence.
    """

    source: DataSource
    tokenizer: Any
    max_length: int
    token_types: bool
    cache: Path

    def training_data(self, spec: TaskSpec, languages: Sequence[str], max_examples: int) -> TokenizedData:
        """The training split in the given languages, one after another; all that have files when none is given.

        Raises:
            UserError: the data are missing or broken.
        """
        if not languages:
            languages = [spec.source_language] if spec.kind != "masked_language_modeling" else []
        languages = languages or available_languages(spec, "train", self.source)
        if not languages:
            raise UserError(f"task {spec.name!r}: no training files; looked below {self._root(spec)}")
        return concatenate([self.split(spec, "train", language, max_examples) for language in languages])

    def split(self, spec: TaskSpec, split: Split, language: str, max_examples: int = 0) -> TokenizedData:
        """One split in one language, its first `max_examples` when that is not 0."""
        examples = load_examples(spec, split, language, self.source)
        if max_examples:
            examples = Examples(
                examples.texts[:max_examples],
                None if examples.text_pairs is None else examples.text_pairs[:max_examples],
                None if examples.labels is None else examples.labels[:max_examples],
            )
        return self.tokenize(spec, examples)

    def tokenize(self, spec: TaskSpec, examples: Examples) -> TokenizedData:
        """Tokenise examples of a task, through the cache."""
        return tokenize(
            examples,
            self.tokenizer,
            self.max_length,
            join_lines=spec.join_lines,
            token_types=self.token_types,
            cache=self.cache,
        )

    def _root(self, spec: TaskSpec) -> str:
        return str(self.source.roots.get(spec.generator, "data.root (which is not set)"))
