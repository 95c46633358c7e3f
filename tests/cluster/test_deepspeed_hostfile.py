"""`deepspeed --hostfile` over real ssh: what reaches the ranks, and how it fails. docs/cluster.md has it as a table."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cluster_runs import ENVIRONMENT
from two_nodes import TwoNodes

pytestmark = pytest.mark.distributed

# Says who it is in a line of its own, and ends as it is told to.
SAYS = """\
import json, os, socket, sys
known = {name: value for name, value in os.environ.items() if name.startswith(("GREETING", "OWN_", "DS_", "MASTER_"))}
ranks = {name: int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
said = json.dumps({"host": socket.gethostname(), **ranks, **known, "words": sys.argv[2:]})
os.write(1, f"SAYS {said}\\n".encode())  # in one piece: print would let another rank's line come before the line's end
sys.exit(int(os.environ.get("GREETING_CODE", "0")) if ranks["RANK"] == 1 else 0)
"""


class Launcher:
    """`deepspeed` on node1, in a folder with a script, a hostfile and .deepspeed_env."""

    def __init__(self, cluster: TwoNodes, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        (folder / "says.py").write_text(SAYS)
        self.hosts(node1=1, node2=1)
        self.environment(DS_ACCELERATOR="cpu")

    def hosts(self, **slots: int) -> None:
        lines = [f"{host} slots={count}\n" for host, count in slots.items()]
        (self.folder / "hostfile").write_text("".join(lines))

    def environment(self, **values: str) -> None:
        (self.folder / ".deepspeed_env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))

    def __call__(self, options: str = "", words: str = "", node: str = "node1", before: str = "") -> "Said":
        command = f"{ENVIRONMENT}/bin/deepspeed --hostfile hostfile {options} says.py {words}"
        done = self.cluster.run(node, f"cd {self.folder} && {before} {command} 2>&1", timeout=100)
        return Said(done)


class Said:
    """What came of a start: its exit code, its output, and what each rank has said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.output = done.returncode, done.stdout
        texts = [line.split("SAYS ", 1)[1] for line in done.stdout.splitlines() if "SAYS " in line]
        self.ranks: list[dict[str, Any]] = sorted(map(json.loads, texts), key=lambda rank: int(rank["RANK"]))

    @property
    def hosts(self) -> Sequence[str]:
        """Of the ranks in their order."""
        return [rank["host"] for rank in self.ranks]


@pytest.fixture
def deepspeed(cluster: TwoNodes, tmp_path: Path) -> Launcher:
    return Launcher(cluster, tmp_path)


def test_ranks_start_on_both_nodes_get_what_the_file_lists_and_are_heard(
    cluster: TwoNodes, deepspeed: Launcher
) -> None:
    deepspeed.environment(DS_ACCELERATOR="cpu", GREETING="good day", GREETING_CODE="85")
    said = deepspeed(words='"a b" c', before="OWN_VALUE=1")
    assert said.code == 85, "a rank's exit code comes back"
    assert said.hosts == ["node1", "node2"], said.output
    for rank in said.ranks:
        assert rank["GREETING"] == "good day" and rank["words"] == ["a b", "c"]
        assert rank["MASTER_ADDR"] == cluster.address("node1"), "asked over ssh"
        assert "OWN_VALUE" not in rank, "the launcher's own environment stays where it is"


def test_nodes_may_have_unequal_slots_and_single_ones_may_be_left_out(deepspeed: Launcher) -> None:
    deepspeed.hosts(node1=1, node2=3)
    said = deepspeed("--exclude node2:0")
    assert said.hosts == ["node1", "node2", "node2"], said.output
    assert sorted(rank["LOCAL_RANK"] for rank in said.ranks) == [0, 0, 1]


def test_a_single_other_node_is_used_with_force_multi_alone(deepspeed: Launcher) -> None:
    assert deepspeed("--include node2").hosts == ["node1"], "here, without a word: nothing was started on node2"
    assert deepspeed("--include node2 --force_multi").hosts == ["node2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--include node3", "Hostname 'node3' not found in hostfile"),
        ("--include node1:1", "No slot '1' specified on host 'node1'"),
        ("--no_ssh", "Launching training without ssh, but --node_rank is not set correctly"),
    ],
)
def test_what_the_hostfile_does_not_have_is_refused(deepspeed: Launcher, options: str, message: str) -> None:
    said = deepspeed(options)
    assert said.code == 1 and message in said.output and not said.ranks


def test_without_ssh_each_node_is_started_with_its_rank(cluster: TwoNodes, deepspeed: Launcher) -> None:
    said = deepspeed("--no_ssh --node_rank 1 --master_addr node1", node="node2", before="OWN_VALUE=1")
    [rank] = said.ranks
    assert (rank["host"], rank["RANK"], rank["WORLD_SIZE"], rank["MASTER_ADDR"]) == ("node2", 1, 2, "node1")
    assert rank["OWN_VALUE"] == "1" and "GREETING" not in rank, "its shell's environment, not that of the file"


def test_a_missing_hostfile_means_this_machine_alone(deepspeed: Launcher) -> None:
    (deepspeed.folder / "hostfile").unlink()
    said = deepspeed("--num_gpus 1")
    assert "Unable to find hostfile" in said.output and [rank["WORLD_SIZE"] for rank in said.ranks] == [1]


@pytest.fixture
def node2_without_ssh(cluster: TwoNodes) -> Iterator[None]:
    cluster.stop_sshd("node2")
    yield
    cluster.start_sshd("node2")


@pytest.mark.usefixtures("node2_without_ssh")
def test_a_node_without_ssh_is_named_and_the_others_have_begun(deepspeed: Launcher) -> None:
    """Only the first host is looked at beforehand. The ranks of the others wait for those that never come."""
    said = deepspeed()
    assert said.code == 255 and said.hosts == ["node1"]
    assert "node2: ssh: connect to host node2 port 22: Connection refused" in said.output
    deepspeed.hosts(node2=1, node1=1)
    said = deepspeed()
    assert said.code == 1 and "host=node2 was not reachable via ssh" in said.output and not said.ranks


def test_an_unknown_host_is_named(deepspeed: Launcher) -> None:
    deepspeed.hosts(node1=1, node7=1)
    said = deepspeed()
    assert said.code == 255 and "ssh: Could not resolve hostname node7" in said.output
