"""Mixtures of tasks and languages as they are trained: launch/runs/mixtures.toml."""

import re
import shutil
from collections import Counter
from itertools import count
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, rows, scores, train_forked

from xlt_scale.config import load_run
from xlt_scale.engines.world import World
from xlt_scale.training import loop
from xlt_scale.training.run import run

MIXTURES = ROOT / "launch" / "runs" / "mixtures.toml"
LANGUAGES = ["qea", "qeb", "qen", "qfa", "qfb", "qga", "qgb", "qha"]
PHASES = [phase.name for phase in load_run(MIXTURES).phases]
SETTINGS = (
    "engine.name=fsdp2",
    "logging.every=1",
    "logging.tensorboard=false",
    "logging.progress=plain",
    "checkpoints.minutes=0",
    *(f"phases.{name}.batch_size=8" for name in PHASES),
)


@pytest.fixture(scope="module")
def two_ranks(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole run, of two processes."""
    folder = tmp_path_factory.mktemp("mixtures") / "run"
    ended = train_forked(folder, cache, *SETTINGS, run=str(MIXTURES))
    assert ended.code == 0, ended.output
    return folder


@pytest.fixture(scope="module")
def shorter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file of two of its mixtures and what they start from."""
    head, *phases = MIXTURES.read_text().split("[[phases]]\n")
    path = tmp_path_factory.mktemp("shorter") / "run.toml"
    chosen = [
        text for text in phases if any(f'name = "{name}"' in text for name in ("pretrain", "proportional", "joint"))
    ]
    assert len(chosen) == 3
    path.write_text("[[phases]]\n".join([head, *chosen]))
    return path


def go(run_file: Path, folder: Path, cache: Path, *settings: str) -> None:
    """Carry out the shorter run in this process."""
    chosen = [setting for setting in SETTINGS if not setting.startswith("phases.")]
    sizes = [f"phases.{name}.batch_size=8" for name in ("pretrain", "proportional", "joint")]
    run(load_run(run_file, [*chosen, *sizes, f"output={folder}", f"data.cache={cache}", *settings]))


@pytest.fixture(scope="module")
def alone(world: World, shorter: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the shorter run, of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    go(shorter, folder, cache)
    return folder


def drawn(folder: Path, phase: str) -> list[str]:
    """What each step of a phase has trained."""
    return [row["task"] for row in rows(folder) if row["phase"] == phase]


def losses(folder: Path) -> dict[tuple[str, int], tuple[str, float]]:
    return {(row["phase"], row["step"]): (row["task"], row["loss"]) for row in rows(folder)}


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("phase", "shares"),
    [
        ("pretrain", {f"micro-mlm/{language}": 1 / 8 for language in LANGUAGES}),
        ("proportional", {"micro-nli": 0.5, "micro-topic": 0.25, "micro-valence": 0.25}),
        ("temperature", {"micro-nli": 0.5, "micro-topic": 0.25, "micro-valence": 0.25}),
        ("uniform", {"micro-nli": 1 / 3, "micro-topic": 1 / 3, "micro-valence": 1 / 3}),
        ("weights", {"micro-nli": 0.75, "micro-topic": 0.25}),
        ("first", {"micro-nli": 1.0}),
        ("second", {"micro-topic": 1.0}),
        ("joint", {"micro-nli": 0.5, **{f"micro-mlm/{language}": 0.5 / 3 for language in ("qea", "qfa", "qga")}}),
        ("several-languages", {"translated-nli": 1.0}),
    ],
)
def test_tasks_and_languages_are_drawn_about_as_often_as_their_shares_say(
    phase: str, shares: dict[str, float], two_ranks: Path
) -> None:
    steps = drawn(two_ranks, phase)
    found = Counter(steps)
    assert set(found) == set(shares)
    for name, share in shares.items():
        deviation = sqrt(share * (1 - share) / len(steps))
        assert found[name] / len(steps) == pytest.approx(share, abs=3 * deviation), name


@pytest.mark.distributed
def test_every_step_trains_a_batch_whatever_is_drawn(two_ranks: Path) -> None:
    for phase in PHASES:
        examples = [row["examples"] for row in rows(two_ranks) if row["phase"] == phase]
        assert examples == list(range(8, 8 * len(examples) + 1, 8))


@pytest.mark.distributed
def test_what_was_trained_in_other_languages_is_scored_on_what_they_leave(two_ranks: Path) -> None:
    found = scores(two_ranks)["translated-nli"]
    assert {language: values["num_items"] for language, values in found.items()} == dict.fromkeys(LANGUAGES, 180)


@pytest.mark.distributed
def test_one_process_draws_the_same_tasks_and_examples_as_two(two_ranks: Path, alone: Path) -> None:
    together, apart = losses(two_ranks), losses(alone)
    for place, (task, loss) in apart.items():
        assert together[place][0] == task
        assert together[place][1] == pytest.approx(loss, rel=1e-3), place


def test_a_mixture_that_was_interrupted_goes_on_with_the_same_draws(
    world: World,
    alone: Path,
    shorter: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Killed(BaseException):
        pass

    steps = count()

    def die(*arguments: Any) -> float:
        if next(steps) == 33:
            raise Killed
        return rate(*arguments)

    rate = loop.learning_rate_at
    folder = Path(shutil.copytree(alone, tmp_path / "run", symlinks=True))
    shutil.rmtree(folder / "phases" / "joint")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "learning_rate_at", die)
        with pytest.raises(Killed):
            go(shorter, folder, cache, "checkpoints.every=10")
    assert len(drawn(folder, "joint")) == 33
    go(shorter, folder, cache)
    assert "phase joint: goes on after step 30 of 60" in capfd.readouterr().err
    assert losses(folder) == losses(alone)


def test_a_phase_in_the_page_on_mixtures_is_one_that_can_be_run(tmp_path: Path) -> None:
    head = '[model]\nsize = "micro-small"\ntokenizer = "micro"\n'
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "mixtures.md").read_text(), re.DOTALL)
    assert len(blocks) > 5
    path = tmp_path / "run.toml"
    for block in blocks:
        path.write_text(head + block)
        load_run(path)
