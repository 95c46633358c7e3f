"""Signals, time limits, killed ranks, lost nodes and cut cables: the job saves or ends, is requeued, and goes on."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_runs import TRAIN, ClusterRun, finish, job_history, job_log, make_run, program, submit, wait_for_step
from two_nodes import NODES, TwoNodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LOST_AFTER = 8.0
"""Seconds without a word after which these runs give a rank up."""

STEPS, SLOWNESS = 60, 8
"""Of the run that nothing disturbs; others may be its beginning."""

# Small micro-batches make the steps slow, so that faults meet them under way.
COMMON = (f"faults.lost_after={LOST_AFTER}", "engine.max_tokens_per_micro_batch=128")

SLOW = 30
"""Megabits per second at which steps wait for the network, so that a run is under way for longer."""

RANK = "python[0-9.]* -u [^ ]*launch/train.py"
"""Processes of ranks, not of their launchers."""


@dataclass(frozen=True)
class Job:
    """A job of a run, under way or over."""

    cluster: TwoNodes
    run: ClusterRun
    place: Path
    number: str

    @property
    def log(self) -> str:
        return job_log(self.place, self.number)

    def reaches(self, step: int) -> None:
        wait_for_step(self.run, step, log=lambda: self.log)

    def is_requeued(self, seconds: float) -> float:
        """Wait until the job has been taken back; the seconds that took."""
        began = time.monotonic()
        restarts = self.restarts
        while self.restarts == restarts:
            assert time.monotonic() - began < seconds, self.log[-6000:]
            time.sleep(0.2)
        return time.monotonic() - began

    def goes_on(self) -> int:
        """Wait until the newest start has said after which step it goes on."""
        said = f"batch job: start {self.restarts + 1} of job"
        pattern = re.compile(re.escape(said) + r".*phase pretrain: goes on after step (\d+)", re.DOTALL)
        deadline = time.monotonic() + 180
        while (found := pattern.search(self.log)) is None:
            assert time.monotonic() < deadline, self.log[-6000:]
            time.sleep(0.2)
        return int(found[1])

    @property
    def restarts(self) -> int:
        return int(self.cluster.job_facts(self.number).get("Restarts", 0))

    def ends(self, seconds: float = 150.0) -> dict[int, float]:
        """Wait for its end; the loss of every step."""
        finish(self.cluster, self.number, self.place, seconds)
        assert self.run.is_done()
        return self.run.losses()


Start = Callable[..., Job]


@pytest.fixture(scope="module")
def start(cluster: TwoNodes, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts a run on two nodes by a script of slurm/."""

    def start(
        script: str,
        engine: str,
        *settings: str,
        options: tuple[str, ...] = ("--nodes=2",),
        every: int = 0,
        steps: int = STEPS,
    ) -> Job:
        place = tmp_path_factory.mktemp("job") / "place"
        run = make_run(place, engine, steps=steps, slowness=SLOWNESS, checkpoint_every=every, cache=cache)
        further = [word for setting in (*COMMON, *settings) for word in ("--set", setting)]
        number = submit(cluster, script, run.file, *further, place=place, options=options)
        return Job(cluster, run, place, number)

    return start


