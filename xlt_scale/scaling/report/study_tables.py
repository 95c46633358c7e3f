"""The tables of a study's report."""

import math
import re

import numpy as np
import pandas as pd

from xlt_scale.scaling.report.evidence import GROUP_KINDS, group_name
from xlt_scale.scaling.report.numbers import (
    estimate,
    interval,
    ordered,
    p_value,
    parameter_count,
    plain,
    seeds_by_size,
    signed,
)
from xlt_scale.scaling.report.subject import ALL_ARMS, Subject
from xlt_scale.scaling.report.tables import Cell, Table, number, table_of_frame, whole

KINDS = ("headline", "target group", "task")
FEW_ARMS = 4
OTHER_KINDS = "Rows by language family, by seen or not and by training language are in the CSV file, a row of it each."


def key_table(subject: Subject) -> Table | None:
    """Gains by size side by side, and the slope: what the answer rests on."""
    if subject.has_families:
        return _key_of_families(subject)
    groups = subject.analysis.groups
    kinds = KINDS[:2] if len(subject.arms) <= FEW_ARMS else KINDS[:1]
    chosen = groups[groups["group_kind"].isin(kinds)]
    if chosen.empty:
        return None
    places = _places(groups, ["arm", "group_kind", "group", "size"])
    slopes = subject.analysis.slopes
    slope_places = _places(slopes[slopes["variant"] == "primary"], ["arm", "group_kind", "group", "scale"], slopes)
    has_slopes = len(slope_places) > 0
    rows = []
    arms = [*subject.arms, *([ALL_ARMS] if len(subject.arms) > 1 and ALL_ARMS in set(slopes["arm"]) else [])]
    targets = [target.group for target in subject.analysis.results.facts.targets]
    for arm in arms:
        for kind in kinds:
            of_kind = chosen[chosen["group_kind"] == kind]
            for group in ordered(of_kind["group"], targets):
                gains = [_gain(subject, places.get((arm, kind, group, size))) for size in subject.sizes]
                found = [slope_places.get((arm, kind, group, scale)) for scale in ("points", "log error")]
                changes = [_slope(subject, place) for place in found] if has_slopes else []
                if any(cell.text for cell in [*gains, *changes]):
                    name = [Cell("headline mean" if kind == "headline" else str(group))] if len(kinds) > 1 else []
                    rows.append((Cell(subject.arm_labels.get(arm, arm)), *name, *gains, *changes))
    caption = "Gain over the baseline in points with its 95 % interval. "
    if len(kinds) == 1:
        caption = "Headline mean of the gain over the baseline in points, with its 95 % interval. "
    if has_slopes:
        caption += (
            "Change per tenfold parameters: in points, and as log error ratio (above zero the advantage shrinks). "
        )
    caption += f"Intermediate seeds / run pairs: {seeds_by_size(chosen, subject.sizes)}."
    ends = ("per tenfold, points", "per tenfold, log error") if has_slopes else ()
    names = ("arm", "targets") if len(kinds) > 1 else ("arm",)
    columns = (*names, *(subject.size_label(size) for size in subject.sizes), *ends)
    return Table("key", "Gains in short", caption, columns, tuple(rows))


def _key_of_families(subject: Subject) -> Table | None:
    """The headline of each arm by family and size, then each family's slope and the one that all share."""
    groups, slopes = subject.analysis.groups, subject.analysis.slopes
    headline = groups[groups["group_kind"] == "headline"]
    if headline.empty:
        return None
    places = _places(groups, ["arm", "group_kind", "size"])
    slope_places = _places(slopes, ["arm", "group_kind", "variant", "scale"])
    factor, unit = subject.unit
    sizes = {size.name: size for size in subject.analysis.results.facts.sizes}
    rows: list[tuple[Cell, ...]] = []
    for size in subject.sizes:
        counts = (sizes[size].num_parameters, sizes[size].num_non_embedding_parameters) if size in sizes else ()
        said = [number(parameter_count(count, factor)) for count in counts] or [number(""), number("")]
        gains = [_gain(subject, places.get((arm, "headline", size))) for arm in subject.arms]
        rows.append((Cell(subject.families[size]), Cell(size), *said, *gains))
    for name, variant in (*((name, f"{name} alone") for name in subject.family_names), ("all, one slope", "primary")):
        for scale, label in (("points", "per tenfold, points"), ("log error", "per tenfold, log error")):
            found = [slope_places.get((arm, "headline", variant, scale)) for arm in subject.arms]
            if any(place is not None for place in found):
                changes = [_slope(subject, place) for place in found]
                rows.append((Cell(name), Cell(label), number(""), number(""), *changes))
    caption = (
        "Headline mean of the gain over the baseline in points, with its 95 % interval; then the change per tenfold "
        "parameters, of each family alone and of all with one slope and an intercept for each: in points, and as log "
        f"error ratio (above zero the advantage shrinks). Intermediate seeds / run pairs: "
        f"{seeds_by_size(headline, subject.sizes)}."
    )
    columns = ("family", "size", f"{unit or 'parameters'}, all", "without embeddings")
    arms = tuple(subject.arm_labels.get(arm, arm) for arm in subject.arms)
    return Table("key", "Gains in short", caption, (*columns, *arms), tuple(rows))


