"""A real cluster on one machine: two nodes with addresses, host names and process trees of their own, under SLURM.

    python tests/cluster/two_nodes.py up /tmp/cluster      prints how to use it; Ctrl-C takes it down

A node is a set of Linux namespaces (network, host name, processes, mounts) with a slurmd and an sshd in it; the
controller runs beside them. Files are shared because the machine is one. Root and Debian's packages are needed.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge", "pdsh", "openssh-server", "iproute2", "numactl")
PROGRAMS = ("slurmctld", "slurmd", "munged", "pdsh", "/usr/sbin/sshd", "ip", "tc", "unshare", "nsenter", "numactl")
NODES = ("node1", "node2")
_START_SECONDS = 30.0


class ClusterError(RuntimeError):
    """The cluster, or something on it, did not do what a test relies on."""


def why_not() -> str:
    """Why no such cluster can run on this machine; '' when one can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"missing: {', '.join(missing)}; on Debian: apt-get install {' '.join(PACKAGES)}"
    flags = ["--net", "--uts", "--pid", "--mount", "--fork", "--mount-proc"]
    bridge = ["ip", "link", "add", "name", "xltry", "type", "bridge"]
    tried = subprocess.run(["unshare", *flags, *bridge], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"namespaces are not permitted here: {tried.stderr.strip()}"


class TwoNodes:
    """The cluster.

    Args:
        folder: for configuration, logs and spool; must be empty or absent.
        number: of the network 10.77.<number>.0/24; clusters side by side need different ones.
        node_down_seconds: without a word from a slurmd before SLURM calls its node down.
        gpus: that SLURM gives out on each node; there are none.
    """

    def __init__(self, folder: Path, number: int = 0, node_down_seconds: int = 20, gpus: int = 0) -> None:
        self.folder, self._number, self._gpus = folder.absolute(), number, gpus
        self._node_down_seconds = node_down_seconds
        self._bridge = f"xltbr{number}"
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PDSH_RCMD_TYPE": "ssh",
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
        }

    @property
    def environment(self) -> dict[str, str]:
        """What a command outside the nodes needs to reach the controller (squeue, sbatch ...)."""
        return {**os.environ, **self._environment}

    @property
    def control_address(self) -> str:
        return f"10.77.{self._number}.1"

    def address(self, node: str) -> str:
        return f"10.77.{self._number}.1{node.removeprefix('node')}"

    def link(self, node: str) -> str:
        """The bridge's end of a node's network cable."""
        return f"xlt{self._number}{node}"

    def up(self) -> None:
        """Bring everything up; returns when both nodes wait for jobs.

        Raises:
            ClusterError: with the end of the logs.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_remains()
        self._write_configuration()
        _ip("link", "add", "name", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self.control_address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for node in NODES:
            self.start_node(node)
        munge = ["munged", "--foreground", "--force", f"--socket={self.folder}/munge/socket"]
        munge += [f"--{what}-file={self.folder}/munge/{what}" for what in ("key", "pid", "log", "seed")]
        self.daemons["munged"] = self._spawn(munge, "munged")
        _wait_for(lambda: (self.folder / "munge" / "socket").exists(), "munged's socket", self._logs)
        self.start_slurmctld()
        for node in NODES:
            self.start_slurmd(node)
        _wait_for(lambda: self.node_states() == dict.fromkeys(NODES, "idle"), "idle nodes", self._logs)

    def down(self) -> None:
        """End everything, whatever state it is in."""
        for process in [*self._holders.values(), *self.daemons.values()]:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self._holders.clear()
        self.daemons.clear()
        self._remove_remains()

    def start_slurmctld(self) -> None:
        named = f"mount --bind {self.folder}/hosts /etc/hosts && hostname control && exec slurmctld -D -i"
        self.daemons["slurmctld"] = self._spawn(["unshare", "--uts", "--mount", "bash", "-c", named], "slurmctld")

    def stop_slurmctld(self) -> None:
        """End the controller; jobs go on, and it knows them when it is started again."""
        daemon = self.daemons.pop("slurmctld")
        daemon.terminate()
        daemon.wait()

    def start_node(self, node: str) -> None:
        """Switch a node on: its namespaces, its network and its sshd."""
        script = (
            f"mount --bind {self.folder}/hosts /etc/hosts && hostname {node} && ip link set lo up && "
            f"mount --bind {self.folder}/ssh_config /etc/ssh/ssh_config && "
            f"exec bash -c 'trap : TERM INT; while true; do sleep 3600 & wait; done'"
        )
        flags = ["--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        holder = self._spawn(["unshare", *flags, "bash", "-c", script], f"{node}-holder")
        self._holders[node] = holder
        inner = self._first_process(holder)
        _ip("link", "add", self.link(node), "type", "veth", "peer", "name", "eth0", "netns", str(inner))
        _ip("link", "set", self.link(node), "master", self._bridge, "up")
        _wait_for(lambda: self._host_name(node) == node, f"{node}'s host name", self._logs)
        self.check(node, f"ip address add {self.address(node)}/24 dev eth0 && ip link set eth0 up")
        self.start_sshd(node)

    def start_sshd(self, node: str) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        self.check(node, f"/usr/sbin/sshd -f {self.folder}/sshd_config -o ListenAddress={self.address(node)} "
                   f"-o PidFile={self.folder}/{node}-sshd.pid -E {self.folder}/{node}-sshd.log")  # fmt: skip

    def stop_sshd(self, node: str) -> None:
        """Let no new connection in; those that are there stay."""
        self.check(node, f"pkill -F {self.folder}/{node}-sshd.pid")

    def kill_node(self, node: str) -> None:
        """Power a node off: every process on it dies at once, and its network is gone."""
        holder = self._holders.pop(node)
        os.kill(self._first_process(holder), signal.SIGKILL)
        holder.wait()
        daemon = self.daemons.pop(f"slurmd-{node}", None)
        if daemon is not None:
            daemon.wait()

    def start_slurmd(self, node: str) -> None:
        command = ["slurmd", "-D", "-N", node]
        self.daemons[f"slurmd-{node}"] = self._spawn([*self._enter(node), *command], f"{node}-slurmd")

    def kill_slurmd(self, node: str, with_jobs: bool = True) -> None:
        """SIGKILL a node's slurmd, with everything it has started; sshd and the network stay."""
        daemon = self.daemons.pop(f"slurmd-{node}")
        if with_jobs:
            self.run(node, "pkill -KILL slurmstepd; pkill -KILL -f 'launch/train.py|slurm_script|torchrun|deepspeed'")
        self.run(node, "pkill -KILL -x slurmd")
        daemon.wait()

    def slow_link(self, node: str, megabits: int) -> None:
        """Let no more than so many megabits a second reach a node; 0: as many as can."""
        words = ["tc", "qdisc", "replace" if megabits else "delete", "dev", self.link(node), "root"]
        words += ["tbf", "rate", f"{megabits}mbit", "burst", "64kb", "latency", "400ms"] if megabits else []
        _checked(subprocess.run(words, capture_output=True, text=True), " ".join(words))

    def cut_link(self, node: str) -> None:
        """Take a node's network down; its processes go on."""
        self.check(node, "ip link set eth0 down")

    def mend_link(self, node: str) -> None:
        self.check(node, "ip link set eth0 up")

    def popen(
        self, node: str, command: str, output: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a shell command on a node, in its own session."""
        text = "" if environment is None else "".join(f"export {key}={value!r}; " for key, value in environment.items())
        where = subprocess.DEVNULL if output is None else output.open("ab")
        return subprocess.Popen(
            [*self._enter(node), "bash", "-c", text + command],
            stdin=subprocess.DEVNULL,
            stdout=where,
            stderr=subprocess.STDOUT,
            env=self.environment,
            start_new_session=True,
        )

    def run(self, node: str, command: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a node and wait for it."""
        return subprocess.run(
            [*self._enter(node), "bash", "-c", command],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env=self.environment,
        )

    def check(self, node: str, command: str, timeout: float = 120.0) -> str:
        """What a command on a node prints.

        Raises:
            ClusterError: it failed.
        """
        return _checked(self.run(node, command, timeout), command)

    def control(self, *command: str, timeout: float = 60.0) -> str:
        """What a command beside the controller prints: sbatch, squeue, scontrol, scancel.

        Raises:
            ClusterError: it failed.
        """
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=self.environment)
        return _checked(done, " ".join(command))

    def node_states(self) -> dict[str, str]:
        with contextlib.suppress(ClusterError):
            lines = self.control("sinfo", "--noheader", "--Node", "--format=%N %t").split("\n")
            return dict(line.split() for line in lines if line.strip())  # type: ignore[misc]
        return {}

    def resume(self, node: str) -> None:
        """Give a node that was called down back to the scheduler."""
        with contextlib.suppress(ClusterError):
            self.control("scontrol", "update", f"nodename={node}", "state=resume")

    def job_facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says, by key; {} when it is forgotten."""
        with contextlib.suppress(ClusterError):
            words = self.control("scontrol", "show", "job", "-o", job).split()
            return dict(word.split("=", 1) for word in words if "=" in word)  # type: ignore[misc]
        return {}

    def wait_for_state(self, job: str, states: Sequence[str], seconds: float = 120.0) -> dict[str, str]:
        """The facts of a batch job once it is in one of these states.

        Raises:
            ClusterError: it is not, in time.
        """
        deadline = time.monotonic() + seconds
        while (facts := self.job_facts(job)).get("JobState") not in states:
            if time.monotonic() > deadline:
                raise ClusterError(f"job {job} is {facts.get('JobState')} ({facts.get('Reason')}), not {states}")
            time.sleep(0.25)
        return facts

    def _enter(self, node: str) -> list[str]:
        process = self._first_process(self._holders[node])
        return ["nsenter", f"--target={process}", "--net", "--uts", "--mount", "--pid"]

    def _first_process(self, holder: subprocess.Popen[bytes]) -> int:
        """The process that is number 1 on the node."""
        path = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
        _wait_for(lambda: bool(path.read_text().split()), "a node's first process", self._logs)
        return int(path.read_text().split()[0])

    def _host_name(self, node: str) -> str:
        return self.run(node, "hostname").stdout.strip()

    def _spawn(self, command: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{log}.txt").open("ab") as file:
            return subprocess.Popen(
                # A test session that is killed leaves no cluster behind.
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )

    def _logs(self) -> str:
        texts = [f"--- {path.name}\n{path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.txt"))]
        return "\n".join(texts)

    def _remove_remains(self) -> None:
        for name in (self._bridge, *map(self.link, NODES)):
            subprocess.run(["ip", "link", "delete", name], capture_output=True)

    def _write_configuration(self) -> None:
        folder = self.folder
        (folder / "munge").mkdir(mode=0o755)
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        names = [f"{self.address(node)} {node}" for node in NODES]
        (folder / "hosts").write_text(
            "\n".join(["127.0.0.1 localhost", f"{self.control_address} control", *names]) + "\n"
        )
        for kind in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / f"{kind}_key")], check=True
            )
        (folder / "sshd_config").write_text(
            f"HostKey {folder}/host_key\nAuthorizedKeysFile {folder}/user_key.pub\nStrictModes no\n"
            "PermitRootLogin yes\nPasswordAuthentication no\nUsePAM no\nPermitUserEnvironment no\n"
        )
        (folder / "ssh_config").write_text(
            f"Host *\n  IdentityFile {folder}/user_key\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n"
            "  LogLevel ERROR\n"
        )
        port = 16800 + 10 * self._number
        processors, memory = 4, _megabytes()
        (folder / "state").mkdir()
        lines = [
            "ClusterName=two-nodes",
            f"SlurmctldHost=control({self.control_address})",
            "SlurmUser=root",
            "AuthType=auth/munge",
            # A requeued job waits so long before it may start.
            f"AuthInfo=socket={folder}/munge/socket,cred_expire=5",
            "CredType=cred/munge",
            f"SlurmctldPort={port}",
            f"SlurmdPort={port + 1}",
            f"StateSaveLocation={folder}/state",
            f"SlurmdSpoolDir={folder}/spool-%n",
            f"SlurmctldPidFile={folder}/slurmctld.pid",
            f"SlurmdPidFile={folder}/slurmd-%n.pid",
            f"SlurmctldLogFile={folder}/slurmctld-log.txt",
            f"SlurmdLogFile={folder}/slurmd-%n-log.txt",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "MpiDefault=none",
            # Nodes may have more processors in name than the machine has.
            "SlurmdParameters=config_overrides",
            "SwitchType=switch/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "JobRequeue=1",
            "ReturnToService=2",
            "KillWait=10",
            "MinJobAge=600",
            f"SlurmdTimeout={self._node_down_seconds}",
            "SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=5,bf_interval=5",
            *(
                f"NodeName={node} NodeHostname={node} NodeAddr={self.address(node)} CPUs={processors} "
                f"RealMemory={memory}{f' Gres=gpu:{self._gpus}' if self._gpus else ''} State=UNKNOWN"
                for node in NODES
            ),
            f"PartitionName=main Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO",
        ]
        if self._gpus:
            lines.append("GresTypes=gpu")
            for number in range(self._gpus):
                (folder / f"gpu{number}").touch()
            (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{self._gpus - 1}]\n")
        (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")


@contextlib.contextmanager
def two_nodes(folder: Path, number: int = 0, gpus: int = 0) -> Iterator[TwoNodes]:
    """A cluster that is up, and gone afterwards."""
    cluster = TwoNodes(folder, number, gpus=gpus)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    _checked(done, f"ip {' '.join(words)}")


def _checked(done: subprocess.CompletedProcess[str], command: str) -> str:
    if done.returncode:
        raise ClusterError(f"{command}: code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _wait_for(is_there: object, what: str, logs: object) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if is_there():  # type: ignore[operator]
                return
        if time.monotonic() > deadline:
            raise ClusterError(f"no {what} within {_START_SECONDS:.0f} s\n{logs()}")  # type: ignore[operator]
        time.sleep(0.1)


def _megabytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def main() -> None:
    number = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    with two_nodes(Path(sys.argv[2]), number) as cluster:
        print(f"export SLURM_CONF={cluster.folder}/slurm.conf PDSH_RCMD_TYPE=ssh", flush=True)
        for node in NODES:
            print(f"{node}: {' '.join(cluster._enter(node))} bash", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    reason = why_not()
    if reason or len(sys.argv) < 3 or sys.argv[1] != "up":
        sys.exit(reason or __doc__)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
