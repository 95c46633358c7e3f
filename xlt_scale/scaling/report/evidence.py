"""What stands behind each mark: cells, groups of cells, slopes and records, as compact data for the page's script.

An anchor is `#cell-12`, `#group-3`, `#slope-4`, `#set-5` or `#record-6`: a row of the analysis's tables of cells,
groups and slopes, a set of cells or records that a figure made, a record. Twenty thousand records are some 800,000
scores, so what several cells share (lists of run pairs, scores of the baseline) is kept once, and scores are whole
hundredths.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from xlt_scale.scaling.report.numbers import estimate
from xlt_scale.scaling.results import Analysis

Json = dict[str, Any]
GROUP_KINDS = {
    "headline": "headline mean",
    "target group": "target group",
    "task": "task",
    "family": "language family",
    "seen": "seen in pre-training",
    "trained": "trained language",
    "gap": "cross-lingual gap",
}


class Evidence:
    """Hands out anchors to figures and tables, remembers what each is called, and becomes the page's data."""

    def __init__(self, analysis: Analysis, records_root: str) -> None:
        self._analysis = analysis
        self._records_root = records_root.rstrip("/")
        self._sets: list[Json] = []
        self._records = list(dict.fromkeys(analysis.results.runs["record"]))
        # A record may have a file and no scores, and still stand in the table of collapsed runs.
        self._records = list(dict.fromkeys([*self._records, *analysis.results.record_paths]))
        self._position = {name: position for position, name in enumerate(self._records)}
        self.labels: dict[str, str] = {}

    def cell(self, position: int) -> str:
        """Anchor of a row of the table of cells."""
        anchor = f"#cell-{position}"
        if anchor not in self.labels:
            row = self._analysis.cells.iloc[position]
            self.labels[anchor] = (
                f"{row['arm']} → {row['target']}, {row['task']} in {row['language']}, {row['size']}: {_gain(row)}"
            )
        return anchor

    def group(self, position: int) -> str:
        """Anchor of a row of the table of groups."""
        anchor = f"#group-{position}"
        if anchor not in self.labels:
            row = self._analysis.groups.iloc[position]
            self.labels[anchor] = f"{row['arm']}, {group_name(row)}, {row['size']}: {_gain(row)}"
        return anchor

    def slope(self, position: int) -> str:
        """Anchor of a row of the table of slopes."""
        anchor = f"#slope-{position}"
        if anchor not in self.labels:
            row = self._analysis.slopes.iloc[position]
            digits, unit = (2, "points") if row["scale"] == "points" else (3, "log error ratio")
            numbers = estimate(row["gain"], row["low"], row["high"], digits)
            name = f"slope of {row['arm']}, {group_name(row)}, {row['variant']}"
            self.labels[anchor] = f"{name}: {numbers} {unit} per tenfold parameters"
        return anchor

    def set_of(self, title: str, cells: Iterable[int] = (), records: Iterable[str] = ()) -> str:
        """Anchor of cells and records that a mark stands for."""
        known = [self._position[name] for name in records if name in self._position]
        self._sets.append({"title": title, "cells": _ranges(cells), "records": _ranges(known)})
        anchor = f"#set-{len(self._sets) - 1}"
        self.labels[anchor] = title
        return anchor

    def record(self, name: str) -> str:
        """Anchor of a record; '' of one that the study does not know."""
        if name not in self._position:
            return ""
        anchor = f"#record-{self._position[name]}"
        self.labels.setdefault(anchor, f"record {name}")
        return anchor

    def record_link(self, name: str) -> str:
        """Address of the record's file, seen from the report; '' without a file."""
        path = self._analysis.results.record_paths.get(name, "")
        return quote(f"{self._records_root}/{path}") if path else ""

    def data(self) -> Json:
        """Everything that the page's script shows."""
        facts, cells = self._analysis.results.facts, self._analysis.cells
        names = {kind: _Names() for kind in ("size", "arm", "target", "task", "language", "same")}
        pairs, pair_lists = self._pair_lists(cells["records"])
        scores, base, with_arm = self._score_lists(cells, pairs, pair_lists)
        columns: Json = {kind: names[kind].positions(cells[kind]) for kind in ("size", "arm", "target", "task")}
        columns |= {
            "language": names["language"].positions(cells["language"]),
            "same": names["same"].positions(cells["same_data"].fillna("")),
            **{name: _numbers(cells[name], 2) for name in ("gain", "low", "high")},
            "collapsed": [int(count) for count in cells["num_collapsed"].fillna(0)],
            "pairs": pairs,
            "base": base,
            "with": with_arm,
        }
        return {
            "baseline": facts.baseline,
            "records": self._record_table(names),
            "cells": columns,
            "pairLists": pair_lists,
            "scoreLists": scores,
            "groups": self._group_table(names),
            "slopes": self._slope_table(names),
            "sets": self._sets,
            "names": {kind: known.names for kind, known in names.items()},
        }

    def _pair_lists(self, lists: Sequence[Sequence[tuple[str, str]]]) -> tuple[list[int], list[list[int]]]:
        """Of each cell the position of its list of pairs; the lists, as flat positions of records."""
        known: dict[tuple[tuple[str, str], ...], int] = {}
        positions = [known.setdefault(tuple((a, b) for a, b in pairs), len(known)) for pairs in lists]
        lookup = self._position
        return positions, [[lookup.get(name, -1) for pair in pairs for name in pair] for pairs in known]

    def _score_lists(
        self, cells: pd.DataFrame, pairs: Sequence[int], pair_lists: Sequence[Sequence[int]]
    ) -> tuple[list[list[int | None]], list[int], list[int]]:
        """Scores of each cell's pairs, in their order, in hundredths; every list once."""
        lists: list[list[int | None]] = []
        known: dict[tuple[str, str, tuple[int, ...]], int] = {}
        base, with_arm = [-1] * len(cells), [-1] * len(cells)
        scores = self._scores()
        tasks, languages = cells["task"].tolist(), cells["language"].tolist()
        # A list of pairs is shared by all languages, so its halves are taken apart once.
        halves = [(tuple(flat[0::2]), tuple(flat[1::2])) for flat in pair_lists]
        for cell, (task, language) in enumerate(zip(tasks, languages, strict=True)):
            by_record = scores.get((task, language), {})
            for positions, half in ((base, halves[pairs[cell]][0]), (with_arm, halves[pairs[cell]][1])):
                key = (task, language, half)
                if key not in known:
                    known[key] = len(lists)
                    lists.append([by_record.get(record) for record in half])
                positions[cell] = known[key]
        return lists, base, with_arm

    def _scores(self) -> dict[tuple[str, str], dict[int, int]]:
        """Hundredths of points by (task, language) and record, of the checkpoint rule that the analysis used."""
        runs = self._analysis.results.runs
        rule = self._analysis.options.get("rule")
        if rule is not None and (runs["rule"] == rule).any():
            runs = runs[runs["rule"] == rule]
        runs = runs[runs["score"].notna()]
        table = pd.DataFrame(
            {
                "task": runs["task"].to_numpy(),
                "language": runs["language"].to_numpy(),
                "record": runs["record"].map(self._position).to_numpy(),
                "score": (runs["score"] * 100).round().astype(int).to_numpy(),
            }
        )
        return {
            (str(task), str(language)): dict(zip(rows["record"].tolist(), rows["score"].tolist(), strict=True))
            for (task, language), rows in table.groupby(["task", "language"], sort=False)
        }

    def _record_table(self, names: Mapping[str, "_Names"]) -> Json:
        heads = self._analysis.results.runs.drop_duplicates("record").set_index("record").reindex(self._records)
        patterns = _Names()
        files = []
        for name in self._records:
            link = self.record_link(name)
            # Paths that are made from names are written once for all records.
            files.append(patterns.position(link.replace(quote(name), "*") if link else ""))
        seeds = heads[["intermediate_seed", "target_seed"]].fillna(-1).astype(int)
        columns = {kind: names[kind].positions(heads[kind].fillna("")) for kind in ("size", "arm", "target")}
        return {
            "name": self._records,
            "file": files,
            "patterns": patterns.names,
            "intermediateSeed": seeds["intermediate_seed"].tolist(),
            "targetSeed": seeds["target_seed"].tolist(),
            **columns,
        }

    def _group_table(self, names: Mapping[str, "_Names"]) -> Json:
        groups = self._analysis.groups
        return {
            "size": names["size"].positions(groups["size"]),
            "arm": names["arm"].positions(groups["arm"]),
            "name": [group_name(row) for row in groups[["group_kind", "group", "task"]].to_dict("records")],
            **{name: _numbers(groups[name], 2) for name in ("gain", "low", "high", "base", "with_arm")},
            "seeds": _numbers(groups["num_intermediate_seeds"], 0),
            "pairs": _numbers(groups["num_pairs"], 0),
            "excluded": _numbers(groups["num_excluded"], 0),
            "cells": [_ranges(cells) for cells in groups["cells"]],
        }

    def _slope_table(self, names: Mapping[str, "_Names"]) -> Json:
        slopes, groups = self._analysis.slopes, self._analysis.groups
        rows_of: dict[tuple[str, str, str], list[int]] = {}
        over_all_tasks = groups["task"].isin(["", "all"]) | groups["task"].isna()  # the only ones that have slopes
        for position in np.flatnonzero(over_all_tasks):
            key = (groups["arm"].iat[position], groups["group_kind"].iat[position], groups["group"].iat[position])
            rows_of.setdefault(key, []).append(int(position))
            rows_of.setdefault(("all", *key[1:]), []).append(int(position))
        keys = zip(slopes["arm"], slopes["group_kind"], slopes["group"], strict=True)
        return {
            "title": [self.labels[self.slope(position)] for position in range(len(slopes))],
            "groups": [_ranges(rows_of.get(key, [])) for key in keys],
        }


