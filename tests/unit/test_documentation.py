"""The pages say what the program does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from xlt_scale.config import load_run
from xlt_scale.errors import UserError
from xlt_scale.option_reference import run_file_reference, study_file_reference
from xlt_scale.training.setup import check_before_launch

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "ds_configs" / "README.md"]


def test_the_page_of_the_run_file_is_up_to_date() -> None:
    assert (ROOT / "docs" / "run_file.md").read_text() == run_file_reference(), (
        "run: xlt-scale options > docs/run_file.md"
    )


def test_the_page_of_the_study_file_is_up_to_date() -> None:
    assert (ROOT / "docs" / "study_file.md").read_text() == study_file_reference(), (
        "run: xlt-scale options --study > docs/study_file.md"
    )


@pytest.mark.parametrize("run_file", sorted((ROOT / "launch" / "runs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_run_file_is_valid(run_file: Path) -> None:
    check_before_launch(load_run(run_file, ["output=runs/somewhere"]))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_run_files_and_scripts_in_commands_exist(page: Path) -> None:
    for command in commands(page):
        for path in re.findall(r"(?:launch|tests|ds_configs|benchmarks|studies|slurm)/[\w./-]+", command):
            assert (ROOT / path).exists(), f"{page.name}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_settings_in_commands_are_valid(page: Path) -> None:
    for command in commands(page):
        run_file = re.search(r"launch/runs/[\w.-]+\.toml", command)
        if run_file:
            load_run(ROOT / run_file[0], re.findall(r"--set (\S+)", command))


@pytest.mark.parametrize("command", ["sizes", "tasks", "tasks xnli", "options", "options --study", "doctor"])
def test_the_command_line_answers(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xlt_scale.cli", *command.split()], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_an_unknown_task_is_answered_with_the_nearest_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xlt_scale.cli", "tasks", "xnlx"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "error: task 'xnlx' is unknown; did you mean 'xnli'? (`xlt-scale tasks` lists them)"


def test_every_documented_deepspeed_key_is_in_a_file_and_the_other_way_round() -> None:
    page = (ROOT / "ds_configs" / "README.md").read_text()
    for file in (ROOT / "ds_configs").glob("*.json"):
        assert f"`{file.name}`" in page
        for key in re.findall(r'"(\w+)":', file.read_text()):
            assert key in page or key in ("zero_optimization", "data_types", "device", "pin_memory"), key


def test_a_run_without_output_folder_is_refused() -> None:
    options = load_run(ROOT / "launch" / "runs" / "micro.toml", ["output=''"])
    with pytest.raises(UserError, match="output is not set"):
        check_before_launch(options)
