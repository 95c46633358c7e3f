"""`xlt-scale doctor` on two real nodes: what is planted is found, on the right node, and nothing hangs."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from two_nodes import TwoNodes

ROOT = Path(__file__).resolve().parents[2]
DOCTOR = f"{sys.executable} -m xlt_scale.cli doctor"
RUN_FILE = f"{ROOT}/launch/runs/micro.toml"
TAKEN_PORT = 29_555

CLOCK_90_SECONDS_AHEAD = """
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>
extern "C" int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += 90;
    return result;
}
"""


@dataclass(frozen=True)
class Answer:
    """What a joint doctor left: its exit code, the table's rows, and what went to standard error."""

    code: int
    rows: list[dict[str, Any]]
    errors: str
    seconds: float

    def found(self, check: str, state: str, node: str = "") -> str:
        """The text of the findings of a check in one state, of one node or of the whole allocation."""
        rows = [row for row in self.rows if (row["check"], row["state"]) == (check, state)]
        return "\n".join(row["found"] for row in rows if not node or node in row["nodes"])

    def states(self) -> dict[str, set[str]]:
        states: dict[str, set[str]] = {}
        for row in self.rows:
            states.setdefault(row["check"], set()).add(row["state"])
        return states


@pytest.fixture(scope="module", autouse=True)
def interfaces_that_lead_nowhere(cluster: TwoNodes) -> Iterator[None]:
    """On each node a second interface, ib0, which is up and has an address."""
    for number, node in enumerate(("node1", "node2"), start=1):
        cluster.check(node, "ip link add ib0 type veth peer name ib1 && ip link set ib1 up")
        cluster.check(node, f"ip address add 192.168.{number}.1/24 dev ib0 && ip link set ib0 up")
    yield
    for node in ("node1", "node2"):
        cluster.check(node, "ip link delete ib0")


def consult(
    cluster: TwoNodes, folder: Path, arguments: str, plants: dict[str, str], environment: dict[str, str] | None = None
) -> Answer:
    """Start the doctor under srun, one task per node; `plants` are shell commands that a node's task runs before."""
    cases = "".join(f"{node}) {commands};;\n" for node, commands in plants.items())
    script = folder / f"task-{time.monotonic_ns()}.sh"
    script.write_text(
        f"set -e\nmount --make-rprivate /\ncd {ROOT}\n"
        f"case $SLURMD_NODENAME in\n{cases}*) ;;\nesac\nexec {DOCTOR} {arguments} --json\n"
    )
    variables = cluster.environment | {"GLOO_SOCKET_IFNAME": "eth0"} | (environment or {})
    variables = {name: value for name, value in variables.items() if value}
    command = ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "unshare", "--mount", "bash", str(script)]
    began = time.monotonic()
    done = subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, cwd=ROOT
    )
    assert done.stdout.startswith("["), done.stdout + done.stderr
    return Answer(done.returncode, json.loads(done.stdout), done.stderr, time.monotonic() - began)


def hosts(folder: Path, *lines: str) -> str:
    """A command that gives a task this /etc/hosts."""
    path = folder / f"hosts-{abs(hash(lines))}"
    path.write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")
    return f"mount --bind {path} /etc/hosts"


def another_torch(folder: Path) -> str:
    """A command after which the metadata of another PyTorch comes first."""
    metadata = folder / "site" / "torch-2.12.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.12.0\n")
    return f"export PYTHONPATH={folder}/site:${{PYTHONPATH:-}}"


def clock_ahead(folder: Path) -> str:
    """A command after which the clock is 90 seconds ahead."""
    source = folder / "ahead.cc"
    source.write_text(CLOCK_90_SECONDS_AHEAD)
    subprocess.run(["c++", "-shared", "-fPIC", "-o", folder / "ahead.so", source], check=True)
    return f"export LD_PRELOAD={folder}/ahead.so"


def test_two_sound_nodes_pass_every_check(cluster: TwoNodes, tmp_path: Path) -> None:
    answer = consult(cluster, tmp_path, f"{RUN_FILE} --set output={tmp_path}/run", {})
    bad = [row for row in answer.rows if row["state"] not in ("pass", "-")]
    assert (answer.code, bad) == (0, [])
    assert "sums are right" in answer.found("all-reduce", "pass")
    assert {check for check, states in answer.states().items() if states == {"-"}} <= {"time left"}