def _places(rows: pd.DataFrame, keys: list[str], whole_table: pd.DataFrame | None = None) -> dict[tuple[str, ...], int]:
    """Positions in the whole table by key."""
    position = {index: place for place, index in enumerate((rows if whole_table is None else whole_table).index)}
    values = zip(*(rows[key].astype(str) for key in keys), strict=True)
    return {key: position[index] for key, index in zip(values, rows.index, strict=True)}


def _gain(subject: Subject, place: int | None) -> Cell:
    if place is None:
        return number("")
    row = subject.analysis.groups.iloc[place]
    return number(estimate(row["gain"], row["low"], row["high"]), subject.evidence.group(place))


def _slope(subject: Subject, place: int | None) -> Cell:
    if place is None:
        return number("")
    row = subject.analysis.slopes.iloc[place]
    digits = 2 if row["scale"] == "points" else 3
    return number(estimate(row["gain"], row["low"], row["high"], digits), subject.evidence.slope(place))


def group_tables(subject: Subject) -> list[Table]:
    """Per size all arms by headline, target group and task."""
    groups = subject.analysis.groups
    tables = []
    columns = (
        "arm", "group", "kind", "baseline", "with arm", "gain", "95 % interval", "p", "p (Holm)", "log error ratio",
        "seeds", "pairs", "cells", "left out",
    )  # fmt: skip
    for size in subject.sizes:
        of_size = (groups["size"] == size).to_numpy()
        rows, anchors = [], []
        for place in np.flatnonzero(of_size & groups["group_kind"].isin(KINDS).to_numpy()):
            rows.append(_group_row(subject, int(place)))
            anchors.append(f"group-{place}")
        raw = groups[of_size].assign(
            family=subject.families[size], anchor=[f"group-{place}" for place in np.flatnonzero(of_size)]
        )
        family = f" ({subject.families[size]})" if subject.has_families else ""
        title = f"Gains of {subject.size_label(size)}{family}"
        caption = f"p is of one row alone; Holm's counts the tasks of an arm. {OTHER_KINDS}"
        name = f"groups-{_file_name(size)}"
        tables.append(Table(name, title, caption, columns, tuple(rows), tuple(anchors), raw, False))
    return tables


def _group_row(subject: Subject, place: int) -> tuple[Cell, ...]:
    row = subject.analysis.groups.iloc[place]
    return (
        Cell(subject.arm_labels.get(row["arm"], row["arm"])),
        Cell(group_name(row)),
        Cell(GROUP_KINDS.get(row["group_kind"], row["group_kind"])),
        number(plain(row["base"])),
        number(plain(row["with_arm"])),
        number(signed(row["gain"], 2), subject.evidence.group(place)),
        number(interval(row["low"], row["high"], 2)),
        number(p_value(row["p"])),
        number(p_value(row["p_holm"]) if math.isfinite(row["p_holm"]) else ""),
        number(signed(row["log_error_ratio"], 3)),
        whole(row["num_intermediate_seeds"]),
        whole(row["num_pairs"]),
        whole(row["num_cells"]),
        whole(row["num_excluded"]),
    )


def slope_table(subject: Subject) -> Table | None:
    """Every fit: primary and sensitivity checks, both scales."""
    slopes = subject.analysis.slopes
    if slopes.empty:
        return None
    of_families = ("family",) if subject.has_families else ()
    columns = (
        "arm", "group", "fit", *of_families, "scale", "slope", "95 % interval", "p (falling)", "p (lack of fit)",
        "sizes", "seeds", "pairs",
    )  # fmt: skip
    rows, anchors = [], []
    shown = (slopes["group_kind"].isin(KINDS)).to_numpy()
    for place in np.flatnonzero(shown):
        row = slopes.iloc[place]
        digits = 2 if row["scale"] == "points" else 3
        rows.append(
            (
                Cell(subject.arm_labels.get(row["arm"], row["arm"])),
                Cell(group_name(row)),
                Cell(str(row["variant"])),
                *(Cell(str(row["family"]) or "several") for _ in of_families),
                Cell(str(row["scale"])),
                number(signed(row["gain"], digits), subject.evidence.slope(int(place))),
                number(interval(row["low"], row["high"], digits)),
                number(p_value(row["p_falling"])),
                number(p_value(row["lack_of_fit_p"]) if math.isfinite(row["lack_of_fit_p"]) else ""),
                whole(row["num_sizes"]),
                whole(row["num_intermediate_seeds"]),
                whole(row["num_pairs"]),
            )
        )
        anchors.append(f"slope-{place}")
    raw = slopes.assign(anchor=[f"slope-{place}" for place in range(len(slopes))])
    caption = (
        "Change of the gain per tenfold parameters. p (falling) is one-sided, that the gain falls; p (lack of fit) is "
        "that of the straight line, with four sizes or more. Rows by language family are in the CSV file."
    )
    return Table(
        "slopes", "Slopes and sensitivity", caption, columns, tuple(rows), tuple(anchors), raw, is_open=len(rows) <= 30
    )


