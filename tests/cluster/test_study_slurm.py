"""A study whose jobs a real cluster carries out, while the program that hands them over, and a node, die."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cluster_runs import job_log, submit
from two_nodes import NODES, TwoNodes

from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.running.claims import holder
from xlt_scale.scaling.running.control_lock import in_control

STUDY = """
name = "dozen"
question = "Is anything done twice, or lost?"
seeds = { intermediate = [1, 2, 3], target = [1] }

[run.model]
tokenizer = "micro"
max_length = 64
dropout = 0.1

[run.engine]
name = "fsdp2"
device = "cpu"
repeatable = true
max_tokens_per_micro_batch = 512

[run.logging]
every = 1

[[pretraining]]
task = "micro-mlm"
steps = 3
batch_size = 8
max_examples = 40

[intermediate]
steps = 3
batch_size = 8
max_examples = 40

[target]
batch_size = 8
max_examples = 40
evaluate_languages = ["qen", "qea"]

[[sizes]]
name = "micro-small"

[[arms]]
name = "none"

[[arms]]
name = "nli"
phases = [{ task = "micro-nli" }]

[[targets]]
name = "valence"
phase = { task = "micro-valence", steps = 2 }
evaluate = ["micro-valence"]

[[targets]]
name = "retrieval"
phase = { evaluate_languages = ["qea"] }
evaluate = ["micro-retrieval"]
"""
NUM_PHASES = 14
KILLING_SBATCH = """#!/bin/bash
# Hands over, and kills the program that has asked for it before it hears the answer.
answer="$({sbatch} "$@")"
echo >> {count}
[[ $(wc -l < {count}) != 2 ]] || kill -KILL $PPID
echo "$answer"
"""


@dataclass
class Start:
    """A start of `xlt-scale study` in a process of its own."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text()

    def wait(self, seconds: float = 240.0) -> int:
        return self.process.wait(seconds)


@dataclass
class Study:
    """A study file, and the cluster that it is run on."""

    cluster: TwoNodes
    file: Path

    @property
    def folder(self) -> Path:
        return self.file.with_suffix("")

    def start(self, *words: str, path: str = "") -> Start:
        output = self.file.with_name(f"output-{time.monotonic_ns()}.txt")
        search = os.pathsep.join(part for part in (path, os.environ["PATH"]) if part)
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "xlt_scale.cli", "study", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**self.cluster.environment, "PATH": search},
            )
        return Start(process, output)

    def run(self, *words: str, path: str = "") -> Start:
        return self.start("run", str(self.file), "--executor", "slurm", "--no-report", *words, path=path)

    def records(self) -> dict[str, Any]:
        """What was scored, by phase: where it ran and how long it took is left out."""
        found = {}
        for path in sorted((self.folder / "records").glob("*.json")):
            record = json.loads(path.read_text())
            found[path.stem] = {key: record.get(key) for key in ("scores", "seed", "role", "steps", "label")}
        return found

    def batch_jobs(self) -> list[dict[str, str]]:
        """What the controller knows of this study's batch jobs, one for each job of an array."""
        lines = self.cluster.control(
            "squeue", "--noheader", "--array", "--states=all", "--format=%i %T %j"
        ).splitlines()
        rows = [dict(zip(("id", "state", "name"), line.split(), strict=True)) for line in lines]
        return [row for row in rows if row["name"].startswith(f"{self.folder.name}-")]

    def submissions(self) -> list[Path]:
        return sorted((self.folder / "batch").iterdir())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """For studies; the session's cache lies in it."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "cache").symlink_to(cache)
    return folder


def write_study(cluster: TwoNodes, place: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Study:
    table = tomllib.loads(STUDY)
    file = place / f"{name}.toml"
    table["run"]["data"] = {"cache": str(place / "cache")}
    table["output"] = str(file.with_suffix(""))
    change(table)
    file.write_text(tomli_w.dumps(table))
    return Study(cluster, file)


def soon(condition: Callable[[], object], seconds: float = 90.0) -> bool:
    """Wait for what others do."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture(scope="module")
