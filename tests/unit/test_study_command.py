"""`xlt-scale study`: what it prints, and what it answers to bad input."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from tiny_study import tiny_study
from typer.testing import CliRunner, Result

from xlt_scale.cli import app
from xlt_scale.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def command(*words: object) -> Result:
    return CliRunner().invoke(app, ["study", *map(str, words)])


def refusal(*words: object) -> str:
    """The one line that a command ends with."""
    error = command(*words).exception
    assert isinstance(error, UserError), error
    assert "\n" not in str(error)
    return str(error)


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    return write(tmp_path)


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "tiny.toml"
    file.write_text(tomli_w.dumps(tiny_study(folder, **changes).model_dump(mode="json", exclude_none=True)))
    return file


def test_a_dry_run_prints_the_grid_its_cost_and_its_disk_and_writes_nothing(study_file: Path) -> None:
    done = command("run", study_file, "--dry-run")
    assert done.exit_code == 0, done.output
    for part in ("micro-small", "nli", "phases: 14", "disk: at most"):
        assert part in done.output
    assert not (study_file.parent / "study").exists()


def test_a_dry_run_for_programs_counts_what_is_shared_done_and_left(study_file: Path) -> None:
    plan = json.loads(command("run", study_file, "--dry-run", "--json", "--set", "seeds.target=[1,2]").output)
    assert (plan["phases"], plan["done"], plan["left"]) == (22, 0, 22)
    assert plan["shared"] == 4  # each intermediate phase comes before two target phases
    assert [row["size"] for row in plan["sizes"]] == ["micro-small", "micro-large"]
    assert plan["device_hours"] > 0 and plan["disk_peak_bytes"] > 0


def test_a_setting_changes_the_grid(study_file: Path) -> None:
    plan = json.loads(command("run", study_file, "--dry-run", "--json", "--set", "seeds.target=[1,2,3]").output)
    assert plan["phases"] == 14 + 2 * 2 * 2 * 2


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    assert "has no study.toml; give the study file or another folder" in refusal("status", tmp_path)


@pytest.mark.parametrize("words", [["status"], ["report"], ["collect"]])
def test_a_study_that_was_not_started_is_refused_with_what_starts_it(study_file: Path, words: list[str]) -> None:
    assert "no study was started there; xlt-scale study run starts it" in refusal(*words, study_file)


def test_a_run_file_is_no_study_file() -> None:
    assert "this is a run file; start it with launch/train.py" in refusal("run", ROOT / "launch/runs/micro.toml")


def test_an_unknown_executor_is_refused(study_file: Path) -> None:
    assert "--executor cloud: there are local and slurm" in refusal("run", study_file, "--executor", "cloud")


def test_an_unknown_task_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    target = {"name": "valence", "phase": {"task": "micro-valense", "steps": 2}, "evaluate": ["micro-valence"]}
    file = write(tmp_path, targets=[target])
    assert "task 'micro-valense' is unknown; did you mean 'micro-valence'?" in refusal("run", file)
    assert not (tmp_path / "study").exists()


def test_status_and_report_of_a_study_without_records_say_so(study_file: Path) -> None:
    (study_file.parent / "study" / "records").mkdir(parents=True)
    assert "0 of 14 phases done" in command("status", study_file).output
    assert "no scored phase of this study is recorded yet" in refusal("report", study_file)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "xlt_scale.cli", "micro-world", str(tmp_path / "file" / "world")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/file/") and done.stderr.count("\n") == 1
