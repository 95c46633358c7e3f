"""slurm/container.def: its sections parse, and what they name is there. Apptainer itself is not needed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "slurm" / "container.def"
KNOWN = {"arguments", "files", "post", "environment", "test", "runscript", "help"}


def sections() -> dict[str, str]:
    """The text of each section by name; the lines before the first under ''."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in RECIPE.read_text().splitlines():
        header = re.match(r"%(\w+)", line)
        if header:
            name = header[1]
            assert name not in found, f"%{name} twice"
            found[name] = []
        else:
            found[name].append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def arguments() -> dict[str, str]:
    lines = [line.strip() for line in sections()["arguments"].splitlines() if line.strip()]
    return dict(line.split("=", 1) for line in lines)


def filled(text: str) -> str:
    """The text with the build's arguments in place."""
    return re.sub(r"{{\s*(\w+)\s*}}", lambda match: arguments()[match[1]], text)


def test_it_has_the_sections_that_apptainer_knows_and_a_header() -> None:
    assert set(sections()) == KNOWN | {""}
    header = [line for line in sections()[""].splitlines() if line and not line.startswith("#")]
    assert header == ["Bootstrap: docker", "From: {{ base }}"]
    assert filled(header[1]) == f"From: {arguments()['base']}"


@pytest.mark.parametrize("name", ["post", "environment", "test", "runscript"])
def test_its_scripts_parse(name: str) -> None:
    done = subprocess.run(["bash", "-n"], input=filled(sections()[name]), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_files_that_are_copied_are_in_the_checkout() -> None:
    for line in filter(None, map(str.strip, sections()["files"].splitlines())):
        source, target = shlex.split(line)
        assert (ROOT / source).exists() and target == f"/opt/xlt_scale/{source}"


def test_what_the_installation_reads_is_among_the_files_that_are_copied() -> None:
    copied = {shlex.split(line)[0] for line in sections()["files"].splitlines() if line.strip()}
    project = (ROOT / "pyproject.toml").read_text()
    assert {re.search(r'^readme = "(.*)"', project, re.MULTILINE)[1], "pyproject.toml", "xlt_scale"} <= copied  # type: ignore[index]
    read = re.findall(r"\$xlt_checkout/(\w[\w.]*)", (ROOT / "launch" / "environment.sh").read_text())
    assert read and set(read) <= copied


@pytest.mark.parametrize("hardware", ["cuda", "cpu"])
def test_there_are_versions_for_each_kind_of_hardware(hardware: str) -> None:
    assert (ROOT / "constraints" / f"{hardware}.txt").is_file()
    assert hardware in RECIPE.read_text() and arguments()["hardware"] in ("cuda", "cpu")


def test_scripts_and_commands_that_it_starts_are_there() -> None:
    text = RECIPE.read_text()
    for path in re.findall(r"(?:/opt/xlt_scale/|bash )(launch/[\w.]+)", text):
        assert (ROOT / path).is_file(), path
    commands = set(re.findall(r"xlt-scale (\w+)", text))
    command = [sys.executable, "-m", "xlt_scale.cli", "--help"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {"prefetch", "doctor", "sizes"} == commands and all(command in listed for command in commands)