def undisturbed(cluster: TwoNodes, place: Path) -> dict[str, Any]:
    """The records of the same study, all in one process of this machine."""
    study = write_study(cluster, place, "local", lambda table: None)
    start = study.start("run", str(study.file), "--slots", "1", "--no-report")
    assert start.wait() == 0, start.text
    return study.records()


@pytest.fixture(scope="module")
def disturbed(cluster: TwoNodes, place: Path, undisturbed: dict[str, Any]) -> Study:
    """Every phase a job of its own. The program that hands them over is killed by the second sbatch, before this has
    answered; then half-way; in its last start the controller is away for some seconds.
    """

    def one_phase_a_job(table: dict[str, Any]) -> None:
        table["resources"] = {"hours_per_job": 1e-5}

    study = write_study(cluster, place, "disturbed", one_phase_a_job)
    programs = place / "programs"
    programs.mkdir()
    wrapper = KILLING_SBATCH.format(sbatch=shutil.which("sbatch"), count=place / "count")
    (programs / "sbatch").write_text(wrapper)
    (programs / "sbatch").chmod(0o755)
    first = study.run(path=str(programs))
    assert first.wait() == -signal.SIGKILL, first.text

    second = study.run()
    assert soon(lambda: len(study.records()) >= NUM_PHASES // 2), second.text
    second.process.kill()
    second.wait()

    third = study.run()
    assert soon(lambda: "to run on SLURM" in third.text), third.text
    cluster.stop_slurmctld()
    assert soon(lambda: "SLURM does not answer" in third.text), third.text
    cluster.start_slurmctld()
    assert third.wait() == 0, third.text
    assert "SLURM answers again" in third.text
    assert "not handed over again" in second.text
    return study


@pytest.mark.slow
def test_a_study_that_is_disturbed_ends_with_the_records_of_one_that_is_not(
    disturbed: Study, undisturbed: dict[str, Any]
) -> None:
    assert len(undisturbed) == NUM_PHASES
    assert disturbed.records() == undisturbed


@pytest.mark.slow
def test_nothing_was_handed_over_twice(disturbed: Study) -> None:
    batch_jobs = disturbed.batch_jobs()
    assert len(batch_jobs) == NUM_PHASES
    assert {row["state"] for row in batch_jobs} == {"COMPLETED"}
    # Every note has its array in the controller's list, and no other array is there.
    assert sorted({row["name"] for row in batch_jobs}) == [path.name for path in disturbed.submissions()]
    trained = Counter(
        phase
        for path in disturbed.submissions()
        for task in json.loads((path / "ended.json").read_text())["tasks"]
        for job in task
        for phase in job["phases"]
    )
    assert set(trained.values()) == {1} and trained.keys() == disturbed.records().keys()


@pytest.mark.slow
def test_what_waits_for_others_began_when_these_had_ended(disturbed: Study) -> None:
    facts = [disturbed.cluster.job_facts(row["id"]) for row in disturbed.batch_jobs()]
    first = min(facts, key=lambda job: int(job["JobId"]))
    assert all(job["StartTime"] >= first["EndTime"] for job in facts if job["JobId"] != first["JobId"])


@pytest.fixture(scope="module")
def long(cluster: TwoNodes, place: Path, undisturbed: dict[str, Any]) -> Study:
    """A study of one chain, which takes half a minute."""

    def long_pretraining(table: dict[str, Any]) -> None:
        table["pretraining"][0] |= {"steps": 160, "batch_size": 96, "max_examples": 0}
        table["run"]["checkpoints"] = {"every": 20}
        table["arms"] = [table["arms"][0], {"name": "again", "phases": [{"task": "micro-nli", "steps": 2}]}]
        table["targets"] = table["targets"][:1]
        table["seeds"]["intermediate"] = [1]

    return write_study(cluster, place, "long", long_pretraining)


def steps_done(study: Study) -> int:
    rows = [line for path in study.folder.glob("jobs/*pretraining*/metrics.jsonl") for line in path.open()]
    return max((json.loads(row)["step"] for row in rows if row.endswith("\n")), default=0)


@pytest.mark.slow
def test_a_cancelled_study_leaves_nothing_behind_in_the_queue_and_can_go_on(long: Study) -> None:
    control = long.run()
    assert soon(lambda: steps_done(long) > 22), control.text
    cancelling = long.start("cancel", str(long.folder))
    assert cancelling.wait() == 0, cancelling.text
    assert f"runner, process {control.process.pid}" in cancelling.text and "batch job" in cancelling.text
    assert control.wait(10) == 130, control.text
    assert soon(lambda: {row["state"] for row in long.batch_jobs()} <= {"CANCELLED", "FAILED"}, 30)
    again = long.start("cancel", str(long.folder))
    assert again.wait() == 0 and "nothing to cancel" in again.text


@pytest.mark.slow
def test_a_batch_job_whose_node_dies_goes_on_elsewhere(cluster: TwoNodes, long: Study) -> None:
    before = steps_done(long)
    control = long.run()
    assert soon(lambda: steps_done(long) > before + 10), control.text
    [running] = [row["id"] for row in long.batch_jobs() if row["state"] == "RUNNING"]
    node = cluster.job_facts(running)["NodeList"]
    cluster.kill_node(node)
    # SLURM finds that out by itself, in half a minute.
    cluster.control("scontrol", "update", f"nodename={node}", "state=down", "reason=dead")
    try:
        assert control.wait() == 0, control.text
    finally:
        cluster.start_node(node)
        cluster.start_slurmd(node)
        cluster.resume(node)
    assert "FAILED" not in control.text
    assert cluster.job_facts(running)["NodeList"] in set(NODES) - {node}
    assert int(cluster.job_facts(running)["Restarts"]) >= 1
    assert len(long.records()) == 4


@pytest.mark.slow
def test_a_second_program_that_hands_over_is_refused(cluster: TwoNodes, place: Path, long: Study) -> None:
    folder = StudyFolder(long.folder, long.folder / "phases")
    with in_control(folder, print):
        second = long.run()
        assert second.wait() == 2
    assert "hands over this study's batch jobs" in second.text and "Traceback" not in second.text


@pytest.mark.slow
def test_workers_share_a_study_and_one_that_is_told_of_the_end_of_its_time_comes_back(
    cluster: TwoNodes, place: Path, undisturbed: dict[str, Any]
) -> None:
    def shorter(table: dict[str, Any]) -> None:
        table["pretraining"][0]["steps"] = 60
        table["run"]["checkpoints"] = {"every": 20}
        table["targets"] = table["targets"][:1]
        table["resources"] = {"hours_per_job": 1e-5}

    study = write_study(cluster, place, "shared", shorter)
    array = submit(cluster, "study.sbatch", study.file, place=place, options=("--array=1-2", "--time=30"))
    assert soon(lambda: steps_done(study) > 5), job_log(place, array)
    # Whoever holds the claim of the only phase that can run yet.
    [pretraining] = [name for name in os.listdir(study.folder / "phases" / ".claims") if name.startswith("micro-mlm")]
    host = holder(StudyFolder(study.folder, study.folder / "phases"), pretraining).split()[3]
    index = next(one for one in (1, 2) if cluster.job_facts(f"{array}_{one}")["NodeList"] == host)
    cluster.control("scancel", "--batch", "--signal=USR1", f"{array}_{index}")
    for one in (1, 2):
        cluster.wait_for_state(f"{array}_{one}", ("COMPLETED", "FAILED"), 200)
    assert {cluster.job_facts(f"{array}_{one}")["JobState"] for one in (1, 2)} == {"COMPLETED"}
    assert cluster.job_facts(f"{array}_{index}")["Restarts"] == "1"
    assert cluster.job_facts(f"{array}_{3 - index}")["Restarts"] == "0"
    assert len(study.records()) == 10
