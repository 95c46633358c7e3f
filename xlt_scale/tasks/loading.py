"""Examples of a task: from its published files or from the hub, in one language and split."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from xlt_scale.collector import collector_paused
from xlt_scale.errors import UserError, nearest
from xlt_scale.tasks.building import build_examples
from xlt_scale.tasks.entity_files import read_candidates
from xlt_scale.tasks.examples import BitextExamples, Examples, QuestionExamples, RankingExamples, join_examples
from xlt_scale.tasks.hub import read_hub, resolved_revision
from xlt_scale.tasks.layouts import Columns, FileLayout, HubLayout
from xlt_scale.tasks.ranking import pool_candidates
from xlt_scale.tasks.readers import read_file, read_tags
from xlt_scale.tasks.shares import take_share
from xlt_scale.tasks.sources import (
    DataSource,
    code_of,
    file_layouts,
    files_only,
    holds,
    hub_layouts,
    is_candidates,
    languages_with_data,
    published_split,
)
from xlt_scale.tasks.spec import Split, TaskSpec
from xlt_scale.tasks.unions import as_part

__all__ = [
    "DataSource",
    "Origin",
    "available_languages",
    "find_origin",
    "load_candidates",
    "load_examples",
    "scored_split",
    "with_labels",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What one split in one language is read from: files of one layout, or a hub data set."""

    files: tuple[Path, ...] = ()
    layout: FileLayout | None = None
    hub: HubLayout | None = None

    @property
    def revision(self) -> str:
        """The commit of the hub data set; '' for files, and where the hub cannot be asked."""
        return resolved_revision(self.hub.dataset, self.hub.revision) if self.hub else ""

    def __str__(self) -> str:
        if self.hub:
            return f"hub dataset {self.hub.dataset}"
        return str(self.files[0]) if len(self.files) == 1 else f"{self.files[0]} and {len(self.files) - 1} more"


def available_languages(spec: TaskSpec, split: Split, source: DataSource) -> list[str]:
    """Languages of the task that have a file for the split; all declared ones when only the hub could answer.

    Of a task that may be trained on translations, and of one without declared languages, those of the files' names; of
    a task of parts those that every part has.
    """
    if spec.part_tasks:
        first, *others = (available_languages(part, split, source) for part in spec.part_tasks)
        return [language for language in first if all(language in languages for languages in others)]
    return languages_with_data(spec, published_split(spec, split), source)


def scored_split(spec: TaskSpec, source: DataSource, wanted: str = "auto") -> Split:
    """The split that is scored: the wanted one; else the declared one, or dev where only dev lies there as files."""
    if wanted == "dev" or wanted == "test":
        return "dev" if wanted == "dev" else "test"
    alone = files_only(source)
    if spec.evaluation_split == "test" and not available_languages(spec, "test", alone):
        has_other_source = bool(hub_layouts(spec, published_split(spec, "test"), source))
        if available_languages(spec, "dev", alone) or not has_other_source:
            return "dev"
    return spec.evaluation_split


def load_examples(spec: TaskSpec, split: Split, language: str, source: DataSource) -> Examples:
    """Every example of one split in one language, in published order.

    Rows whose label is declared as unlabelled are dropped and counted, as are those that `drop_where` names; anything
    else that the task does not allow is an error.

    Raises:
        UserError: no such split or language, nothing found, or a row is broken.
    """
    if spec.parts:
        return _load_parts(spec, split, language, source)
    spec = with_labels(spec, source)
    if split in spec.split_shares:
        published = _load(spec, spec.shared_split, language, source, is_scored=split != "train")
        return take_share(spec, split, published)
    if spec.split_shares and split == spec.shared_split:
        shares = " and ".join(spec.split_shares)
        raise UserError(f"task {spec.name!r}: its {split} split is cut into {shares} by split_shares; use those")
    return _load(spec, split, language, source, is_scored=split != "train")


def find_origin(spec: TaskSpec, split: Split, language: str, source: DataSource) -> Origin:
    """What a split of a task without parts is read from.

    Raises:
        UserError: no such split or language, or nothing found.
    """
    split = published_split(spec, split)
    if spec.languages and language not in spec.languages and not (spec.translations and split == "train"):
        raise UserError(f"task {spec.name!r} has no language {language!r}; {nearest(language, spec.languages)}")
    layouts = file_layouts(spec, split)
    for layout in layouts:
        files = source.find_files(spec, layout, language)
        if files:
            return Origin(files=tuple(files), layout=layout)
    hubs = hub_layouts(spec, split, source)
    for hub in hubs:
        if holds(spec, hub, language):
            return Origin(hub=hub)
    tried = [
        layout.pattern.replace("{language}", code_of(spec, layout, language))
        for layout in layouts
        if holds(spec, layout, language)
    ]
    root = source.roots.get(spec.generator)
    if tried and source.use_files and all(PurePath(name).is_absolute() for name in tried):
        mend = f"there is no {', '.join(tried)}"
    elif tried and source.use_files and root is None:
        mend = "set data.root or XLT_SCALE_DATA to the folder that holds it"
    elif tried and source.use_files:
        mend = f"looked for {', '.join(tried)} below {root}"
    elif layouts or hubs:
        mend = "no layout of its files or of the hub is of that language"
    else:
        mend = f"the task has no {split} split"
    raise UserError(f"task {spec.name!r}: no {split} data in language {language!r}; {mend}")


