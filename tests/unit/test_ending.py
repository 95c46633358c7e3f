"""How a program ends: its exit code, its line and its end file."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
from xlt_scale.cluster.ending import LostError, StoppedError, run_as_program
from xlt_scale.errors import TrainingError, UserError
def main():
    {body}
run_as_program(main)
"""


def end(body: str, folder: Path) -> tuple[int, str, dict[str, Any]]:
    """Exit code, what was said, and the end file of a program."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        env={"XLT_SCALE_END_FOLDER": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    path = folder / f"{socket.gethostname()}.json"
    return done.returncode, done.stderr, json.loads(path.read_text()) if path.exists() else {}


def test_a_program_that_ends_well_leaves_no_end_file(tmp_path: Path) -> None:
    assert end("pass", tmp_path) == (0, "", {})


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise StoppedError('saved at step 3')", 85, "stopped: saved at step 3\n"),
        ("raise LostError('2 of 4 have come')", 86, "lost: 2 of 4 have come\n"),
        ("raise UserError('mend the file')", 2, "error: mend the file\n"),
        ("raise TrainingError('the loss is nan')", 1, "stopped: the loss is nan\n"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_each_kind_of_end_has_its_code_its_line_and_its_file(body: str, code: int, said: str, tmp_path: Path) -> None:
    found_code, found, ending = end(body, tmp_path)
    assert (found_code, found, ending["code"]) == (code, said, code)
    assert ending["reason"] in said or code == 130


def test_a_stop_tells_how_far_the_run_was(tmp_path: Path) -> None:
    _, _, ending = end("raise StoppedError('saved', 'target', 140)", tmp_path)
    assert (ending["phase"], ending["step"]) == ("target", 140)


def test_an_unexpected_error_has_its_traceback_and_one_line_in_the_file(tmp_path: Path) -> None:
    code, said, ending = end("raise KeyError('x')", tmp_path)
    assert code == 1 and "Traceback" in said
    assert ending["reason"] == "rank 0 failed: KeyError: 'x'"


def test_the_first_end_file_of_a_node_stays(tmp_path: Path) -> None:
    end("raise StoppedError('first')", tmp_path)
    assert end("raise KeyError('later')", tmp_path)[2]["reason"] == "first"


def test_a_folder_that_cannot_be_written_does_not_hide_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, said, ending = end("raise StoppedError('saved')", tmp_path / "file")
    assert (code, said, ending) == (85, "stopped: saved\n", {})
