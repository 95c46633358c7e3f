"""Where the examples of a task lie: its files below the data root, or the hub, by language and split."""

import glob
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from xlt_scale.tasks.layouts import Columns, FileLayout, HubLayout
from xlt_scale.tasks.spec import Split, TaskSpec

# Published collections are often sorted into these folders; a file directly below the root is found first.
_SUBFOLDERS = ("", "intermediate", "targets")

# A language's code or name, perhaps with a script or country (zh_Hant, pt-BR).
_CODE = "[A-Za-z]{2,}?(?:[-_][A-Za-z]{2,4})*?"


@dataclass(frozen=True)
class DataSource:
    """Where examples are looked for: folders by generator name ('' = published files), and perhaps the hub."""

    roots: dict[str, Path]
    use_files: bool = True
    use_hub: bool = True

    def find_files(self, spec: TaskSpec, layout: FileLayout, language: str) -> list[Path]:
        """The files of that layout and language, in the order of their sorted paths; [] when there are none."""
        if not self.use_files or not holds(spec, layout, language):
            return []
        name = layout.pattern.replace("{language}", code_of(spec, layout, language))
        for folder in self.folders(spec, layout):
            if "*" in name:
                found = sorted(path for path in _expand(folder, name) if path.is_file())
                if found:
                    return found
            elif (folder / name).is_file():
                return [folder / name]
        return []

    def folders(self, spec: TaskSpec, layout: FileLayout) -> list[Path]:
        """Where the layout's pattern is looked for, the first place first; [] when no data root is set."""
        if PurePath(layout.pattern).is_absolute():
            return [Path()]
        root = self.roots.get(spec.generator)
        return [] if root is None else [root / folder for folder in _SUBFOLDERS]


def companion(path: Path, layout: FileLayout, pattern: str, code: str) -> Path:
    """The file that goes with another one of the layout: its pattern starts from the folder where that was found."""
    depth = len(PurePath(layout.pattern).parts)
    folder = Path() if PurePath(layout.pattern).is_absolute() else path.parents[depth - 1]
    return folder / pattern.replace("{language}", code)


def code_of(spec: TaskSpec, layout: Columns, language: str) -> str:
    """What {language} stands for in a layout of the task."""
    return layout.language_codes.get(language) or spec.language_codes.get(language, language)


def holds(spec: TaskSpec, layout: Columns, language: str) -> bool:
    """Whether a layout has examples of that language: it says so, or it is of the task's source language.

    A layout that names no language holds the source language alone (or the only declared one), so that English files
    are never taken for another language's.
    """
    if layout.languages or layout.has(language):
        return layout.has(language)
    return language == spec.source_language or spec.languages == [language]


def is_candidates(layout: FileLayout) -> bool:
    """Whether the layout is of candidates, which are no examples."""
    return layout.format == "candidates"


def file_layouts(spec: TaskSpec, split: Split) -> list[FileLayout]:
    """The layouts of a split's examples."""
    return [layout for layout in spec.files if layout.split == split and not is_candidates(layout)]


def hub_layouts(spec: TaskSpec, split: Split, source: DataSource) -> list[HubLayout]:
    """The hub data sets that have the split; none when the hub may not be asked."""
    return [hub for hub in spec.hub if split in hub.splits] if source.use_hub else []


def published_split(spec: TaskSpec, split: Split) -> Split:
    """The split that is read for one of ours: another one where `split_shares` cuts it."""
    return spec.shared_split if split in spec.split_shares else split


def languages_with_data(spec: TaskSpec, split: Split, source: DataSource) -> list[str]:
    """Languages of a task without parts that have a file for the published split; see `available_languages`."""
    layouts = file_layouts(spec, split)
    if spec.languages:
        found = [
            language
            for language in spec.languages
            if any(source.find_files(spec, layout, language) for layout in layouts)
        ]
        if not found:
            hubs = hub_layouts(spec, split, source)
            found = [language for language in spec.languages if any(holds(spec, hub, language) for hub in hubs)]
        if spec.translations and split == "train":
            found += sorted(_languages_of_names(spec, source, layouts) - set(spec.languages))
        return found
    names = _languages_of_names(spec, source, layouts)
    others = [layout for layout in layouts if "{language}" not in layout.pattern]
    if any(source.find_files(spec, layout, spec.source_language) for layout in others):
        names.add(spec.source_language)
    if not names and any(not hub.has(spec.source_language) for hub in hub_layouts(spec, split, source)):
        names.add(spec.source_language)
    return sorted(names)


def _languages_of_names(spec: TaskSpec, source: DataSource, layouts: list[FileLayout]) -> set[str]:
    """The languages that the names of the files say."""
    if not source.use_files:
        return set()
    names_of_codes = {code: language for language, code in spec.language_codes.items()}
    found: set[str] = set()
    for layout in layouts:
        own = {code: language for language, code in layout.language_codes.items()}
        codes = {code for folder in source.folders(spec, layout) for code in _codes(folder, layout.pattern)}
        found |= {own.get(code) or names_of_codes.get(code, code) for code in codes}
        if layout.languages:
            found &= set(layout.languages)
    return found


def _codes(folder: Path, pattern: str) -> list[str]:
    """What stands for {language} in the names of the files that match the pattern, every time the same."""
    if "{language}" not in pattern:
        return []
    # A file name has other things in a language's place too: squad/train-v1.1.json beside squad/train-de.json.
    before, *after = (re.escape(part).replace(r"\*", "[^/]*") for part in pattern.split("{language}"))
    expression = re.compile(f"{before}(?P<language>{_CODE}){'(?P=language)'.join(after)}")
    paths = _expand(folder, pattern.replace("{language}", "*"))
    names = (
        path.as_posix() if PurePath(pattern).is_absolute() else path.relative_to(folder).as_posix() for path in paths
    )
    return [match["language"] for name in names if (match := expression.fullmatch(name))]


def _expand(folder: Path, pattern: str) -> list[Path]:
    """The paths that match a pattern in which only * is special."""
    escaped = "*".join(glob.escape(part) for part in pattern.split("*"))
    start = "" if PurePath(pattern).is_absolute() else f"{glob.escape(str(folder))}/"
    return [Path(path) for path in glob.glob(start + escaped)]


def files_only(source: DataSource) -> DataSource:
    """The same source without the hub."""
    return replace(source, use_hub=False)
