"""Examples of a task: from its published files or from the hub, in one language and split."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from xlt_scale.errors import UserError, nearest, reason
from xlt_scale.tasks.readers import Row, read_rows
from xlt_scale.tasks.spec import FileLayout, HubLayout, Split, TaskSpec

logger = logging.getLogger(__name__)

# Published collections are often sorted into these folders; a file directly below the root is found first.
_SUBFOLDERS = ("", "intermediate", "targets")


@dataclass
class Examples:
    """Columns of equal length; `labels` are class numbers, and None where the task has none."""

    texts: list[str] = field(default_factory=list)
    text_pairs: list[str] | None = None
    labels: list[int] | None = None
    num_dropped: int = 0

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class DataSource:
    """Where examples are looked for: folders by generator name ('' = published files), and perhaps the hub."""

    roots: dict[str, Path]
    use_files: bool = True
    use_hub: bool = True

    def find_file(self, spec: TaskSpec, layout: FileLayout, language: str) -> Path | None:
        """The file of that layout and language, if it is there."""
        root = self.roots.get(spec.generator)
        if root is None or not self.use_files:
            return None
        name = layout.pattern.replace("{language}", _code(spec, language))
        return next((path for sub in _SUBFOLDERS if (path := root / sub / name).is_file()), None)


def available_languages(spec: TaskSpec, split: Split, source: DataSource) -> list[str]:
    """Languages of the task that have a file for the split; all declared ones when only the hub could answer."""
    if spec.languages:
        with_files = [
            language
            for language in spec.languages
            if any(source.find_file(spec, layout, language) for layout in spec.files if layout.split == split)
        ]
        hub_has_split = any(split in hub.splits for hub in spec.hub)
        return with_files or (list(spec.languages) if hub_has_split and source.use_hub else [])
    root = source.roots.get(spec.generator)
    if root is None or not source.use_files:
        return []
    return sorted(
        {
            language
            for layout in spec.files
            if layout.split == split
            for sub in _SUBFOLDERS
            for language in _languages_of_files(root / sub, layout.pattern)
        }
    )


def _languages_of_files(folder: Path, pattern: str) -> list[str]:
    """What stands for {language} in the names of the files that match the pattern, every time the same."""
    before, *after = (re.escape(part) for part in pattern.split("{language}"))
    if not after:
        return []
    expression = re.compile(f"{before}(?P<language>[^/]+?){'(?P=language)'.join(after)}")
    paths = (path.relative_to(folder).as_posix() for path in folder.glob(pattern.replace("{language}", "*")))
    return [match["language"] for path in paths if (match := expression.fullmatch(path))]


def scored_split(spec: TaskSpec, source: DataSource, wanted: str = "auto") -> Split:
    """The split that is scored: the wanted one; else the declared one, or dev where only dev lies there as files."""
    if wanted == "dev" or wanted == "test":
        return "dev" if wanted == "dev" else "test"
    files_only = replace(source, use_hub=False)
    if spec.evaluation_split == "test" and not available_languages(spec, "test", files_only):
        has_other_source = source.use_hub and any("test" in hub.splits for hub in spec.hub)
        if available_languages(spec, "dev", files_only) or not has_other_source:
            return "dev"
    return spec.evaluation_split


def load_examples(spec: TaskSpec, split: Split, language: str, source: DataSource) -> Examples:
    """Every example of one split in one language, in published order.

    Rows whose label is declared as unlabelled are dropped and counted; any other unknown label is an error.

    Raises:
        UserError: no such split or language, nothing found, or a row is broken.
    """
    if spec.languages and language not in spec.languages:
        raise UserError(f"task {spec.name!r} has no language {language!r}; {nearest(language, spec.languages)}")
    tried: list[str] = []
    for layout in spec.files:
        if layout.split != split:
            continue
        path = source.find_file(spec, layout, language)
        if path is not None:
            return _collect(spec, read_rows(path, layout, _code(spec, language)), str(path))
        tried.append(layout.pattern.replace("{language}", _code(spec, language)))
    if source.use_hub:
        for hub in spec.hub:
            if split in hub.splits:
                return _collect(spec, _hub_rows(spec, hub, split, language), f"hub dataset {hub.dataset}")
    root = source.roots.get(spec.generator)
    if tried and root is None:
        mend = "set data.root or XLT_SCALE_DATA to the folder that holds it"
    elif tried:
        mend = f"looked for {' and '.join(tried)} below {root}"
    else:
        mend = f"the task has no {split} split"
    raise UserError(f"task {spec.name!r}: no {split} data in language {language!r}; {mend}")


def _code(spec: TaskSpec, language: str) -> str:
    return spec.language_codes.get(language, language)


def _collect(spec: TaskSpec, rows: Iterable[Row], place: str) -> Examples:
    classes = {label: number for number, label in enumerate(spec.labels)}
    classes |= {alias: classes[label] for alias, label in spec.label_aliases.items()}
    unlabelled = set(spec.unlabelled)
    examples = Examples()
    pairs: list[str] = []
    labels: list[int] = []
    for row in rows:
        if row.label is not None:
            if row.label in unlabelled:
                examples.num_dropped += 1
                continue
            if row.label not in classes:
                raise UserError(
                    f"{place}, line {row.line}: label {row.label!r} is not one of {', '.join(spec.labels)}; "
                    f"mend the row, or declare it in [tasks.{spec.name}] label_aliases or unlabelled"
                )
            labels.append(classes[row.label])
        examples.texts.append(row.text)
        if row.text_pair is not None:
            pairs.append(row.text_pair)
    if not examples.texts:
        raise UserError(f"{place}: no usable rows for task {spec.name!r} ({examples.num_dropped} without a label)")
    if examples.num_dropped:
        logger.info("%s: %d rows without a gold label dropped", place, examples.num_dropped)
    examples.text_pairs = pairs or None
    examples.labels = labels or None
    return examples


def _hub_rows(spec: TaskSpec, hub: HubLayout, split: Split, language: str) -> Iterable[Row]:
    table = _load_hub_dataset(hub.dataset, hub.config.replace("{language}", _code(spec, language)), hub.revision)
    name = hub.splits[split]
    if name not in table:
        raise UserError(f"hub dataset {hub.dataset}: no split {name!r}; {nearest(name, table)}")
    dataset = table[name]
    for column in filter(None, (hub.text, hub.text_pair, hub.label if spec.labels else "")):
        if column not in dataset.column_names:
            raise UserError(f"hub dataset {hub.dataset}: no column {column!r}; {nearest(column, dataset.column_names)}")
    # Whole columns: item by item a data set of this kind is read a hundred times slower.
    texts, pairs = dataset[hub.text][:], dataset[hub.text_pair][:] if hub.text_pair else None
    labels = dataset[hub.label][:] if spec.labels else None
    for number in range(len(dataset)):
        yield Row(
            line=number + 1,
            text=texts[number],
            text_pair=None if pairs is None else pairs[number],
            label=None if labels is None else str(labels[number]),
        )


@lru_cache(maxsize=64)
def _load_hub_dataset(name: str, config: str, revision: str):  # type: ignore[no-untyped-def]
    import datasets

    try:
        return datasets.load_dataset(name, config or None, revision=revision or None)
    except Exception as error:  # the library raises many kinds for "not there" and "no network"
        raise UserError(
            f"hub dataset {name!r}{f' ({config})' if config else ''} cannot be loaded: {reason(error)}; "
            "put its published files under data.root, or fetch it on a machine with a network"
        ) from None
