"""What the tests of options, tasks and data share: a small tokenizer and a way to write files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.modeling.tokenizer import load_tokenizer, trained_tokenizer

TEXT = [
    "the old man walks slowly to the market in the morning",
    "a young woman reads the long letter near the window",
    "seven children play with a red ball behind the school",
    "nobody knows where the grey cat sleeps at night",
    "the fisherman sells fresh fish and cold water",
    "my sister writes a short story about a distant island",
]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small Unigram tokenizer that frames sequences as XLM-R does."""
    return load_tokenizer(str(trained_tokenizer(TEXT, 120, tmp_path_factory.mktemp("tokenizer"))))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a UTF-8 file below a fresh folder, line ends as given, and returns its path."""

    def write_file(name: str, content: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
        return path

    return write_file
