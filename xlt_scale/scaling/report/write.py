"""Writes the report of a study into a folder."""

from pathlib import Path

from xlt_scale.scaling.report.drawing import write_drawing
from xlt_scale.scaling.report.evidence import Evidence
from xlt_scale.scaling.report.figure_curves import curve_tables
from xlt_scale.scaling.report.figures import draw_figures
from xlt_scale.scaling.report.page import Parts, render
from xlt_scale.scaling.report.study_tables import (
    data_files,
    extra_tables,
    further_tables,
    group_tables,
    key_table,
    slope_table,
)
from xlt_scale.scaling.report.subject import subject_of
from xlt_scale.scaling.report.tables import write_csv, write_table
from xlt_scale.scaling.report.tidy import tidied
from xlt_scale.scaling.results import Analysis


def write_report(analysis: Analysis, folder: Path, records_root: str = "..") -> Path:
    """Writes `index.html`, `figures/` (SVG and PDF) and `tables/` (CSV and LaTeX); returns the page's path.

    Args:
        records_root: the study's folder as seen from the report's, for links to the files of records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    analysis = tidied(analysis)
    subject = subject_of(analysis, Evidence(analysis, records_root))
    curves = curve_tables(subject)
    figures = draw_figures(subject, curves)
    key = key_table(subject)
    keys = [key] if key is not None else []
    kind = analysis.results.facts.kind
    if kind not in ("size", "grid") or (kind == "size" and subject.has_families):
        keys += extra_tables(subject)[:1]  # what such a question's answer rests on
    slopes = slope_table(subject)
    further = [table for table in further_tables(subject) if table.name not in {table.name for table in keys}]
    tables = [*group_tables(subject), *([slopes] if slopes is not None else []), *further]
    for table in [*keys, *tables]:
        write_table(table, folder / "tables")
    files = data_files(subject, curves.spread)
    for name, frame in files.items():
        write_csv(frame, folder / "tables" / f"{name}.csv")
    labels = subject.evidence.labels
    written = [write_drawing(drawing, labels, folder / "figures") for drawing in figures.drawings]
    page = render(subject, Parts(keys, written, figures.left_out, tables, tuple(files)))
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8", newline="\n")
    return path
