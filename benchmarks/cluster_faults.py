"""One study on a real two-node SLURM cluster, through random faults: are its records complete and right at the end?

Every job of the study takes both nodes. Faults come one after another, each a random time after the last one was over:
a rank killed, a slurmd killed with its job, a node powered off and on, a network cable pulled, SLURM's controller away,
the program that hands the jobs over killed, and a request to stop. The records have to be those of the same study run
undisturbed on one machine, to the last bit. The cluster is that of tests/cluster/two_nodes.py: root and its Debian
packages are needed.

    python benchmarks/cluster_faults.py --faults 30 --seed 1 --report benchmarks/cluster_faults_cpu_DATE.md
"""

import argparse
import contextlib
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cluster"))
from two_nodes import NODES, ClusterError, TwoNodes, two_nodes, why_not

os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
os.environ |= {"GLOO_SOCKET_IFNAME": "eth0"}

LOST_AFTER = 8.0
RANK = "python[0-9.]* -u [^ ]*launch/train.py"
STUDY: dict[str, Any] = {
    "name": "faults",
    "question": "Is anything lost?",
    "seeds": {"intermediate": [1, 2], "target": [1]},
    "run": {
        "model": {"tokenizer": "micro", "max_length": 64, "dropout": 0.1},
        "engine": {"name": "fsdp2", "device": "cpu", "repeatable": True, "max_tokens_per_micro_batch": 512},
        "checkpoints": {"every": 5, "minutes": 0.0},
        "faults": {"lost_after": LOST_AFTER, "meet_minutes": 1.0},
        "logging": {"every": 1, "progress": "plain", "tensorboard": False},
    },
    "resources": {"devices_per_node": 1, "hours_per_job": 1e-5, "slurm": ["--exclusive"]},
    "pretraining": [{"task": "micro-mlm", "steps": 60, "batch_size": 64, "learning_rate": 2e-3}],
    "intermediate": {"steps": 60, "batch_size": 64, "learning_rate": 1e-3},
    "target": {"batch_size": 64, "learning_rate": 1e-3, "evaluate_languages": ["qen", "qea"]},
    "sizes": [{"name": "micro-small", "devices": 2}],
    "arms": [
        {"name": "none"},
        {"name": "nli", "phases": [{"task": "micro-nli"}]},
        {"name": "paraphrase", "phases": [{"task": "micro-paraphrase"}]},
    ],
    "targets": [
        {"name": "valence", "phase": {"task": "micro-valence", "steps": 60}, "evaluate": ["micro-valence"]},
        {"name": "inference", "phase": {"task": "micro-nli", "steps": 60}, "evaluate": ["micro-nli"]},
    ],
}


