"""From records to the examples of a task's kind."""

from collections.abc import Mapping, Sequence
from typing import Any

from xlt_scale.errors import UserError
from xlt_scale.tasks.answers import build_questions
from xlt_scale.tasks.examples import BitextExamples, ChoiceExamples, Examples, TaggedExamples, TextExamples
from xlt_scale.tasks.layouts import Column, Columns
from xlt_scale.tasks.ranking import build_ranking
from xlt_scale.tasks.records import Records, spelling
from xlt_scale.tasks.selection import Selection
from xlt_scale.tasks.spec import Split, TaskSpec


def build_examples(spec: TaskSpec, split: Split, records: Records, columns: Columns, name: str, code: str) -> Examples:
    """Examples of the task's kind, in the order of the records.

    Args:
        columns: which of the records' columns hold what.
        name: what the ids of candidates begin with.
        code: what {language} stands for in the declaration.

    Raises:
        UserError: a row lacks a column, or holds what the task does not allow; with its file and place.
    """
    selection = Selection(records, columns, code)
    match spec.kind:
        case "span":
            return build_questions(spec, selection)
        case "dual_encoding":
            return build_ranking(selection, name)
        case "tagging":
            return _build_tagged(spec, split, selection)
        case "multiple_choice":
            return _build_choices(spec, selection)
        case "bitext_mining":
            return _build_bitext(selection)
        case _:
            return _build_texts(spec, selection)


def _build_texts(spec: TaskSpec, selection: Selection) -> TextExamples:
    columns = selection.columns
    labels: list[int] | list[float] | None = None
    if spec.kind == "regression":
        labels = _real_numbers(spec, selection)
    elif spec.kind == "classification":
        labels = _class_numbers(spec, selection)
    return TextExamples(
        selection.texts(columns.text),
        None if columns.text_pair is None else selection.texts(columns.text_pair),
        labels,
        num_dropped=selection.num_dropped,
    )


def _labels(spec: TaskSpec, selection: Selection, classes: dict[str, int]) -> list[str]:
    """Labels as they are spelt; rows without one are dropped from the selection."""
    column = selection.columns.label
    assert column is not None
    if isinstance(column, list):
        labels = selection.texts(column)
    else:
        values = selection.values(column)
        names = _class_names(selection, column, classes)
        if names:
            values = [names[value] if isinstance(value, int) and value >= 0 else value for value in values]
        labels = values if set(map(type, values)) == {str} else [spelling(value) for value in values]
    unlabelled = set(spec.unlabelled)
    if not unlabelled.isdisjoint(labels):
        kept = [label not in unlabelled for label in labels]
        selection.keep(kept)
        labels = [label for label in labels if label not in unlabelled]
    return labels


def _class_names(selection: Selection, column: Column | None, classes: Mapping[str, int]) -> Sequence[str]:
    """The names of a column's class numbers, where the origin has names of which the task knows any; else []."""
    names = selection.records.class_names.get(str(column), [])
    return [] if classes.keys().isdisjoint(names) else names


def _classes(spec: TaskSpec) -> dict[str, int]:
    """Class number of every spelling."""
    classes = {label: number for number, label in enumerate(spec.labels)}
    for alias, label in spec.label_aliases.items():
        classes[alias] = classes[label] if label in classes else int(label)
    return classes


def _class_numbers(spec: TaskSpec, selection: Selection) -> list[int]:
    classes = _classes(spec)
    labels = _labels(spec, selection, classes)
    numbers = [classes.get(label, -1) for label in labels]
    if -1 in numbers:
        number = numbers.index(-1)
        raise UserError(
            f"{selection.place(number)}: label {labels[number]!r} is not one of {_some(spec.labels)}; "
            f"mend the row, or declare it in [tasks.{spec.name}] label_aliases or unlabelled"
        )
    return numbers


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels) if len(labels) <= 25 else f"the {len(labels)} labels of the task"