class _Names:
    """Distinct strings and where each stands."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def position(self, name: str) -> int:
        return self._known.setdefault(name, len(self._known))

    def positions(self, names: Iterable[str]) -> list[int]:
        return [self.position(str(name)) for name in names]

    @property
    def names(self) -> list[str]:
        return list(self._known)


def group_name(row: Mapping[str, Any] | pd.Series) -> str:
    """'headline mean', 'question answering', 'Turkic languages of xnli'."""
    kind, group, task = str(row["group_kind"]), str(row["group"]), str(row.get("task", "") or "")
    if kind == "headline":
        return GROUP_KINDS[kind]
    if kind == "family":
        return f"{group} languages" + (f" of {task}" if task not in ("", "all", "nan") else "")
    if kind in ("task", "target group"):
        return group
    suffix = "" if task in ("", "all", "nan") else f" of {task}"
    return f"{GROUP_KINDS.get(kind, kind)}: {group}{suffix}"


def embedded(data: Json) -> str:
    """JSON that can stand inside a script element: no character in it ends the element or starts a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _gain(row: pd.Series) -> str:
    return f"{estimate(row['gain'], row['low'], row['high'])} points"


def _numbers(values: pd.Series, digits: int) -> list[float | None]:
    rounded = np.round(values.to_numpy(float), digits).tolist()
    if digits == 0:
        return [None if not math.isfinite(value) else int(value) for value in rounded]
    return [None if not math.isfinite(value) else value for value in rounded]


def _ranges(positions: Iterable[int]) -> str:
    """'0-14,20': sorted positions, runs of neighbours as ranges."""
    parts: list[list[int]] = []
    for position in sorted({int(value) for value in positions}):
        if parts and parts[-1][1] == position - 1:
            parts[-1][1] = position
        else:
            parts.append([position, position])
    return ",".join(str(start) if start == stop else f"{start}-{stop}" for start, stop in parts)
