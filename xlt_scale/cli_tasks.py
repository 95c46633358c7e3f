"""`xlt-scale tasks`: the catalogue as a table, and everything about one task."""

import json
import re
from itertools import groupby
from typing import Annotated, Any, get_args

import typer

from xlt_scale.errors import UserError, nearest
from xlt_scale.micro.languages import LANGUAGES as MICRO_LANGUAGES
from xlt_scale.tasks.catalogue import find_task, load_catalogue
from xlt_scale.tasks.languages import LANGUAGES, describe
from xlt_scale.tasks.spec import TaskKind, TaskSpec, TaskType


def tasks(
    name: Annotated[str, typer.Argument(help="Show everything about one task.")] = "",
    type_: Annotated[str, typer.Option("--type", help="Only tasks of this type, as 'commonsense'.")] = "",
    kind: Annotated[str, typer.Option(help="Only tasks of this kind, as 'span'.")] = "",
    language: Annotated[str, typer.Option(help="Only tasks that have this language, as 'sw'.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """List the tasks that a run file can name, or show one in full.

    Example: xlt-scale tasks --type commonsense
    """
    catalogue = load_catalogue()
    if name:
        spec = find_task(catalogue, name)
        if as_json:
            print(spec.model_dump_json(indent=1, exclude_defaults=True))
        else:
            _print_task(spec)
        return
    _check_known("type", type_, get_args(TaskType))
    _check_known("kind", kind, get_args(TaskKind))
    _check_known("language", language, LANGUAGES)
    chosen = [
        spec
        for spec in sorted(catalogue.values(), key=lambda spec: get_args(TaskType).index(spec.type))
        if type_ in ("", spec.type) and kind in ("", spec.kind) and (not language or _has_language(spec, language))
    ]
    if as_json:
        print(json.dumps([_summary(spec) for spec in chosen], indent=1, ensure_ascii=False))
    elif chosen:
        _print_tasks(chosen)
    else:
        print("no such task")


def _check_known(what: str, value: str, known: Any) -> None:
    if value and value not in known:
        raise UserError(f"{what} {value!r} is unknown; {nearest(value, known)}")


def _has_language(spec: TaskSpec, language: str) -> bool:
    if spec.languages:
        return language in spec.languages
    # Any language, by file: the micro benchmark writes its own languages, people have files of the others.
    return (spec.generator == "micro") == any(language == micro.code for micro in MICRO_LANGUAGES)


def _summary(spec: TaskSpec) -> dict[str, Any]:
    return {
        "task": spec.name,
        "type": spec.type,
        "kind": spec.kind,
        "metric": spec.metric,
        "head": spec.head if spec.is_trainable else "",
        "languages": spec.languages,
        "translations": spec.translations,
        "trained_by": spec.trained_by,
        "parts": spec.parts,
        "overlaps": spec.overlaps,
        "licence": spec.licence,
        "description": spec.description,
    }


def _print_tasks(specs: list[TaskSpec]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    heads = ("task", "metric", "languages", "trained by")
    names = {
        spec.name: (spec.name, spec.metric, _number_of_languages(spec), ", ".join(spec.trained_by)) for spec in specs
    }
    # One table per type, all of the same widths. Names are copied into run files: they are never cut.
    widths = [max(map(len, column)) for column in zip(heads, *names.values(), strict=True)]
    for type_, group in groupby(specs, key=lambda spec: spec.type):
        console.print(type_, style="bold")
        table = Table(box=None, show_header=type_ == specs[0].type, pad_edge=False)
        for head, width in zip(heads, widths, strict=True):
            table.add_column(head, width=width, no_wrap=True, justify="right" if head == "languages" else "left")
        table.add_column("description")
        for spec in group:
            table.add_row(*names[spec.name], _short(spec))
        console.print(table)
        console.print()
    console.print(f"{len(specs)} tasks; `xlt-scale tasks NAME` shows one in full; en + = translations can be added")


def _short(spec: TaskSpec) -> str:
    # Who published it when is in the full view.
    return re.sub(r" \([^()]*\d{4}[^()]*\)", "", spec.description)


def _number_of_languages(spec: TaskSpec) -> str:
    if not spec.languages:
        return "by file"
    if len(spec.languages) > 1:
        return str(len(spec.languages))
    return spec.languages[0] + (" +" if spec.translations else "")


def _print_task(spec: TaskSpec) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    console.print(spec.name, style="bold")
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(no_wrap=True)
    facts.add_column()
    for fact, value in _facts(spec).items():
        facts.add_row(fact, value)
    console.print(facts)
    if spec.files:
        console.print("\nFiles below data.root, the first that is there; {language} stands for a code:")
        for layout in spec.files:
            console.print(f"  {layout.split:5}  {layout.pattern}  ({layout.format})", soft_wrap=True)
            for other in filter(None, (layout.pair_pattern, layout.gold_pattern)):
                console.print(f"         with {other}", soft_wrap=True)
    if spec.hub:
        console.print("\nHugging Face hub:")
        for hub in spec.hub:
            where = f"{hub.dataset} {hub.config}".rstrip()
            splits = ", ".join(f"{split} = {name}" for split, name in hub.splits.items())
            revision = hub.revision or "the newest, recorded when resolved"
            console.print(f"  {where}  ({splits}; revision: {revision})", soft_wrap=True)
    if spec.overlaps:
        console.print("\nShares with:")
        overlaps = Table(show_header=False, box=None, pad_edge=False)
        overlaps.add_column(no_wrap=True)
        overlaps.add_column()
        for other, what in spec.overlaps.items():
            overlaps.add_row(f"  {other}", what)
        console.print(overlaps)
    if spec.languages:
        console.print()
        console.print(_languages(spec))


def _facts(spec: TaskSpec) -> dict[str, str]:
    lengths = f"at most {spec.max_length} tokens" if spec.max_length else "model.max_length"
    if spec.kind == "span":
        lengths += f", windows share {spec.stride}"
    facts = {
        "what": spec.description,
        "type": f"{spec.type}, {spec.domain}",
        "kind": spec.kind + (", unanswerable questions among them" if spec.no_answer else ""),
        "head": spec.head if spec.is_trainable else "none: nothing is trained",
        "metric": spec.metric + ("" if spec.metric == "loss" else f", on {spec.evaluation_split}"),
        "labels": ", ".join(spec.labels),
        "length": lengths,
        "union of": ", ".join(spec.parts),
        "trained by": ", then ".join(spec.trained_by),
        "source": describe(spec.source_language).name,
        "text": spec.source_text,
        "licence": spec.licence,
        "substitute": spec.substitute,
        "languages": _say_languages(spec),
    }
    return {fact: value for fact, value in facts.items() if value}


def _say_languages(spec: TaskSpec) -> str:
    if not spec.languages:
        return "every one there is a file for"
    more = "; training data in others where there is a file" if spec.translations else ""
    same = "; row i is the same item in each" if spec.parallel else ""
    return f"{len(spec.languages)}, listed below{more}{same}"


def _languages(spec: TaskSpec) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in (
        "code",
        "language",
        "family",
        "script",
        "seen by XLM-R",
        *(["in files"] if _has_codes(spec) else []),
    ):
        table.add_column(column)
    for code in spec.languages:
        language = describe(code)
        seen = {True: "yes", False: "no", None: "unknown"}[language.seen]
        codes = [spec.language_codes.get(code, code)] if _has_codes(spec) else []
        table.add_row(code, language.name, language.family, language.script, seen, *codes)
    return table


def _has_codes(spec: TaskSpec) -> bool:
    return bool(spec.language_codes)
