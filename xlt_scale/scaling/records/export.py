"""All scores of a study as one tidy table, for any other program (docs/records.md)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.design import StudyGrid
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.records.record_index import RecordIndex

EXPORT_COLUMNS = {
    "study": "name of the study",
    "record": "name of the record: records/<record>.json",
    "role": "target, intermediate, pretraining or search (a trial of the learning-rate search)",
    "size": "name of the size",
    "family": "architecture family (XLM-R, Qwen3, ...); the model type where it is of no ladder",
    "is_pre_norm": "whether the layer normalisation comes before each block",
    "is_bidirectional_decoder": "whether it is a decoder that is read in both directions",
    "num_parameters": "of the encoder, without pooler and heads",
    "num_non_embedding_parameters": "without the embeddings too",
    "arm": "name of the arm",
    "arm_tasks": "its tasks in the order of training, with + between",
    "target": "name of the target",
    "trained": "the task that the target phase trains; empty where the encoder itself is scored",
    "intermediate_seed": "-1 = of every pair",
    "target_seed": "within its intermediate seed; -1 = of every pair",
    "trained_with": "the seed of the phase",
    "rule": "checkpoint rule: last, best",
    "task": "scored task",
    "split": "split that was scored",
    "language": "ISO code",
    "metric": "name of the metric",
    "value": "percentages 0 to 100; numbers of items and thresholds as they are",
    "is_headline": "whether it is the task's headline metric",
    "chance": "headline score of guessing, 0 to 100; empty where not known",
    "scorer": "version of the scorer",
    "is_trained_language": "whether the target was trained in the language",
    "same_data": "why arm and target share data; empty where they do not",
    "learning_rate": "of the phase",
    "search_trials": "trials that chose the learning rate; 0 = given",
    "steps": "optimiser steps of the phase",
    "tokens": "real tokens of the phase",
    "gpu_hours": "devices x hours of training in the phase",
    "unit": "GPU hours or processor hours",
    "precision": "fp32 or bf16",
    "adapter": "what the phase trained in place of all weights (lora-16, nf4-lora-16); empty = all weights",
    "engine": "zero3 or fsdp2",
    "git_revision": "of the program",
    "hash": "of everything that decides the phase's result",
    "recorded_at": "when the phase's training ended, UTC",
}
"""Columns of the table: a row per record, task, language and metric."""

_OF_SCORES = ("record", "task", "split", "language", "headline", "chance", "scorer", "is_trained_language", "same_data")
_FROM_GRID = ("arm", "target", "intermediate_seed", "target_seed")


def export_study(folder: StudyFolder, grid: StudyGrid, path: Path) -> int:
    """Write the table of the planned phases' scores as Parquet or CSV, by the ending of the file's name.

    Returns:
        its number of rows.

    Raises:
        UserError: another ending, or the file cannot be written.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"{path}: name a file that ends with .parquet or .csv")
    table = export_table(folder, grid)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            plain = pa.schema([pa.field(field.name, _plain(field.type)) for field in table.schema])
            pa_csv.write_csv(table.cast(plain), path)
        else:
            described = {name: text.encode() for name, text in EXPORT_COLUMNS.items()}
            pq.write_table(table.replace_schema_metadata(described), path, compression="zstd")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}; name another place") from None
    return len(table)


def export_table(folder: StudyFolder, grid: StudyGrid) -> pa.Table:
    """The table (`EXPORT_COLUMNS`) in the grid's order."""
    index = RecordIndex(folder)
    scores = index.table("scores", [*_OF_SCORES, "metrics", "values"])
    order = {name: number for number, name in enumerate(grid.phases)}
    scores, places = _in_order(scores, order)
    parents = pc.list_parent_indices(scores["metrics"])
    metrics, values = pc.list_flatten(scores["metrics"]), pc.list_flatten(scores["values"])
    rows = scores.select(list(_OF_SCORES)).take(parents)
    of_phases = _phases(index, grid, order).take(pa.array(places).take(parents))
    columns: dict[str, pa.ChunkedArray] = {
        **{name: of_phases[name] for name in of_phases.column_names},
        **{name: rows[name] for name in _OF_SCORES},
        "metric": metrics,
        "value": values,
        "is_headline": pc.equal(metrics, rows["headline"].cast(pa.string())),
    }
    return pa.table({name: columns[name] for name in EXPORT_COLUMNS}).unify_dictionaries()


def _in_order(scores: pa.Table, order: Mapping[str, int]) -> tuple[pa.Table, np.ndarray]:
    """Rows of planned phases as the grid has them, tasks and languages as they were scored; and each row's phase."""
    places = np.array([order.get(name, -1) for name in scores["record"].cast(pa.string()).to_pylist()], np.int64)
    chosen = np.argsort(places, kind="stable")[int((places < 0).sum()) :]
    return scores.take(pa.array(chosen)), places[chosen]


def _phases(index: RecordIndex, grid: StudyGrid, order: Mapping[str, int]) -> pa.Table:
    """One row per phase of the grid, nulls where it has no record; places are the grid's."""
    table = index.table("phases")
    rows = {name: row for row, name in enumerate(table["record"].to_pylist())}
    table = table.take(pa.array([rows.get(name) for name in order], pa.int64()))
    phases = list(grid.phases.values())
    places = {
        "arm": [phase.arm for phase in phases],
        "target": [phase.target for phase in phases],
        "intermediate_seed": [phase.pair[0] for phase in phases],
        "target_seed": [phase.pair[1] for phase in phases],
    }
    for name in _FROM_GRID:
        field = table.schema.field(name)
        values = pa.array(places[name], _plain(field.type)).cast(field.type)
        table = table.set_column(table.column_names.index(name), field, values)
    kept = [name for name in table.column_names if name in EXPORT_COLUMNS and name not in _OF_SCORES]
    return table.select(kept)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
