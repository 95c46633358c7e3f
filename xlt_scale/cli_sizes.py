"""`xlt-scale sizes`: the ladders as tables, everything about one size, and a check of them against downloaded files."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from xlt_scale.errors import FAILURE_EXIT_CODE, UserError, nearest
from xlt_scale.sizes import LADDERS, SIZES, ModelSize, find_size
from xlt_scale.sizes.ladders import Ladder
from xlt_scale.sizes.words import languages_in_words, padding_in_words, positions_in_words, unverified_in_words

if TYPE_CHECKING:
    from xlt_scale.sizes.verification import Verification

_ABOVE = {"both": "by both counts", "total": "only with embeddings", "": "no"}


def sizes(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Show everything about these sizes; with --verify, the folders or files to compare.",
            show_default=False,
        ),
    ] = None,
    family: Annotated[str, typer.Option(help="Only this family, as 'Qwen3'.")] = "",
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare sizes with a downloaded config.json: FOLDER or NAME=FOLDER.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """List the model sizes by family with their exact parameter counts, or show some in full.

    A name goes into model.size of a run file (a fresh model of that shape), its hub name into model.name (the
    published weights). Encoders are counted without pooler, decoders without their output matrix, of encoder-decoders
    the encoder alone. With --verify the exit code is 1 when a field differs.

    Example: xlt-scale sizes --family 'Gemma 3'
    """
    if family and (names or verify):
        raise UserError("sizes: --family is for the tables; leave it out with names or with --verify")
    if verify:
        _verify(names or [], as_json)
        return
    chosen = [find_size(name) for name in names or []] or [size for size in SIZES.values() if _is_of(size, family)]
    if as_json:
        print(json.dumps([describe(size) for size in chosen], indent=1, ensure_ascii=False))
    elif names:
        for size in chosen:
            _print_size(size)
    else:
        for ladder in LADDERS.values():
            if members := [size for size in chosen if size.family == ladder.family]:
                _print_ladder(ladder, members)
        print("`xlt-scale sizes NAME` shows one in full; docs/ladders.md says which ladder answers which question")


def _is_of(size: ModelSize, family: str) -> bool:
    known = {name.lower(): name for name in LADDERS}
    if family and family.lower() not in known:
        raise UserError(f"family {family!r} is unknown; {nearest(family, LADDERS)}")
    return not family or size.family == known[family.lower()]


def describe(size: ModelSize) -> dict[str, Any]:
    """Everything that is known of a size, for a program."""
    ladder = LADDERS[size.family]
    member = ladder.sizes[size.name]
    return {
        "size": size.name,
        "family": size.family,
        "model_type": size.model_type,
        "hub_name": size.hub_name,
        "alternatives": member.alternatives,
        "pretraining": ladder.pretraining,
        "is_decoder": size.is_decoder,
        "unpadded": ladder.unpadded,
        "why_padded": ladder.why_padded,
        "parameters": size.num_parameters,
        "non_embedding": size.num_non_embedding_parameters,
        "above_10b": size.above_ten_billion,
        "published": member.published,
        "layers": size.num_layers,
        "hidden": size.hidden_size,
        "heads": size.num_heads,
        "key_value_heads": size.num_key_value_heads,
        "head_size": size.head_size,
        "intermediate": size.intermediate_size,
        "vocabulary": size.vocab_size,
        "positions": size.num_position_slots,
        "sliding_window": size.sliding_window,
        "is_gated": size.is_gated,
        "has_biases": size.has_biases,
        "norm": "pre" if size.is_pre_norm else "post",
        "licence": ladder.licence,
        "languages": ladder.num_languages,
        "which_languages": ladder.languages,
        "mostly_english": ladder.mostly_english,
        "tokenizer": ladder.tokenizer,
        "notes": member.notes,
        "confounded": ladder.confounded,
        "sources": ladder.sources,
        "unverified": member.unverified,
        "unverified_of_family": ladder.unverified,
        "configuration": size.architecture(),
    }


def _print_ladder(ladder: Ladder, members: list[ModelSize]) -> None:
    console = _console()
    console.print(f"{ladder.family}  {ladder.about}", style="bold")
    console.print("; ".join(filter(None, [ladder.licence, languages_in_words(ladder), padding_in_words(ladder)])))
    table = Table(box=None, pad_edge=False)
    for head in ("size", "parameters", "without embeddings", "above 10 B by", "layers", "width", "positions"):
        table.add_column(head, justify="left" if head in ("size", "above 10 B by") else "right", no_wrap=True)
    table.add_column("hub name")
    for size in members:
        counts = (f"{size.num_parameters:,}", f"{size.num_non_embedding_parameters:,}", size.above_ten_billion)
        shape = (str(size.num_layers), str(size.hidden_size), positions_in_words(size))
        mark = " (?)" if ladder.sizes[size.name].unverified else ""
        table.add_row(size.name + mark, *counts, *shape, size.hub_name or "none is published")
    console.print(table)
    if unverified := unverified_in_words(ladder, members):
        console.print(f"not verified: {unverified}")
    console.print()


def _print_size(size: ModelSize) -> None:
    ladder = LADDERS[size.family]
    member = ladder.sizes[size.name]
    console = _console()
    console.print(size.name, style="bold")
    heads = f"{size.num_heads} of {size.head_size}"
    if size.num_key_value_heads != size.num_heads:
        heads += f", {size.num_key_value_heads} for keys and values"
    facts = {
        "family": f"{size.family}: {ladder.about}",
        "hub name": size.hub_name or "none is published",
        "same shape": ", ".join(member.alternatives),
        "parameters": f"{size.num_parameters:,}",
        "without embeddings": f"{size.num_non_embedding_parameters:,}",
        "above 10 billion": _ABOVE[size.above_ten_billion],
        "as published": member.published,
        "layers": f"{size.num_layers}, normalised {'before' if size.is_pre_norm else 'after'} each block",
        "width": f"{size.hidden_size}, feed-forward {size.intermediate_size}{' gated' if size.is_gated else ''}",
        "heads": heads,
        "local window": str(size.sliding_window or ""),
        "vocabulary": f"{size.vocab_size:,}",
        "positions": positions_in_words(size),
        "attention": "causal as published" if size.is_decoder else "in both directions",
        "runs": padding_in_words(ladder),
        "tokenizer": ladder.tokenizer,
        "languages": languages_in_words(ladder),
        "licence": ladder.licence,
        "note": member.notes,
        "not verified": "; ".join([*member.unverified, *ladder.unverified]),
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for fact, value in facts.items():
        if value:
            table.add_row(fact, value)
    console.print(table)
    for title, lines in (
        ("Confounded in this family:", ladder.confounded),
        ("Sources:", [f"{what}: {where}" for what, where in ladder.sources.items()]),
        ("Configuration:", [f"{key} = {value}" for key, value in size.architecture().items()]),
    ):
        if lines:
            console.print(f"\n{title}")
            for line in lines:
                console.print(f"  {line}")
    console.print()


def _verify(places: list[str], as_json: bool) -> None:
    from xlt_scale.sizes.verification import verify

    if not places:
        raise UserError("sizes --verify: name a folder with config.json, or NAME=FOLDER")
    found = [verify(place) for place in places]
    if as_json:
        print(json.dumps([_as_json(one) for one in found], indent=1, ensure_ascii=False))
    else:
        for one in found:
            _print_verification(one)
    if not all(one.is_equal for one in found):
        raise typer.Exit(FAILURE_EXIT_CODE)


def _as_json(verification: "Verification") -> dict[str, Any]:
    fields = [vars(field) | {"is_equal": field.is_equal} for field in verification.fields]
    facts = {"size": verification.size, "path": str(verification.path), "is_equal": verification.is_equal}
    return facts | {"fields": fields}


def _print_verification(verification: "Verification") -> None:
    console = _console()
    console.print(f"{verification.size}  {verification.path}", style="bold")
    table = Table(box=None, pad_edge=False)
    for head in ("field", "here", "there", ""):
        table.add_column(head, overflow="fold")
    for field in verification.fields:
        verdict = "equal" if field.is_equal else "differs"
        if not field.is_stated:
            verdict += ", not in the file: the library's default"
        table.add_row(field.name, _value(field.ours), _value(field.theirs), verdict)
    console.print(table)
    differing = [field.name for field in verification.fields if not field.is_equal]
    console.print(f"differs in {', '.join(differing)}" if differing else "all equal")
    console.print()


def _value(value: object) -> str:
    if isinstance(value, list) and len(value) > 8:
        kinds = {kind: value.count(kind) for kind in map(str, value)}
        return f"{len(value)}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"{value:,}" if isinstance(value, int) and value > 999_999 else str(value)


def _console() -> Console:
    # A file or a pipe has no width: there nothing need be wrapped.
    return Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False)
