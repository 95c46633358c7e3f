"""Records as Arrow tables: one of phases, one of scores, one of learning curves, one of outcomes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from xlt_scale.errors import UserError
from xlt_scale.scaling.records.outcome_store import headline_arrays, read_outcome_file
from xlt_scale.scaling.records.records import Record
from xlt_scale.sizes import family_of

_NAME = pa.dictionary(pa.int32(), pa.string())

PHASES = pa.schema(
    {
        "record": pa.string(),
        "modified": pa.int64(),
        "bytes": pa.int64(),
        "study": _NAME,
        "role": _NAME,
        "hash": pa.string(),
        "size": _NAME,
        "family": _NAME,
        "model_type": _NAME,
        "is_pre_norm": pa.bool_(),
        "is_bidirectional_decoder": pa.bool_(),
        "num_parameters": pa.int64(),
        "num_non_embedding_parameters": pa.int64(),
        "arm": _NAME,
        "arm_tasks": _NAME,
        "target": _NAME,
        "trained": _NAME,
        "intermediate_seed": pa.int32(),
        "target_seed": pa.int32(),
        "trained_with": pa.int64(),
        "rule": _NAME,
        "learning_rate": pa.float64(),
        "batch_size": pa.int32(),
        "search_trials": pa.int32(),
        "asked": _NAME,
        "steps": pa.int64(),
        "examples": pa.int64(),
        "tokens": pa.int64(),
        "flops": pa.float64(),
        "seconds": pa.float64(),
        "gpu_hours": pa.float64(),
        "unit": _NAME,
        "memory_gib": pa.float64(),
        "mfu": pa.float64(),
        "first_loss": pa.float64(),
        "last_loss": pa.float64(),
        "engine": _NAME,
        "precision": _NAME,
        "adapter": _NAME,
        "world_size": pa.int32(),
        "git_revision": _NAME,
        "versions": _NAME,
        "device": _NAME,
        "host": _NAME,
        "recorded_at": pa.string(),
    }
)
"""One row per record; `modified` (nanoseconds) and `bytes` are of its file, by which a changed record is noticed."""

SCORES = pa.schema(
    {
        "record": _NAME,
        "task": _NAME,
        "language": _NAME,
        "headline": _NAME,
        "score": pa.float64(),
        "chance": pa.float64(),
        "split": _NAME,
        "scorer": _NAME,
        "is_trained_language": pa.bool_(),
        "same_data": _NAME,
        "metrics": pa.list_(pa.string()),
        "values": pa.list_(pa.float64()),
    }
)
"""One row per record, scored task and language; `score` is null where there were no gold labels."""

CURVES = pa.schema({"record": _NAME, "step": pa.int64(), "loss": pa.float64(), "dev": pa.float64()})

OUTCOMES = pa.schema(
    {
        "record": pa.string(),
        "task": pa.string(),
        "language": pa.string(),
        "arrays": pa.string(),
        "kind": pa.string(),
        "dtype": pa.string(),
        "num_items": pa.int32(),
        "data": pa.binary(),
    }
)
"""What the headline score is a function of: the packed arrays (outcome_store.py), one after another in `data`."""

Rows = dict[str, list[Any]]


@dataclass(frozen=True)
class RecordTables:
    """Tables of some records; outcomes by task and language."""

    phases: pa.Table
    scores: pa.Table
    curves: pa.Table
    outcomes: Mapping[tuple[str, str], pa.Table]
    problems: Sequence[str] = ()


def tables_of(records: Iterable[Record], stamps: Mapping[str, tuple[int, int]], folder: Path) -> RecordTables:
    """The tables of records.

    Args:
        stamps: time of change in nanoseconds and bytes of each record's file.
        folder: where their outcome files are.
    """
    phases, scores, curves = _empty(PHASES), _empty(SCORES), _empty(CURVES)
    outcomes: dict[tuple[str, str], Rows] = {}
    problems = []
    for record in records:
        _append(phases, _phase_row(record, stamps[record["phase"]]))
        for row in _score_rows(record):
            _append(scores, row)
        for point in record["training"]["curve"] or ():
            _append(curves, {"record": record["phase"], **{name: point.get(name) for name in ("step", "loss", "dev")}})
        try:
            for row in _outcome_rows(record, folder):
                _append(outcomes.setdefault((row["task"], row["language"]), _empty(OUTCOMES)), row)
        except UserError as error:
            problems.append(str(error))
    return RecordTables(
        _table(phases, PHASES),
        _table(scores, SCORES),
        _table(curves, CURVES),
        {place: _table(rows, OUTCOMES) for place, rows in sorted(outcomes.items())},
        problems,
    )


def _phase_row(record: Record, stamp: tuple[int, int]) -> dict[str, Any]:
    training, software, hyper = record["training"], record["software"], record["hyper_parameters"]
    size, seeds = record["size"], record["seeds"]
    losses = [point["loss"] for point in training["curve"] or () if "loss" in point]
    row = {
        "record": record["phase"],
        "modified": stamp[0],
        "bytes": stamp[1],
        "size": size["name"],
        # Records of earlier programs have the model type in its place, or nothing.
        "family": family_of(size.get("family") or size["model_type"]),
        "is_bidirectional_decoder": size.get("is_bidirectional_decoder", False),
        "arm": record["arm"]["name"],
        "arm_tasks": "+".join(record["arm"]["tasks"]),
        "target": record["target"]["name"],
        "trained": record["target"]["trained"],
        "intermediate_seed": seeds["intermediate"],
        "target_seed": seeds["target"],
        "trained_with": seeds["trained_with"],
        "rule": record["checkpoint_rule"],
        "learning_rate": hyper.get("learning_rate"),
        "batch_size": hyper.get("batch_size"),
        "search_trials": record["search"].get("trials", 0),
        "asked": json.dumps(record["asked"], sort_keys=True),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "versions": json.dumps(software["versions"], sort_keys=True),
    }
    given = {**record, **size, **training, **software} | row
    return {name: given.get(name) for name in PHASES.names}


def _score_rows(record: Record) -> Iterable[dict[str, Any]]:
    trained = set(record["target"]["languages"])
    for task, languages in record["scores"].items():
        request = record["scorers"][task]
        chance = record["chance"].get(task, {})
        for language, values in languages.items():
            yield {
                "record": record["phase"],
                "task": task,
                "language": language,
                "headline": request["headline"],
                "score": values.get(request["headline"]),
                "chance": chance.get(language),
                "split": request["split"],
                "scorer": request["scorer"],
                "is_trained_language": language in trained,
                "same_data": record["same_data"].get(task, ""),
                "metrics": list(values),
                "values": list(values.values()),
            }


def _outcome_rows(record: Record, folder: Path) -> Iterable[dict[str, Any]]:
    if not record["outcomes"]:
        return
    for (task, language), packed in read_outcome_file(folder / record["outcomes"]).items():
        headline = record["scorers"].get(task, {}).get("headline", "")
        names = headline_arrays(headline, list(packed))
        if not names:
            continue
        first = packed[names[0]]
        yield {
            "record": record["phase"],
            "task": task,
            "language": language,
            "arrays": ",".join(names),
            "kind": first.kind,
            "dtype": first.data.dtype.str[1:],
            "num_items": first.num_items,
            "data": b"".join(packed[name].data.tobytes() for name in names),
        }


def _empty(schema: pa.Schema) -> Rows:
    return {name: [] for name in schema.names}


def _append(rows: Rows, row: Mapping[str, Any]) -> None:
    for name, values in rows.items():
        values.append(row[name])


def _table(rows: Rows, schema: pa.Schema) -> pa.Table:
    return pa.table(rows, schema=schema)