@dataclass
class Campaign:
    """A study under way, and what has befallen it."""

    cluster: TwoNodes
    file: Path
    draw: random.Random
    control: subprocess.Popen[bytes] | None = None
    faults: list[str] = field(default_factory=list)
    starts: int = 0

    @property
    def folder(self) -> Path:
        return self.file.with_suffix("")

    def records(self) -> dict[str, Any]:
        return records(self.folder)

    def start_control(self) -> None:
        command = [sys.executable, "-m", "xlt_scale.cli", "study", "run", str(self.file), "--executor", "slurm"]
        with self.file.with_name("control.txt").open("ab") as log:
            self.control = subprocess.Popen(
                [*command, "--no-report"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.cluster.environment,
            )
        self.starts += 1

    def control_code(self) -> int | None:
        assert self.control is not None
        return self.control.poll()

    def nodes_with_ranks(self) -> list[str]:
        return [node for node in NODES if self.cluster.run(node, f"pgrep -f '{RANK}'").returncode == 0]

    def running_jobs(self) -> list[str]:
        return self.cluster.control("squeue", "--noheader", "--states=RUNNING", "--format=%i").split()


def kill_rank(campaign: Campaign) -> str:
    node = campaign.draw.choice(campaign.nodes_with_ranks())
    campaign.cluster.run(node, f"pkill -KILL -f '{RANK}'")
    return node


def serve_again(campaign: Campaign, node: str) -> None:
    campaign.cluster.start_slurmd(node)
    campaign.cluster.resume(node)


def kill_slurmd(campaign: Campaign) -> str:
    node = campaign.draw.choice(NODES)
    campaign.cluster.kill_slurmd(node)
    time.sleep(campaign.draw.uniform(1, 25))
    serve_again(campaign, node)
    return node


def power_off(campaign: Campaign) -> str:
    node = campaign.draw.choice(NODES)
    campaign.cluster.kill_node(node)
    time.sleep(campaign.draw.uniform(1, 25))
    campaign.cluster.start_node(node)
    serve_again(campaign, node)
    return node


def pull_cable(campaign: Campaign) -> str:
    node, seconds = campaign.draw.choice(NODES), campaign.draw.uniform(1, 30)
    campaign.cluster.cut_link(node)
    time.sleep(seconds)
    campaign.cluster.mend_link(node)
    campaign.cluster.resume(node)
    return f"{node} for {seconds:.0f} s"


def take_controller_away(campaign: Campaign) -> str:
    seconds = campaign.draw.uniform(1, 15)
    campaign.cluster.stop_slurmctld()
    time.sleep(seconds)
    campaign.cluster.start_slurmctld()
    return f"for {seconds:.0f} s"


def kill_control(campaign: Campaign) -> str:
    assert campaign.control is not None
    campaign.control.kill()
    campaign.control.wait()
    time.sleep(campaign.draw.uniform(0, 10))
    campaign.start_control()
    return ""


def ask_to_stop(campaign: Campaign) -> str:
    jobs = campaign.running_jobs()
    # scancel tries for long where a node does not answer, and fails where the job has just ended.
    with contextlib.suppress(subprocess.TimeoutExpired, ClusterError):
        campaign.cluster.control("scancel", "--signal=USR1", *jobs, timeout=10.0)
    return f"job {', '.join(jobs)}"


KINDS: dict[str, Callable[[Campaign], str]] = {
    "rank killed": kill_rank,
    "slurmd killed with its job": kill_slurmd,
    "node powered off": power_off,
    "cable pulled": pull_cable,
    "controller away": take_controller_away,
    "control process killed": kill_control,
    "asked to stop by USR1": ask_to_stop,
}


def records(folder: Path) -> dict[str, Any]:
    """What was scored, by phase; where and how fast it ran is left out."""
    found = {}
    for path in sorted((folder / "records").glob("*.json")):
        record = json.loads(path.read_text())
        found[path.stem] = {key: record.get(key) for key in ("scores", "seed", "role", "steps", "label")}
    return found


def write_study(place: Path, name: str, small: bool) -> Path:
    file = place / f"{name}.toml"
    table = json.loads(json.dumps(STUDY)) | {"output": str(place / name)}
    if small:
        table |= {"arms": table["arms"][:2], "targets": table["targets"][:1]}
        table["seeds"] = {"intermediate": [1], "target": [1]}
        del table["resources"]["hours_per_job"]
        for part in (*table["pretraining"], table["intermediate"], *(target["phase"] for target in table["targets"])):
            part["steps"] = 30
    table["run"]["data"] = {"cache": str(place / "cache")}
    file.write_text(tomli_w.dumps(table))
    return file


def undisturbed(place: Path, small: bool) -> dict[str, Any]:
    file = write_study(place, "undisturbed", small)
    command = [sys.executable, "-m", "xlt_scale.cli", "study", "run", str(file), "--slots", "2", "--no-report"]
    environment = {key: value for key, value in os.environ.items() if key != "GLOO_SOCKET_IFNAME"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return records(file.with_suffix(""))


def go_through_faults(campaign: Campaign, num_faults: int, kinds: list[str], deadline: float) -> None:
    """Faults at random moments while jobs run, then wait for the study's end."""
    bag: list[str] = []
    campaign.start_control()
    while campaign.control_code() is None and time.monotonic() < deadline:
        if len(campaign.faults) >= num_faults:
            time.sleep(1)
            continue
        time.sleep(campaign.draw.uniform(0, 12))
        if not campaign.nodes_with_ranks() or not campaign.running_jobs():
            continue
        bag = bag or campaign.draw.sample(kinds, len(kinds))
        kind = bag.pop()
        done = len(campaign.records())
        began = time.monotonic()
        what = KINDS[kind](campaign)
        campaign.faults.append(f"| {len(campaign.faults) + 1} | {kind} | {what} | {done} |")
        print(f"{campaign.faults[-1]} ({time.monotonic() - began:.0f} s)", flush=True)


def report(campaign: Campaign, expected: dict[str, Any], seconds: float, command: str) -> list[str]:
    found = campaign.records()
    restarts = [
        int(campaign.cluster.job_facts(job).get("Restarts", 0))
        for job in campaign.cluster.control("squeue", "--noheader", "--array", "--states=all", "--format=%i").split()
    ]
    counts = Counter(row.split("|")[2].strip() for row in campaign.faults)
    return [
        "# One study through random faults on a two-node SLURM cluster",
        "",
        f"`{command}`; {os.cpu_count()} cores, torch {version('torch')}, SLURM "
        f"{campaign.cluster.control('sinfo', '--version').split()[1]}. Both nodes are namespaces of one machine.",
        "",
        f"* {len(campaign.faults)} faults: " + ", ".join(f"{kind} {number}" for kind, number in sorted(counts.items())),
        f"* {len(found)} of {len(expected)} records; equal to the undisturbed study's to the last bit: "
        f"{'yes' if found == expected else 'NO'}",
        f"* {sum(restarts)} restarts of the last {len(restarts)} batch jobs, which the controller knew at the end; "
        f"the control process was started {campaign.starts} times and ended with code {campaign.control_code()}",
        f"* {seconds:.0f} s from the first start to the end",
        "",
        "| fault | kind | where | records before it |",
        "|---|---|---|---|",
        *campaign.faults,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0, help="give up after so long")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="default: all")
    parser.add_argument("--small", action="store_true", help="a study of a few phases in one job, as the tests use it")
    parser.add_argument("--report", type=Path, help="file to write, in Markdown")
    parser.add_argument("--keep", type=Path, help="folder for everything, kept")
    arguments = parser.parse_args()
    reason = why_not()
    if reason:
        sys.exit(f"error: {reason}")
    place = arguments.keep or Path(tempfile.mkdtemp(prefix="xlt-faults-"))
    place.mkdir(parents=True, exist_ok=True)
    expected = undisturbed(place, arguments.small)
    print(f"undisturbed: {len(expected)} records in {place}", flush=True)
    with two_nodes(Path(tempfile.mkdtemp(prefix="xlt-")) / "c", 100 + os.getpid() % 150) as cluster:
        campaign = Campaign(cluster, write_study(place, "disturbed", arguments.small), random.Random(arguments.seed))
        began = time.monotonic()
        go_through_faults(campaign, arguments.faults, sorted(arguments.kinds), began + 60 * arguments.minutes)
        lines = report(campaign, expected, time.monotonic() - began, "python " + shlex.join(sys.argv))
        code = campaign.control_code()
        if campaign.control is not None and code is None:
            campaign.control.kill()
    print("\n".join(lines))
    if arguments.report:
        arguments.report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(0 if code == 0 and campaign.records() == expected else 1)


if __name__ == "__main__":
    main()
