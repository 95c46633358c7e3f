"""After a prefetch, runs go without a network and tokenise nothing; without one, they say what is missing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import CONVERTED_COMMIT, RUN, fill, hub_stand_in, write_contents
from runs import ROOT, Finished, launcher, start
from small_data import SMALL_MODEL, write_small_data
from test_task_formats import EXTRA, REAL_TASKS

from xlt_scale.config import load_run
from xlt_scale.data.token_cache import files_noted
from xlt_scale.engines.world import World
from xlt_scale.training.prefetch import prefetch
from xlt_scale.training.prefetched import LIST
from xlt_scale.training.run import run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A login node's folder after a prefetch: home/, cache/, output/ and run.toml. The hub is gone."""
    folder = tmp_path_factory.mktemp("login")
    (folder / "run.toml").write_text(RUN)
    online = {
        name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    }
    with hub_stand_in() as hub:
        fill(hub, write_contents(folder))
        done = subprocess.run(
            [sys.executable, "-m", "xlt_scale.cli", "prefetch", str(folder / "run.toml"), *settings(folder)],
            env=online | {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "home")},
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    yield folder


def settings(folder: Path) -> list[str]:
    own = ("engine.name=fsdp2", f"data.cache={folder / 'cache'}", f"output={folder / 'output'}")
    return [part for setting in own for part in ("--set", setting)]


def job(folder: Path, home: Path, *arguments: str) -> Finished:
    """The run on two processes of a node that has no network."""
    command = [*launcher("torchrun"), str(ROOT / "launch" / "train.py"), str(folder / "run.toml"), *settings(folder)]
    return start([*command, *arguments], HF_HUB_OFFLINE="1", HF_HOME=str(home), HF_ENDPOINT="http://127.0.0.1:9")


def kept_tokens(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (cache / "tokens").glob("*.safetensors")}


def test_a_run_without_a_network_takes_what_was_fetched_and_tokenises_nothing(home: Path) -> None:
    before = kept_tokens(home / "cache")
    done = job(home, home / "home")
    assert done.code == 0, done.output[-4000:]
    assert before and kept_tokens(home / "cache") == before
    facts = json.loads((home / "output" / "phases" / "first" / "phase.json").read_text())
    assert facts["data"] == {
        "converted": {"en": {"from": "hub dataset someone/converted", "revision": CONVERTED_COMMIT}}
    }


def test_a_run_without_a_network_says_once_what_is_missing(home: Path, tmp_path: Path) -> None:
    done = job(home, home / "home", "--set", "model.revision=v2", "--set", f"output={tmp_path}")
    errors = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert done.code != 0
    assert errors == [
        f"error: model.name = 'someone/model' cannot be loaded: it is not in the cache {home}/home/hub, and "
        "HF_HUB_OFFLINE is set; run xlt-scale prefetch RUN.toml on a node with a network, or give a folder with "
        "config.json"
    ]


@pytest.mark.parametrize("which", ["published", "extra"])
def test_a_run_of_every_format_finds_its_tokens(which: str, tmp_path: Path, world: World) -> None:
    path = tmp_path / "run.toml"
    path.write_text(EXTRA if which == "extra" else Path(REAL_TASKS).read_text())
    data = write_small_data(tmp_path / "data")
    phases = [phase.name for phase in load_run(path).phases]
    own = [f"data.root={data}", f"data.cache={tmp_path / 'cache'}", f"output={tmp_path / 'output'}"]
    own += ["engine.name=fsdp2", "logging.tensorboard=false", "logging.progress=none"]
    own += [f"phases.{name}.steps=1" for name in phases]
    if which == "published":
        shape = load_run(_small(tmp_path)).model.architecture
        own += ["model.tokenizer=train:300", *(f"model.architecture.{name}={value}" for name, value in shape.items())]
    options = load_run(path, own)
    with files_noted() as fetched:
        entries = prefetch([options], tmp_path / "output", lambda line: None)
    before = kept_tokens(tmp_path / "cache")
    with files_noted() as used:
        run(options)
    assert kept_tokens(tmp_path / "cache") == before
    assert set(used) == set(fetched)
    listed = {path for entry in entries if entry.kind == "tokens" for path in entry.files}
    assert listed == {str(path) for path in fetched} and (tmp_path / "output" / LIST).is_file()


def _small(folder: Path) -> Path:
    path = folder / "small.toml"
    path.write_text(f"{SMALL_MODEL}\n[[phases]]\nname = 'mlm'\ntask = 'mlm'\nsteps = 1\n")
    return path
