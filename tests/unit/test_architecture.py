"""Imports point one way, files stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "xlt_scale"

# docs/architecture.md: a room imports from itself and from those before it.
ROOMS = [
    "errors",
    "cluster",
    "hub",
    "collector",
    "config_files",
    "presets",
    "option_types",
    "phase_options",
    "config",
    "study_config",
    "sizes",
    "micro",
    "tasks",
    "data",
    "modeling",
    "engines",
    "checkpoint",
    "evaluation",
    "training",
    "planning",
    "doctor",
    "scaling",
    "option_reference",
    "cli_checkpoint",
    "cli_convert",
    "cli_doctor",
    "cli_export",
    "cli_plan",
    "cli_prefetch",
    "cli_score",
    "cli_sizes",
    "cli_study",
    "cli_tasks",
    "cli",
]
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("xlt_scale.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return
    allowed = set(ROOMS[: ROOMS.index(room(path)) + 1])
    assert imported_rooms(path) <= allowed


def test_every_room_is_on_the_map() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {room(path) for path in FILES} - {"__init__"}
    assert rooms == set(ROOMS)
    assert not [name for name in rooms - {"errors", "option_reference"} if name not in page]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_has_over_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_launch_scripts_stay_under_100_lines() -> None:
    for path in (ROOT / "launch").glob("*.py"):
        assert len(path.read_text().splitlines()) < 100, path.name


def test_importing_the_package_says_nothing_and_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    script = "import sys, xlt_scale.config, xlt_scale.tasks.catalogue; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