def further_tables(subject: Subject) -> list[Table]:
    """What the question's kind adds, power, collapse, what is missing, software."""
    analysis = subject.analysis
    tables = extra_tables(subject)
    if len(analysis.power):
        caption = "What this plan can detect, and what more seeds or sizes would show."
        tables.append(table_of_frame("power", "Power", caption, analysis.power))
    tables += [table for table in (_collapse(subject), _missing(subject), _costs(subject)) if table is not None]
    if len(analysis.results.software):
        caption = "Over all records; a name with two values says that records differ."
        tables.append(table_of_frame("software", "Software", caption, analysis.results.software, is_open=False))
    return tables


def extra_tables(subject: Subject) -> list[Table]:
    """Comparisons, ranks, alignment: whatever the analysis says about this kind of question."""
    names: set[str] = set()
    tables = []
    for title, frame in subject.analysis.extra.items():
        name = f"extra-{_file_name(title)}"
        while name in names:
            name += "-"
        names.add(name)
        tables.append(table_of_frame(name, title, "", frame))
    return tables


def _collapse(subject: Subject) -> Table | None:
    collapse = subject.analysis.collapse
    chosen = collapse[collapse["num_collapsed"] > 0]
    if chosen.empty:
        return None
    rows = []
    for row in chosen.to_dict("records"):
        records = [str(name) for name in row["records"]]
        title = f"collapsed runs of {row['arm']}, {row['target']}, {row['size']}"
        rows.append(
            (
                Cell(str(row["size"])),
                Cell(subject.arm_labels.get(row["arm"], str(row["arm"]))),
                Cell(str(row["target"])),
                whole(row["num_runs"]),
                number(f"{row['num_collapsed']:.0f}", subject.evidence.set_of(title, records=records)),
                number(f"{100 * row['rate']:.0f} %"),
                Cell(row["reasons"] if isinstance(row["reasons"], str) else ", ".join(map(str, row["reasons"]))),
            )
        )
    caption = "Runs that learned next to nothing. They stay in all means."
    if subject.analysis.slopes["variant"].str.contains("collapsed").any():
        caption += " Slopes without them are among the sensitivity checks."
    columns = ("size", "arm", "target", "runs", "collapsed", "rate", "why")
    return Table("collapse", "Collapsed runs", caption, columns, tuple(rows), raw=collapse)


def _missing(subject: Subject) -> Table | None:
    missing = subject.analysis.results.missing
    if missing.empty:
        return None
    keys = ["size", "arm", "target", "why"]
    counts = missing.groupby(keys, sort=False, dropna=False).size()
    rows = tuple((*(Cell(str(value)) for value in key), whole(count)) for key, count in counts.items())
    caption = f"{len(missing):,} planned runs have no record. Each with its seeds is in the CSV file."
    return Table(
        "missing", "Missing from the grid", caption, (*keys, "runs"), rows, raw=missing, is_open=len(rows) <= 12
    )


def _costs(subject: Subject) -> Table | None:
    costs = subject.analysis.costs
    if costs.empty:
        return None
    return table_of_frame("costs", "Costs", "Of the arm, next to the headline gain.", costs, is_open=False)


def _file_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "table"


def data_files(subject: Subject, curve_spread: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Files without a table on the page: cells, records, scores (a column per language), spread of learning curves."""
    results = subject.analysis.results
    cells = subject.analysis.cells
    anchors = [f"cell-{place}" for place in range(len(cells))]
    heads = results.runs.drop_duplicates("record")
    by_record = [
        "record",
        "size",
        "arm",
        "target",
        "intermediate_seed",
        "target_seed",
        "rule",
        "first_loss",
        "last_loss",
    ]
    hours = ["gpu_hours", "arm_gpu_hours", "tokens"]
    records = heads[[*by_record, *hours]].assign(
        family=heads["size"].map(subject.families),
        file=[subject.evidence.record_link(name) for name in heads["record"]],
    )
    keys = ["record", "task", "rule", "language"]
    scores = results.runs.drop_duplicates(keys).set_index(keys)["score"].round(4).unstack().reset_index()
    files = {
        "cells": cells.drop(columns="records").assign(family=cells["size"].map(subject.families), anchor=anchors),
        "records": records,
        "scores": scores,
        "predictions": subject.analysis.predictions,
    }
    return files | ({"curves": curve_spread} if len(curve_spread) else {})