@collector_paused()
def _load(spec: TaskSpec, split: Split, language: str, source: DataSource, is_scored: bool) -> Examples:
    origin = find_origin(spec, split, language, source)
    if origin.hub is not None:
        columns: Columns = origin.hub
        code = code_of(spec, columns, language)
        tables = enumerate(read_hub(origin.hub, split, code))
        found = [build_examples(spec, split, table, columns, _name(language, number), code) for number, table in tables]
    else:
        assert origin.layout is not None
        columns = origin.layout
        files = enumerate(origin.files)
        found = [read_file(spec, path, origin.layout, language, _name(language, number)) for number, path in files]
    examples = _join(found, str(origin))
    if columns.id is None and len(found) > 1:
        _number_anew(examples)
    if not len(examples):
        raise UserError(
            f"{origin}: no usable rows for task {spec.name!r} in language {language!r} ({examples.num_dropped} dropped)"
        )
    if examples.num_dropped:
        logger.info("%s: %d rows dropped: %s", origin, examples.num_dropped, _why(examples))
    if is_scored:
        _refuse_repeated_ids(examples, str(origin))
    return examples


def _name(language: str, number: int) -> str:
    """What the ids of the candidates of a split's files begin with."""
    return f"{language}.{number}" if number else language


def _number_anew(examples: Examples) -> None:
    """Rows that have no ids are named by their numbers, which each file begins anew."""
    if isinstance(examples, QuestionExamples) and examples.ids[0] == "0":
        examples.ids = [str(number) for number in range(len(examples))]
    elif isinstance(examples, RankingExamples) and examples.query_ids[0] == "0":
        examples.query_ids = [str(number) for number in range(len(examples))]


def _why(examples: Examples) -> str:
    if isinstance(examples, BitextExamples):
        return "sentences that occur again"
    return "without a gold label, or as the declaration says"


def _refuse_repeated_ids(examples: Examples, place: str) -> None:
    """Predictions are written by id, so that an id in a scored split must name one question."""
    if isinstance(examples, QuestionExamples | RankingExamples):
        ids = examples.ids if isinstance(examples, QuestionExamples) else examples.query_ids
        seen: set[str] = set()
        for name in ids if len(set(ids)) < len(ids) else ():
            if name in seen:
                raise UserError(f"{place}, question {name!r}: the id is there twice; give every question its own")
            seen.add(name)


def _load_parts(spec: TaskSpec, split: Split, language: str, source: DataSource) -> Examples:
    if not spec.part_tasks:
        raise UserError(f"task {spec.name!r}: its parts are not known; load it with the catalogue")
    found = [as_part(spec, part, load_examples(part, split, language, source)) for part in spec.part_tasks]
    return _join(found, f"task {spec.name!r}")


def _join(parts: Sequence[Examples], place: str) -> Examples:
    try:
        return join_examples(parts)
    except ValueError as error:
        raise UserError(f"{place}: {error}; give all of them the same columns") from None


def load_candidates(spec: TaskSpec, split: Split, source: DataSource, languages: Sequence[str]) -> RankingExamples:
    """The candidates of a ranking task in one pool, for queries of every language.

    Where the task has a file of candidates (format 'candidates', Mewsli-X), they are those, and there are no queries:
    the gold ids of the queries' own examples hold. Otherwise (LAReQA) they are the candidates of all the languages, and
    a query, named once by its id, has as gold ids those of every language.

    Raises:
        UserError: a language has no data, or candidates of two languages have one id.
    """
    for layout in spec.files:
        if is_candidates(layout) and layout.split == split:
            found = source.find_files(spec, layout, spec.source_language)
            if found:
                return pool_candidates([read_candidates(path, layout) for path in found], is_parallel=False)
    if not languages:
        raise UserError(f"task {spec.name!r}: no {split} data in any language to take candidates from")
    examples = [load_examples(spec, split, language, source) for language in languages]
    return pool_candidates([part for part in examples if isinstance(part, RankingExamples)], spec.parallel)


def with_labels(spec: TaskSpec, source: DataSource) -> TaskSpec:
    """The task with the tags of its source language's files as labels, sorted, where a tagging task declares none.

    Raises:
        UserError: there is no file to take them from.
    """
    if spec.kind != "tagging" or spec.labels or spec.parts:
        return spec
    tags: set[str] = set()
    for layout in spec.files:
        for path in source.find_files(spec, layout, spec.source_language):
            tags |= read_tags(spec, path, layout, spec.source_language)
    if not tags:
        raise UserError(
            f"task {spec.name!r}: no labels, and no files in language {spec.source_language!r} to take them from; "
            f"declare [tasks.{spec.name}] labels"
        )
    return spec.model_copy(update={"labels": sorted(tags)})