@pytest.fixture(scope="module")
def undisturbed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of the run by two ranks of this machine."""
    place = tmp_path_factory.mktemp("undisturbed") / "place"
    run = make_run(place, "fsdp2", steps=STEPS, slowness=SLOWNESS, cache=cache)
    further = [word for setting in COMMON for word in ("--set", setting)]
    with program(TRAIN, ["--run", str(run.file), *further], 2, place / "ranks") as job:
        assert job.wait(240) == 0, job.output
    return run.losses()


@pytest.fixture(autouse=True)
def nothing_is_left(cluster: TwoNodes) -> Iterator[None]:
    """Jobs of a test that has failed are not in the way of the next one."""
    yield
    cluster.control("scancel", "--user=root")


@pytest.fixture
def whole(cluster: TwoNodes) -> Iterator[TwoNodes]:
    """The cluster; both nodes work again afterwards."""
    yield cluster
    for node in NODES:
        cluster.mend_link(node)
        if f"slurmd-{node}" not in cluster.daemons:
            cluster.start_slurmd(node)
        cluster.resume(node)


def test_a_time_limit_a_killed_rank_and_a_cut_cable_end_the_job_everywhere_and_the_rest_runs_on_one_node(
    start: Start, whole: TwoNodes, undisturbed: dict[int, float]
) -> None:
    # SLURM sends it up to half a minute before: at some second from the 15th to the 45th.
    options = ("--nodes=1-2", "--time=2", "--signal=USR1@75")
    whole.slow_link("node2", SLOW)
    try:
        job = start("train_torchrun.sbatch", "fsdp2", "checkpoints.seconds_before_end=0", options=options, every=5)
        job.is_requeued(seconds=120)
    finally:
        whole.slow_link("node2", 0)
    whole.control("scontrol", "update", f"jobid={job.number}", "timelimit=60")
    step = job.goes_on()
    assert f"SIGUSR1 came; phase pretrain is saved at step {step}" in job.log

    job.reaches(step + 6)
    whole.check("node2", f"pkill -KILL -f '{RANK}'")
    assert_everybody_ends(whole, within=LOST_AFTER)
    job.is_requeued(seconds=30)
    assert "lost: rank 1 on node2 (process" in job.log and "ended without a word" in job.log
    assert job.goes_on() > step
    step = job.run.last_step()

    job.reaches(step + 7)
    whole.cut_link("node2")
    on_two_nodes = job.run.losses()
    assert_everybody_ends(whole, within=LOST_AFTER + 12)
    job.is_requeued(seconds=60)
    assert "lost: rank 1 on node2" in job.log and "not heard of for 8 s" in job.log
    # Lost twice, the node is left out, if SLURM has not called it down before; the other one goes on alone.
    assert job.goes_on() >= len(on_two_nodes) - 5
    losses = job.ends()
    assert [end["lost_node"] for end in job_history(job.place, job.number)] == ["", "node2", "node2"]
    assert f"start {job.restarts + 1} of job {job.number}: 1 nodes (node1)" in job.log
    assert on_two_nodes == first(len(on_two_nodes), undisturbed), "to the last bit"
    assert losses == pytest.approx(undisturbed, rel=1e-5)


def test_under_deepspeed_a_slurmd_that_dies_costs_the_steps_since_the_last_checkpoint_and_signals_come_through(
    start: Start, whole: TwoNodes, undisturbed: dict[int, float]
) -> None:
    steps = 30
    job = start("train_deepspeed.sbatch", "zero3", every=5, steps=steps)
    job.reaches(12)
    whole.kill_slurmd("node2")
    assert_everybody_ends(whole, within=LOST_AFTER)
    job.is_requeued(seconds=60)
    assert "lost: rank 1 on node2" in job.log
    whole.start_slurmd("node2")
    whole.resume("node2")
    step = job.goes_on()
    assert step >= 10

    job.reaches(step + 5)
    whole.control("scancel", "--signal=USR1", job.number)
    job.is_requeued(seconds=30)
    assert "SIGUSR1 came; phase pretrain is saved at step" in job.log, "the signal does not come through deepspeed"
    assert job.ends() == pytest.approx(first(steps, undisturbed), rel=1e-5)


def first(steps: int, losses: dict[int, float]) -> dict[int, float]:
    return {step: loss for step, loss in losses.items() if step <= steps}


def assert_everybody_ends(cluster: TwoNodes, within: float) -> None:
    """No rank is left on either node after so many seconds."""
    deadline = time.monotonic() + within
    while left := [node for node in NODES if cluster.run(node, f"pgrep -f '{RANK}'").returncode == 0]:
        assert time.monotonic() < deadline, f"ranks are left on {left} after {within:.0f} s"
        time.sleep(0.2)
