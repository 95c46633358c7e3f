"""Find the prediction files of a benchmark, of a task or of one language, and score each against its label file."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from xlt_scale.errors import UserError, nearest
from xlt_scale.evaluation.benchmarks import BENCHMARKS, BenchmarkTask
from xlt_scale.evaluation.prediction_files import endings, score_files
from xlt_scale.evaluation.scorers import SCORERS, Score
from xlt_scale.tasks.catalogue import load_catalogue


@dataclass
class FolderScores:
    """Scores of everything that was found.

    Attributes:
        scores: task -> language -> score.
        tasks: what each of these tasks is; its languages are those with a label file.
        notes: what was not scored and why, a sentence each.
    """

    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    tasks: dict[str, BenchmarkTask] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def values(self) -> dict[str, dict[str, dict[str, float]]]:
        """Task -> language -> metric -> number."""
        return {
            task: {language: score.values for language, score in by_language.items()}
            for task, by_language in self.scores.items()
        }


def score_paths(
    predictions: Path, labels: Path, task: str = "", language: str = "", metric: str = "", split: str = "test"
) -> FolderScores:
    """Score two files, two folders of one task, or two folders that hold one folder for each task.

    Args:
        task: of two files, or the only one to score; default: by the folders' names.
        language: of two files, or the only one to score; default: by the files' names.
        metric: of a task that is declared nowhere; for a single task, also another metric than the declared one.
        split: files are named `<split>-<language>.<ending>`.

    Raises:
        UserError: nothing to score was found, something is misnamed, or a file is broken.
    """
    for path in (predictions, labels):
        if not path.exists():
            raise UserError(f"{path} is missing; name predictions and labels, two files or two folders")
    if predictions.is_dir() != labels.is_dir():
        raise UserError(f"{predictions} and {labels} must be two files or two folders")
    if predictions.is_file():
        return _score_two_files(predictions, labels, task, language, metric)
    result = FolderScores()
    if _holds_files(predictions):
        name = task or predictions.resolve().name
        _score_task(result, find_metric(name, metric), predictions, _labels_of(labels, name), language, split)
    elif task:
        if not (predictions / task).is_dir():
            raise UserError(f"{predictions} has no folder {task!r}; {nearest(task, _folders(predictions))}")
        _score_task(result, find_metric(task, metric), predictions / task, _labels_of(labels, task), language, split)
    else:
        for name in _folders(predictions):
            try:
                known = find_metric(name) if name in _known_tasks() else find_metric(name, metric)
            except UserError as error:
                result.notes.append(f"{predictions / name} was not scored: {error}")
                continue
            _score_task(result, known, predictions / name, _labels_of(labels, name), language, split)
    if not result.scores:
        said = f" ({result.notes[0]})" if result.notes else ""
        raise UserError(f"{predictions}: no files to score found; expected <task>/{split}-<language>.tsv{said}")
    return result


def find_metric(task: str, metric: str = "") -> BenchmarkTask:
    """What a task is, by a benchmark or the catalogue, and with another metric if one is given."""
    known = _known_tasks()
    if metric and metric not in SCORERS:
        raise UserError(f"metric {metric!r} is unknown; {nearest(metric, SCORERS)}")
    if task in known:
        return replace(known[task], metric=metric) if metric else known[task]
    if metric:
        return BenchmarkTask(task, metric, ())
    raise UserError(f"task {task!r} is unknown; {nearest(task, known)} For a task of your own, give its --metric")


def _known_tasks() -> dict[str, BenchmarkTask]:
    """Every task of the catalogue and of the benchmarks, the latter with the languages of both of them."""
    known = {
        name: BenchmarkTask(name, spec.metric, tuple(spec.languages), kind=spec.kind)
        for name, spec in load_catalogue().items()
        if spec.metric in SCORERS
    }
    for name in {name for benchmark in BENCHMARKS.values() for name in benchmark.tasks}:
        versions = [benchmark.tasks[name] for benchmark in BENCHMARKS.values() if name in benchmark.tasks]
        known[name] = max(versions, key=lambda version: len(version.languages))
    return known


def _score_two_files(predictions: Path, labels: Path, task: str, language: str, metric: str) -> FolderScores:
    if not task and not metric:
        raise UserError(f"{predictions}: which task is it? give --task (or --metric)")
    declared = find_metric(task or metric, metric)
    if not language:
        _, dash, language = predictions.stem.rpartition("-")
        if not dash:
            raise UserError(f"{predictions}: in which language? give --language")
    _check_language(declared, language, predictions)
    score = score_files(predictions, labels, declared.metric, language)
    return FolderScores({declared.name: {language: score}}, {declared.name: replace(declared, languages=(language,))})


def _score_task(
    result: FolderScores, task: BenchmarkTask, predictions: Path, labels: Path, language: str, split: str
) -> None:
    """Add the scores of one task's folder."""
    found, gold = _files_by_language(task, predictions, split), _files_by_language(task, labels, split)
    for code, path in found.items():
        _check_language(task, code, path)
    if language:
        if language not in found:
            raise UserError(f"{predictions} has no {split} file in {language!r}; {nearest(language, found)}")
        found, gold = {language: found[language]}, {code: path for code, path in gold.items() if code == language}
    if not found:
        others = sorted({path.name.split("-")[0] for path in predictions.iterdir() if "-" in path.name} - {split})
        mend = f"give --split {others[0]}" if others else f"expected {split}-<language>.{endings(task.metric)[0]}"
        raise UserError(f"{predictions} has no files of the split {split!r}; {mend}")
    for code, path in found.items():
        if code not in gold:
            raise UserError(f"{path} has no labels: {labels} has no {split} file in {code!r}; add it")
    order = [code for code in task.languages if code in gold] + sorted(set(gold) - set(task.languages))
    result.tasks[task.name] = replace(task, languages=tuple(order))
    result.scores[task.name] = {
        code: score_files(found[code], gold[code], task.metric, code) for code in order if code in found
    }


def _files_by_language(task: BenchmarkTask, folder: Path, split: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for ending in endings(task.metric, task.kind):
        for path in sorted(folder.glob(f"{split}-*.{ending}")):
            language = path.name.removeprefix(f"{split}-").removesuffix(f".{ending}")
            if language in files:
                raise UserError(f"{folder} has both {files[language].name} and {path.name}; keep one of them")
            files[language] = path
    return files


def _check_language(task: BenchmarkTask, language: str, path: Path) -> None:
    if task.languages and language not in task.languages:
        raise UserError(f"{path}: {task.name} has no language {language!r}; {nearest(language, task.languages)}")


def _labels_of(labels: Path, task: str) -> Path:
    """The folder with a task's label files: `labels` itself or the one of the task's name below it."""
    if (labels / task).is_dir():
        return labels / task
    if _holds_files(labels):
        return labels
    raise UserError(f"{labels} has no folder {task!r}; {nearest(task, _folders(labels))}")


def _holds_files(folder: Path) -> bool:
    return any(path.suffix in (".tsv", ".json", ".jsonl") for path in _visible(folder) if path.is_file())


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in _visible(folder) if path.is_dir())


def _visible(folder: Path) -> Iterable[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith("."))
