"""The page itself: one HTML file that needs nothing beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import jinja2

from xlt_scale.scaling.report.drawing import Written
from xlt_scale.scaling.report.evidence import embedded
from xlt_scale.scaling.report.numbers import estimate, interval, plain, signed
from xlt_scale.scaling.report.subject import Subject
from xlt_scale.scaling.report.tables import Table

MOST_STATIC_CELLS = 1000  # cells that are also written out for readers without scripts


@dataclass(frozen=True)
class Parts:
    """What the page is made of.

    Attributes:
        left_out: why figures are not there.
        files: names of the CSV files that have no table on the page.
    """

    key_tables: Sequence[Table]
    figures: Sequence[Written]
    left_out: Sequence[str]
    tables: Sequence[Table]
    files: Sequence[str]


def render(subject: Subject, parts: Parts) -> str:
    """The page as text. All anchors must have been handed out before."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(signed=signed, plain=plain, interval=interval, estimate=estimate)
    cells = subject.analysis.cells
    static_cells = cells.to_dict("records") if len(cells) <= MOST_STATIC_CELLS else []
    return environment.from_string(_package_file("page.html.j2")).render(
        analysis=subject.analysis,
        facts=subject.analysis.results.facts,
        parts=parts,
        style=_package_file("page.css"),
        script=_package_file("page.js"),
        data=embedded(subject.evidence.data()),
        static_cells=static_cells,
        record_link=subject.evidence.record_link,
        num_records=len(subject.analysis.results.record_paths),
        num_cells=len(cells),
        has_families=subject.has_families,
        sizes=subject.sizes_in_words() if subject.sizes else "",
    )


def _package_file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
