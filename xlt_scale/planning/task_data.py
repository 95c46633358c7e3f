"""How much a phase trains on: numbers of examples and their lengths, from the data where they are here."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xlt_scale.config import PhaseOptions, RunOptions
from xlt_scale.data.prepare import DataPreparer, cache_folder, data_source, micro_world_folder
from xlt_scale.errors import UserError
from xlt_scale.planning.published import training_examples, typical_lengths
from xlt_scale.planning.workload import Lengths
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.loading import DataSource, available_languages, load_examples
from xlt_scale.tasks.spec import TaskSpec

_SAMPLE = 4096

Reads = Literal["tokens", "counts", "nothing"]
"""How data are looked at."""


@dataclass(frozen=True)
class TaskData:
    """A task as a phase trains it, over all its training languages."""

    num_examples: int
    lengths: Lengths


@dataclass
class DataFacts:
    """The data of a run's tasks, looked at once each.

    Attributes:
        reads: 'tokens' counts examples and tokenises a sample of them, 'counts' only counts, 'nothing' takes published
            counts; lengths are typical ones where no tokens are read.
        notes: what had to be assumed, once each.
    """

    run: RunOptions
    reads: Reads = "tokens"
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._known: dict[tuple[Any, ...], TaskData] = {}

    @cached_property
    def catalogue(self) -> dict[str, TaskSpec]:
        return load_catalogue(self.run.tasks)

    def of(self, phase: PhaseOptions, task: str) -> TaskData:
        """The training data of one of the phase's tasks."""
        spec = self.catalogue[task]
        languages = phase.languages_of(task) or self._default_languages(spec, phase)
        parts = [self._of_language(phase, spec, language) for language in languages]
        total = sum(part.num_examples for part in parts)
        return TaskData(total, mixed([(part.num_examples, part.lengths) for part in parts]))

    def length_of(self, spec: TaskSpec, phase: PhaseOptions) -> int:
        """Tokens of a sequence at most."""
        return phase.max_length or spec.max_length or self.run.model.max_length

    def note(self, text: str) -> None:
        """Keep what is assumed, for whoever reads the plan."""
        if text not in self.notes:
            self.notes.append(text)

    def _default_languages(self, spec: TaskSpec, phase: PhaseOptions) -> list[str]:
        if spec.kind != "masked_language_modeling" or self.reads == "nothing":
            return [spec.source_language]
        try:
            return available_languages(spec, phase.train_split, self._source(spec)) or [spec.source_language]
        except (UserError, OSError):
            return [spec.source_language]

    def _of_language(self, phase: PhaseOptions, spec: TaskSpec, language: str) -> TaskData:
        longest = self.length_of(spec, phase)
        key = (spec.name, language, phase.train_split, longest, phase.max_examples)
        if key not in self._known:
            self._known[key] = self._look_at(phase, spec, language, longest)
        return self._known[key]

    def _look_at(self, phase: PhaseOptions, spec: TaskSpec, language: str, longest: int) -> TaskData:
        typical = typical_lengths(spec, longest)
        try:
            if self.reads == "nothing":
                raise UserError("not asked for")
            source = self._source(spec)
            if not source.use_files or language not in available_languages(spec, phase.train_split, source):
                raise UserError("no file")
            examples = load_examples(spec, phase.train_split, language, DataSource(source.roots, True, False))
        except (UserError, OSError):
            count, how = training_examples(spec)
            where = "not looked at" if self.reads == "nothing" else "not on this machine"
            self.note(f"{spec.name} {language}: {where}; {how}, of typical lengths")
            return TaskData(min(count, phase.max_examples or count), typical)
        count = min(len(examples), phase.max_examples or len(examples))
        preparer = self._preparer(source, longest) if self.reads == "tokens" else None
        if preparer is None:
            if self.reads == "tokens":
                self.note(f"{spec.name} {language}: lengths are typical ones, as the tokenizer is not on this machine")
            return TaskData(count, typical)
        stride = max(1, count // _SAMPLE)
        sample = preparer.tokenize(spec, examples.take(range(0, count, stride)))
        num_sampled = len(range(0, count, stride))
        squares = np.diff(sample.offsets).astype(np.float64) ** 2
        return TaskData(
            # Long texts are cut into several examples, short lines joined into one.
            num_examples=max(1, round(len(sample) * count / num_sampled)),
            lengths=Lengths(
                mean=float(sample.lengths.mean()),
                mean_square=float(squares.sum() / len(sample)),
                longest=int(sample.lengths.max()),
                padding=_padding(sample.padded_lengths, sample.lengths, phase.batch_size),
            ),
        )

    def _source(self, spec: TaskSpec) -> DataSource:
        return data_source(self.run.data, uses_micro=spec.generator == "micro")

    def _preparer(self, source: DataSource, longest: int) -> DataPreparer | None:
        tokenizer = self._tokenizer
        if tokenizer is None:
            return None
        return DataPreparer(source, tokenizer, longest, False, cache_folder(self.run.data), length=longest)

    @cached_property
    def _tokenizer(self) -> Any:
        """The run's tokenizer where its files are here; a plan fetches nothing."""
        folder = self._tokenizer_folder()
        if folder is None:
            return None
        from xlt_scale.modeling.tokenizer import load_tokenizer

        return load_tokenizer(str(folder))

    def _tokenizer_folder(self) -> Path | None:
        model = self.run.model
        name = model.tokenizer or model.name
        if name == "micro":
            return micro_world_folder(self.run.data) / "tokenizer"
        if Path(name).is_dir():
            return Path(name)
        from huggingface_hub import try_to_load_from_cache

        revision = model.revision if name == model.name else ""
        try:
            found = try_to_load_from_cache(name, "tokenizer.json", revision=revision or None)
        except ValueError:
            # 'train:NUMBER' and the like are no name that the hub could have.
            return None
        return Path(found).parent if isinstance(found, str) else None


def mixed(parts: list[tuple[float, Lengths]]) -> Lengths:
    """Lengths of several kinds of examples, each with its weight."""
    total = sum(weight for weight, _ in parts) or 1.0
    shares = [(weight / total, lengths) for weight, lengths in parts]
    mean = sum(share * lengths.mean for share, lengths in shares)
    return Lengths(
        mean=mean,
        mean_square=sum(share * lengths.mean_square for share, lengths in shares),
        longest=max(lengths.longest for _, lengths in parts),
        padding=sum(share * lengths.mean * lengths.padding for share, lengths in shares) / mean,
    )


def _padding(padded: np.ndarray, lengths: np.ndarray, batch_size: int) -> float:
    """Tokens of padded batches of neighbouring examples per real token."""
    whole = len(lengths) // batch_size * batch_size
    if not whole:
        return float(padded.max() * len(lengths) / lengths.sum())
    longest = padded[:whole].reshape(-1, batch_size).max(axis=1)
    return float(longest.sum() * batch_size / lengths[:whole].sum())
