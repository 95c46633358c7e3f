"""What is fetched for a study: for each size, what any of its phases needs, once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from xlt_scale.scaling.grid.design import design
from xlt_scale.scaling.prefetch import runs_of_study
from xlt_scale.study_config import StudyOptions, load_study
from xlt_scale.training.prefetch import needs_of, request_of

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "studies" / "micro" / "quickstart.toml"


def study(*settings: str, file: Path = QUICKSTART) -> StudyOptions:
    return load_study(file, [*settings])


def test_there_is_a_run_for_each_size_with_its_own_model() -> None:
    options = study()
    runs = runs_of_study(options)
    assert [run.model.size or run.model.architecture["hidden_size"] for run in runs] == [
        run.model.size or run.model.architecture["hidden_size"] for run in design(options).runs.values()
    ]


@pytest.mark.parametrize("file", sorted((ROOT / "studies").glob("**/*.toml")), ids=lambda path: path.stem)
def test_what_any_phase_needs_is_there_and_nothing_twice(file: Path) -> None:
    options = study(file=file)
    wanted: dict[str, set[str]] = {}
    for phase in design(options).phases.values():
        wanted.setdefault(phase.size, set()).add(needs_of(phase.options))
    for size, run in zip(options.sizes, runs_of_study(options), strict=True):
        needs = [needs_of(phase) for phase in run.phases]
        assert len(needs) == len(set(needs)) and wanted[size.name] <= set(needs)


def test_targets_are_fetched_before_a_search_has_chosen_their_learning_rate() -> None:
    searched = study("search.learning_rates=[1e-4, 3e-4]")
    assert design(searched).waiting
    tests_scored = {task for phase in runs_of_study(study())[0].phases for task in phase.evaluate}
    found = [phase for phase in runs_of_study(searched)[0].phases if phase.evaluate_split == "auto"]
    assert tests_scored <= {task for phase in found for task in phase.evaluate}


def test_more_seeds_need_no_further_prefetch() -> None:
    before = request_of(runs_of_study(study()))
    assert request_of(runs_of_study(study("seeds.intermediate=[1, 2, 3, 4, 5]"))) == before
    assert request_of(runs_of_study(study("run.model.max_length=48"))) != before


@pytest.mark.slow
def test_a_study_is_prefetched_into_its_folder_and_checked(tmp_path: Path, cache: Path) -> None:
    command = [sys.executable, "-m", "xlt_scale.cli", "prefetch", str(QUICKSTART), "--json"]
    own = ["--output", str(tmp_path / "study"), "--set", f"run.data.cache={cache}"]
    done = subprocess.run([*command, *own], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len({row["what"] for row in rows}) == len(rows)
    entries = json.loads((tmp_path / "study" / "prefetched.json").read_text())["entries"]
    tokens = [path for entry in entries if entry["kind"] == "tokens" for path in entry["files"]]
    assert tokens and len(tokens) == len(set(tokens))
    checked = subprocess.run([*command, *own, "--check"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert checked.returncode == 0, checked.stderr
