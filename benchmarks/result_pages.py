"""Pages of results whose measured section a benchmark writes anew; what people wrote around it stays."""

from collections.abc import Iterable
from pathlib import Path


def replace_section(page: Path, section: str, lines: Iterable[str]) -> None:
    """Put `lines` behind the heading `section` of a page, in place of all up to the next one."""
    before, _, after = page.read_text().partition(section)
    _, heading, after = after.partition("\n## ")
    page.write_text(before + section + "\n" + "\n".join(lines) + "\n" + heading + after)
