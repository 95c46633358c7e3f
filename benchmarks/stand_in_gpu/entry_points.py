"""Every function that CUDA's headers declare, as one that does nothing and says that all went well."""

import re
from collections.abc import Iterable
from pathlib import Path

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
# A type or a calling convention, a name, parameters that may have defaults, and no body.
_PROTOTYPE = re.compile(
    r"\b(?!return\b)[A-Za-z_]\w*[\s*]+((?:cu|nccl)[A-Za-z]\w*)\s*\([^;{}]*\)[^;{}()]*(?:\([^;{}]*\)\s*)*;"
)
# '#define cuMemAlloc cuMemAlloc_v2': programs ask the driver for either name.
_RENAMED = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(cu\w+)[ \t]+(?:\w+\()?(cu\w+)", re.MULTILINE)

# Reads and writes files, also without a GPU; its own library does that.
_LEFT_ALONE = "cuFile"


def declared_functions(header: str) -> set[str]:
    """Names of the functions that the text of a header declares, under all of the names they have."""
    text = _COMMENT.sub(" ", header)
    names = set(_PROTOTYPE.findall(text))
    for old, new in _RENAMED.findall(text):
        names |= {old, new}
    return {name for name in names if not name.startswith(_LEFT_ALONE)}


def read_headers(folders: Iterable[Path]) -> set[str]:
    """The same of all headers that lie in some folders."""
    headers = (header for folder in folders for header in sorted(folder.glob("*.h")))
    return {name for header in headers for name in declared_functions(header.read_text(errors="replace"))}


def source_of(names: Iterable[str]) -> str:
    """C source of functions with these names. They are weak: one of the same name that does something comes first."""
    lines = (f"__attribute__((weak)) long {name}(void) {{ return 0; }}" for name in sorted(names))
    return "\n".join(lines) + "\n"
