"""Kill a study's runner and jobs at random moments, start it again, and compare its records with an undisturbed one's.

Three kinds of kill, all by SIGKILL: of the runner alone (its jobs go on as orphans, and the next runner has to wait for
them), of one job (the runner has to try it again), and of everything at once (as when a machine goes down).

    python benchmarks/study_kills.py --kills 10 --seed 1 --report benchmarks/study_kills_cpu_DATE.md
"""

import argparse
import json
import os
import random
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Before anything imports torch; the jobs inherit it.
os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")

from study_kills_processes import has_ended, kill_job, live_jobs, start_runner, wait_for_end

from xlt_scale.config import DataOptions
from xlt_scale.data.prepare import micro_world_folder
from xlt_scale.scaling.grid.design import design
from xlt_scale.scaling.grid.folder import StudyFolder, read_facts
from xlt_scale.scaling.running.claims import is_claimed
from xlt_scale.scaling.running.events import read_events
from xlt_scale.study_config import StudyOptions

KINDS = {"runner": "the runner alone", "job": "one job", "everything": "everything at once"}
SECONDS_PER_START = 240.0
SLOTS = 2

STUDY: dict[str, Any] = {
    "name": "killed",
    "question": "Is anything lost?",
    "seeds": {"intermediate": [1, 2], "target": [1]},
    "run": {
        "model": {"tokenizer": "micro", "max_length": 64, "dropout": 0.1},
        "engine": {"name": "fsdp2", "repeatable": True, "max_tokens_per_micro_batch": 512},
        "checkpoints": {"every": 2, "minutes": 0.0},
        "logging": {"every": 1, "progress": "plain"},
    },
    "pretraining": [{"mixture": {"micro-mlm": 0.4, "micro-tlm": 0.6}, "steps": 9}],
    "intermediate": {"steps": 9, "batch_size": 8, "max_examples": 40, "learning_rate": 1e-3},
    "target": {"batch_size": 8, "max_examples": 40, "learning_rate": 1e-3, "evaluate_languages": ["qen", "qea"]},
    "sizes": [{"name": "micro-small"}, {"name": "micro-large"}],
    "arms": [{"name": "none"}, {"name": "nli", "phases": [{"task": "micro-nli"}]}],
    "targets": [
        {"name": "valence", "phase": {"task": "micro-valence", "steps": 7}, "evaluate": ["micro-valence"]},
        {"name": "retrieval", "phase": {"evaluate_languages": ["qea"]}, "evaluate": ["micro-retrieval"]},
    ],
}
STUDY["pretraining"][0] |= {"batch_size": 8, "max_examples": 40, "learning_rate": 2e-3}


@dataclass
class Row:
    """One study through its kills."""

    number: int
    kills: list[str] = field(default_factory=list)
    starts: int = 0
    waited: int = 0
    retried: int = 0
    seconds: float = 0.0
    done_at_kills: list[int] = field(default_factory=list)
    phases: int = 0
    trained_twice: int = 0
    resumed: int = 0
    is_equal: bool = False
    problems: list[str] = field(default_factory=list)


def study_in(root: Path, cache: Path, small: bool) -> StudyOptions:
    table = json.loads(json.dumps(STUDY)) | {"output": str(root)}
    if small:
        table["sizes"] = table["sizes"][:1]
    table["run"]["data"] = {"cache": str(cache)}
    return StudyOptions.model_validate(table)


def finished_facts(folder: StudyFolder) -> dict[str, Any]:
    """What phase.json says of every recorded phase, but for where its weights are: with its seconds to the last digit,
    so that a phase that is trained again says something else.
    """
    facts = {name: read_facts(folder.phase(name) / "phase.json") for name in folder.recorded()}
    return {name: {key: value for key, value in table.items() if key != "checkpoint"} for name, table in facts.items()}


def records(folder: StudyFolder) -> dict[str, Any]:
    """The scores of every record, by phase."""
    return {name: read_facts(folder.record_file(name))["scores"] for name in sorted(folder.recorded())}


def kill(kind: str, runner: Any, folder: StudyFolder, draw: random.Random) -> None:
    jobs = live_jobs(folder)
    if kind == "job" and jobs:
        kill_job(jobs[draw.choice(sorted(jobs))])
        return
    kill_job(runner.pid)
    runner.wait()
    if kind == "everything":
        for pid in live_jobs(folder).values():
            kill_job(pid)


