"""A drawn figure as SVG for the page, SVG and PDF for a paper.

Matplotlib's ids (of clip paths, markers, hatches) are the same in every figure and would collide on one page; its links
have no names. Both are put right here, in the text of the SVG.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from xlt_scale.scaling.report.style import SETTINGS

PAGE = "../index.html"


@dataclass(frozen=True)
class Drawing:
    """A figure before it is written.

    Attributes:
        name: of its files and its place in the page.
        caption: what is shown, what the intervals are, exact numbers of seeds.
        description: the same for those who cannot see it.
    """

    name: str
    title: str
    caption: str
    description: str
    figure: Figure


@dataclass(frozen=True)
class Written:
    """A figure as the page shows it."""

    name: str
    title: str
    caption: str
    svg: str
    num_links: int


def write_drawing(drawing: Drawing, labels: Mapping[str, str], folder: Path) -> Written:
    """Writes the paper's two files and returns the page's figure."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": drawing.name}):
        text = _svg(drawing.figure)
        drawing.figure.savefig(
            folder / f"{drawing.name}.pdf", format="pdf", metadata={"CreationDate": None, "Title": drawing.title}
        )
    text = _with_own_ids(text, drawing.name)
    text = _with_widespread_fonts(text)
    inline = _named(_links_named(text, labels), drawing)
    standalone = inline.replace(' href="#', f' xlink:href="{PAGE}#')  # the prefix is for older programs
    standalone = standalone.replace(f"{PAGE}#{drawing.name}-", f"#{drawing.name}-")
    (folder / f"{drawing.name}.svg").write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n{standalone}', encoding="utf-8", newline="\n"
    )
    num_links = len(re.findall(r"<a href=", inline))
    return Written(drawing.name, drawing.title, drawing.caption, inline, num_links)


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


def _with_own_ids(text: str, prefix: str) -> str:
    """Ids that are referred to get the figure's name in front, others go."""
    used = set(re.findall(r"url\(#([^)]+)\)", text))
    used |= set(re.findall(r'xlink:href="#([^"]+)"', text))
    defined = set(re.findall(r'\bid="([^"]+)"', text))

    def definition(match: re.Match[str]) -> str:
        return f' id="{prefix}-{match[1]}"' if match[1] in used else ""

    def reference(match: re.Match[str]) -> str:
        own = f"{prefix}-{match[1]}" if match[1] in defined else match[1]
        return f'href="#{own}"'

    text = re.sub(r'\s+\bid="([^"]+)"', definition, text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    return re.sub(r'xlink:href="#([^"]+)"', reference, text)


def _with_widespread_fonts(text: str) -> str:
    """Verdana has the widths of DejaVu Sans, which only Linux machines have."""
    return text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")


def _links_named(text: str, labels: Mapping[str, str]) -> str:
    """Each link says what it leads to, to pointers and to screen readers."""

    def link(match: re.Match[str]) -> str:
        label = escape(labels.get(match[1], match[1].lstrip("#")))
        return f'<a href="{match[1]}" aria-label="{label}"><title>{label}</title>'

    return re.sub(r'<a href="(#[^"]+)"[^>]*>', link, text)


def _named(text: str, drawing: Drawing) -> str:
    """Title and description as the first elements of the SVG; a size that follows the page."""
    head_end = text.index(">") + 1
    head = text[:head_end]
    view = re.search(r'viewBox="([^"]+)"', head)
    assert view is not None
    width, height = view[1].split()[2:]
    names = f"{drawing.name}-title {drawing.name}-description"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{view[1]}" '
        f'width="{width}pt" height="{height}pt" role="group" aria-labelledby="{names}">'
        f'<title id="{drawing.name}-title">{escape(drawing.title)}</title>'
        f'<desc id="{drawing.name}-description">{escape(drawing.description)}</desc>' + text[head_end:]
    )