def test_what_is_wrong_with_nodes_that_meet_is_found_in_one_go(cluster: TwoNodes, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    node2 = [
        another_torch(tmp_path),
        clock_ahead(tmp_path),
        f"mount --bind {shared} {shared} && mount -o remount,bind,ro {shared}",
    ]
    plants = {"node1": hosts(tmp_path, f"{cluster.address('node1')} node1"), "node2": " && ".join(node2)}
    listener = cluster.popen("node1", f"exec {sys.executable} -m http.server {TAKEN_PORT}")
    try:
        answer = consult(
            cluster,
            tmp_path,
            f"{RUN_FILE} --quick --seconds 15 --set output={shared}/run --set model.size=planned-40b",
            plants,
            {"MASTER_PORT": str(TAKEN_PORT), "GLOO_SOCKET_IFNAME": "ib0"},
        )
    finally:
        os.killpg(listener.pid, signal.SIGKILL)
        listener.wait()
    assert answer.code == 2
    assert "do not reach each other" in answer.found("interface", "fail", "node2")
    assert "the name node2 cannot be resolved" in answer.found("names", "fail", "node1")
    assert f"port {TAKEN_PORT} of node1 is taken" in answer.found("port", "fail")
    assert "2.12.0 on node2" in answer.found("versions", "fail")
    assert "read-only" in answer.found("folder", "fail", "node2")
    assert "can be written" in answer.found("folder", "pass", "node1")
    assert "the run needs about" in answer.found("disk", "fail")
    assert "node2 is 90.0 s ahead of node1" in answer.found("clocks", "fail")
    assert all(row["mend"] for row in answer.rows if row["state"] in ("warn", "fail"))


def test_what_is_wrong_with_one_node_by_itself_is_found_there(cluster: TwoNodes, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    node1 = "export GLOO_SOCKET_IFNAME=eth9"
    node2 = [
        hosts(tmp_path, f"{cluster.address('node1')} node1", "127.0.1.1 node2"),
        f"mount -t tmpfs -o size=512k none {shared}",
        f"export TORCH_EXTENSIONS_DIR={tmp_path}/unbuilt CXX=/nowhere/c++",
    ]
    answer = consult(
        cluster,
        tmp_path,
        f"--no-collectives --seconds 15 --output {shared}",
        {"node1": node1, "node2": " && ".join(node2)},
        {"GLOO_SOCKET_IFNAME": ""},
    )
    assert answer.code == 2
    assert "eth9: there is no such interface" in answer.found("interface", "fail", "node1")
    assert "127.0.1.1" in answer.found("interface", "fail", "node2")
    assert "calls itself 127.0.1.1" in answer.found("names", "fail", "node2")
    assert "the disk is full" in answer.found("folder", "fail", "node2")
    assert "is not seen" in answer.found("shared folder", "fail")
    assert "/nowhere/c++" in answer.found("compiled operations", "fail", "node2")
    assert "built" in answer.found("compiled operations", "pass", "node1")


def test_a_node_that_cannot_come_says_why_and_the_others_say_which(cluster: TwoNodes, tmp_path: Path) -> None:
    unknown_head = hosts(tmp_path, f"{cluster.address('node2')} node2")
    arguments = f"--quick --seconds 3 --output {tmp_path}"
    with ThreadPoolExecutor() as pool:
        nameless = pool.submit(consult, cluster, tmp_path, arguments, {"node2": unknown_head})
        silent = pool.submit(consult, cluster, tmp_path, arguments, {"node2": "sleep 8; exit 0"})
    for answer in (nameless.result(), silent.result()):
        assert answer.code == 2
        assert answer.seconds < 60
        assert "rank 1 on node2 did not come" in answer.found("nodes", "fail")
    reasons = [line for line in nameless.result().errors.splitlines() if "node2 (rank 1)" in line]
    assert len(reasons) == 1
    assert "the name node1 cannot be resolved" in reasons[0]


def test_an_interface_that_is_down_is_named_by_its_node(cluster: TwoNodes, tmp_path: Path) -> None:
    ranks = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "node1", "MASTER_PORT": "29556"}
    command = f"cd {shlex.quote(str(ROOT))}; exec {DOCTOR} --quick --seconds 3 --output {tmp_path}"
    cluster.cut_link("node2")
    try:
        processes = [
            cluster.popen(node, command, tmp_path / f"{node}.txt", ranks | {"RANK": str(rank)})
            for rank, node in enumerate(("node1", "node2"))
        ]
        codes = [process.wait(60) for process in processes]
    finally:
        cluster.mend_link("node2")
    assert codes == [2, 2]
    (reason,) = (tmp_path / "node2.txt").read_text().splitlines()
    assert "no route to node1" in reason
    assert "eth0 down" in reason
    assert "rank 1 did not come" in (tmp_path / "node1.txt").read_text()