def _real_numbers(spec: TaskSpec, selection: Selection) -> list[float]:
    labels = _labels(spec, selection, {})
    try:
        return [float(label) for label in labels]
    except ValueError:
        number = next(number for number, label in enumerate(labels) if not _is_number(label))
        raise UserError(
            f"{selection.place(number)}: label {labels[number]!r} is no number; "
            f"mend the row, or declare it in [tasks.{spec.name}] unlabelled"
        ) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _build_choices(spec: TaskSpec, selection: Selection) -> ChoiceExamples:
    classes = _classes(spec)
    labels = _labels(spec, selection, classes)
    choices = _choices(selection)
    numbers = []
    for place, (label, options) in enumerate(zip(labels, choices, strict=True)):
        number = classes.get(label, -1)
        if number < 0 and not spec.labels and label.isdecimal():
            number = int(label)
        if number < 0 and options.count(label) == 1:
            number = options.index(label)
        if not 0 <= number < len(options):
            spellings = _some(spec.labels) if spec.labels else f"0 to {len(options) - 1}"
            raise UserError(
                f"{selection.place(place)}: label {label!r} names none of the {len(options)} choices ({spellings}); "
                f"mend the row, or declare it in [tasks.{spec.name}] labels, label_aliases or unlabelled"
            )
        numbers.append(number)
    return ChoiceExamples(selection.texts(selection.columns.text), choices, numbers, num_dropped=selection.num_dropped)


def _choices(selection: Selection) -> list[list[str]]:
    """The choices of every row; one column per choice, or one column that holds a list."""
    declared = selection.columns.choices
    assert declared is not None
    if isinstance(declared, list):
        return [list(row) for row in zip(*(selection.texts(column) for column in declared), strict=True)]
    choices = selection.values(declared)
    for number, row in enumerate(choices):
        if not isinstance(row, list) or len(row) < 2 or not all(isinstance(choice, str) for choice in row):
            raise UserError(
                f"{selection.place(number)}: column {declared!r} is no list of at least two texts; "
                "name the column of the list ('choices.text'), or give a list of columns, one per choice"
            )
    return choices


def _build_tagged(spec: TaskSpec, split: Split, selection: Selection) -> TaggedExamples:
    columns = selection.columns
    words = _lists(selection, columns.words)
    tags = _lists(selection, columns.tags)
    if not all(words):
        kept = [bool(row) for row in words]
        selection.keep(kept)
        words, tags = ([row for row, keeps in zip(rows, kept, strict=True) if keeps] for rows in (words, tags))
    if split != "train" and words and not any(tags):
        return TaggedExamples(words, None, num_dropped=selection.num_dropped)
    spellings = _classes(spec)
    names = _class_names(selection, columns.tags, spellings)
    classes: dict[Any, int] = dict(spellings)
    if names:
        classes = {number: spellings[name] for number, name in enumerate(names) if name in spellings}
    elif str(columns.tags) in selection.records.class_names:
        unknown = ", ".join(selection.records.class_names[str(columns.tags)][:10])
        raise UserError(
            f"{selection.records.source}: its tags are named {unknown}, none of which is one of {_some(spec.labels)}; "
            f"declare them in [tasks.{spec.name}] labels or label_aliases"
        )
    else:
        # Where nothing names the classes, numbers are those of the declared labels.
        classes |= {number: number for number in range(len(spec.labels))}
    numbers = []
    for place, (row, tagged) in enumerate(zip(words, tags, strict=True)):
        if len(row) != len(tagged):
            raise UserError(f"{selection.place(place)}: the sentence has {len(row)} words but {len(tagged)} tags")
        found = [classes.get(tag, -1) for tag in tagged]
        if -1 in found:
            wrong = found.index(-1)
            tag = tagged[wrong] if not names else names[tagged[wrong]]
            raise UserError(
                f"{selection.place(place)}: tag {tag!r} of word {wrong + 1} of the sentence, {row[wrong]!r}, "
                f"is not one of {_some(spec.labels)}; mend it, or declare it in [tasks.{spec.name}] labels or "
                "label_aliases"
            )
        numbers.append(found)
    return TaggedExamples(words, numbers, num_dropped=selection.num_dropped)


def _lists(selection: Selection, column: Column | None) -> list[list[Any]]:
    if not isinstance(column, str | int):
        raise UserError(f"{selection.records.source}: words are in one column, and tags in one column, as lists")
    values = selection.values(column)
    for number, value in enumerate(values):
        if not isinstance(value, list):
            raise UserError(f"{selection.place(number)}: column {column!r} is no list, one item per word")
    return values


def _build_bitext(selection: Selection) -> BitextExamples:
    """Sentences of a table: a row with both texts is a gold pair, one with a single text is without a translation."""
    columns = selection.columns
    assert columns.text_pair is not None
    examples = BitextExamples(num_dropped=selection.num_dropped)
    for number, pair in enumerate(zip(selection.texts(columns.text), selection.texts(columns.text_pair), strict=True)):
        name = str(number)
        for text, ids, texts in (
            (pair[0], examples.ids, examples.texts),
            (pair[1], examples.source_ids, examples.source_texts),
        ):
            if text:
                ids.append(name)
                texts.append(text)
        if all(pair):
            examples.gold_pairs.append((name, name))
    return examples