def run_through_kills(
    row: Row, study: StudyOptions, num_kills: int, draw: random.Random, bag: list[str], longest_wait: float = 0.0
) -> None:
    # By how far the study is, and then at any moment of what it does there: machines differ in speed.
    marks = sorted(draw.sample(range(len(design(study).phases) - 3), num_kills))
    folder, log = StudyFolder.of(study), Path(study.output) / "runner.txt"
    log.parent.mkdir(parents=True)
    began, seen = time.monotonic(), dict[str, Any]()
    runner = None
    while True:
        if runner is None:
            runner = start_runner(study, SLOTS, log)
            row.starts += 1
        if len(row.kills) < num_kills:
            while len(folder.recorded()) < marks[len(row.kills)] and not has_ended(runner):
                time.sleep(0.02)
            time.sleep(draw.uniform(0.0, longest_wait))
        if len(row.kills) >= num_kills or has_ended(runner):
            code = wait_for_end(runner, SECONDS_PER_START)
            if code:
                row.problems.append(f"the runner ended with {code}, see {log}")
            break
        # All kinds as often as each other, in a drawn order.
        if not bag:
            bag += draw.sample(list(KINDS), len(KINDS))
        kind = bag.pop()
        if kind == "job" and not live_jobs(folder):
            bag.insert(0, kind)
            kind = "runner"
        kill(kind, runner, folder, draw)
        row.kills.append(kind)
        row.done_at_kills.append(len(folder.recorded()))
        if kind != "job":
            runner = None
        now = finished_facts(folder)
        row.trained_twice += sum(seen[name] != now.get(name) for name in seen)
        seen |= now
    row.seconds = time.monotonic() - began
    now = finished_facts(folder)
    row.trained_twice += sum(seen[name] != now.get(name) for name in seen)
    text = log.read_text()
    row.waited = text.count("in the hands of")
    row.retried = text.count("FAILED")
    logs = [path.read_text(errors="replace") for path in folder.jobs.glob("*/log.txt")]
    row.resumed = sum(text.count("goes on after step") for text in logs)
    row.phases = len(now)


def check(row: Row, study: StudyOptions, expected: dict[str, Any]) -> None:
    folder, grid = StudyFolder.of(study), design(study)
    row.is_equal = records(folder) == expected
    if not row.is_equal:
        row.problems.append("the records differ")
    if any(is_claimed(folder, name) for name in grid.phases):
        row.problems.append("a claim was left")
    if list(folder.pool.glob("*/result")):
        row.problems.append("weights were left that nobody needs")
    begun = Counter(e["phase"] for e in read_events(folder.events_file) if e["event"] == "phase finished")
    if any(count > 1 for count in begun.values()):
        row.problems.append("a phase was recorded twice")
    if row.trained_twice:
        row.problems.append(f"{row.trained_twice} finished phases were trained again")


def report(rows: Sequence[Row], plain_seconds: float, num_phases: int) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    kills = [kind for row in rows for kind in row.kills]
    counts = ", ".join(f"{kills.count(kind)} of {what}" for kind, what in KINDS.items())
    equal, again = sum(row.is_equal for row in rows), sum(row.trained_twice for row in rows)
    lines = [
        f"# {len(kills)} kills of a running study",
        "",
        f"    python benchmarks/study_kills.py {shlex.join(sys.argv[1:])}",
        "",
        f"Python {sys.version.split()[0]}, {packages}; {os.cpu_count()} CPU cores. A study of {num_phases} phases (two "
        f"arms, two intermediate seeds, a trained target and retrieval), {SLOTS} jobs at a time; undisturbed it takes "
        f"{plain_seconds:.0f} s. Kills by SIGKILL: {counts}.",
        "",
        f"{equal} of {len(rows)} studies ended with the same records as the undisturbed one: the same phases, every "
        f"score the same to the last bit. {again} finished phases were trained again.",
        "",
        "| study | kills (phases recorded by then) | starts | waited for orphans | jobs tried again "
        "| phases gone on from a checkpoint | s | records equal |",
        "|---:|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        what = ", ".join(f"{kind} ({done})" for kind, done in zip(row.kills, row.done_at_kills, strict=True))
        numbers = [row.starts, row.waited, row.retried, row.resumed, round(row.seconds)]
        cells = [row.number, what, *numbers, "yes" if row.is_equal else "NO"]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    problems = [f"study {row.number}: {problem}" for row in rows for problem in row.problems]
    lines += ["", "Failures: none." if not problems else "Failures:", *(f"- {problem}" for problem in problems)]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--per-study", type=int, default=4, help="kills that one study has to stand")
    parser.add_argument("--small", action="store_true", help="with one size in place of two")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="default: a temporary one, removed")
    parser.add_argument("--report", type=Path, metavar="FILE.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.folder or Path(temporary)
        draw, bag = random.Random(arguments.seed), list[str]()
        plain = Row(0)
        micro_world_folder(DataOptions(cache=str(root / "cache")))
        study = study_in(root / "undisturbed", root / "cache", arguments.small)
        run_through_kills(plain, study, 0, draw, bag)
        expected = records(StudyFolder.of(study))
        check(plain, study, expected)
        rows: list[Row] = []
        left = arguments.kills
        # Half of a phase on the average: of a study that is soon over, a kill may come too late, and then another has
        # to stand it.
        longest_wait = min(2.0, plain.seconds / len(expected))
        while left > 0 and len(rows) < 3 * arguments.kills and not plain.problems:
            row = Row(len(rows) + 1)
            killed = study_in(root / f"killed-{row.number}", root / "cache", arguments.small)
            run_through_kills(row, killed, min(left, arguments.per_study), draw, bag, longest_wait)
            check(row, killed, expected)
            rows.append(row)
            left -= len(row.kills)
            print(f"study {row.number}: {', '.join(row.kills)}: {row.problems or 'well'}", flush=True)
        rows = rows or [plain]
        text = report(rows, plain.seconds, len(expected))
    print(text)
    if arguments.report:
        arguments.report.write_text(text, encoding="utf-8")
    return int("Failures: none." not in text)


if __name__ == "__main__":
    sys.exit(main())
