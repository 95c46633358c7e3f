"""The scripts in slurm/ on two real nodes: what they start, what they refuse, and how a job goes on after an end."""

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster_runs import (
    ENVIRONMENT,
    INTERFACE,
    ROOT,
    SLURM,
    TRAIN,
    ClusterRun,
    finish,
    job_history,
    job_log,
    make_run,
    submit,
    wait_for_step,
)
from two_nodes import TwoNodes

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

ENGINES = ("zero3", "fsdp2")
ROUTES = ("train_torchrun.sbatch", "deepspeed --hostfile", "train_deepspeed.sbatch")


@pytest.fixture(scope="module")
def losses(
    cluster: TwoNodes, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[tuple[str, str], list[float]]:
    """Of the same run by every route with both engines, one rank per node; two at a time, SLURM's one by one."""
    folder = tmp_path_factory.mktemp("routes")

    def carry_out(way: tuple[str, str]) -> list[float]:
        route, engine = way
        place = folder / f"{route.split('.')[0].replace(' --', '-')}-{engine}"
        run = make_run(place, engine, steps=200, cache=cache)
        start_by_route(cluster, route, run, place, port=29500 + ENGINES.index(engine))
        assert run.is_done()
        return list(run.losses().values())

    ways = [(route, engine) for engine in ENGINES for route in ROUTES]
    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(ways, pool.map(carry_out, ways), strict=True))


def start_by_route(cluster: TwoNodes, route: str, run: ClusterRun, place: Path, port: int) -> None:
    """What follows the run file goes to launch/train.py by every route."""
    further = ["--set", "phases.pretrain.steps=10"]
    if route.endswith(".sbatch"):
        finish(cluster, submit(cluster, route, run.file, *further, place=place), place, 300)
        return
    (place / "hostfile").write_text("node1 slots=1\nnode2 slots=1\n")
    (place / ".deepspeed_env").write_text(f"DS_ACCELERATOR=cpu\nOMP_NUM_THREADS=1\nGLOO_SOCKET_IFNAME={INTERFACE}\n")
    launcher = f"{ENVIRONMENT}/bin/deepspeed --hostfile hostfile --master_port {port}"
    cluster.check("node1", f"cd {place} && {launcher} {TRAIN} --run {run.file} {' '.join(further)}", timeout=300)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("route", ROUTES)
def test_every_route_makes_the_same_losses(
    losses: Mapping[tuple[str, str], list[float]], route: str, engine: str
) -> None:
    assert len(losses[route, engine]) == 10
    assert losses[route, engine] == losses[ROUTES[0], engine], "to the last bit"
    assert losses[route, engine] == pytest.approx(losses[ROUTES[0], ENGINES[0]], rel=1e-5), "across engines"


def script(place: Path, body: str, head: str = "") -> Path:
    """A batch script with slurm/job.sh around what it starts; `body` has a function `launch`."""
    place.mkdir(parents=True, exist_ok=True)
    path = place / "job.sbatch"
    path.write_text(
        f"#!/usr/bin/env bash\n#SBATCH --exclusive --requeue --open-mode=append\n{head}\nset -euo pipefail\n"
        f'source "$XLT_SCALE_CHECKOUT/slurm/job.sh"\nXLT_SCALE_SECONDS_FOR_OTHERS=2\n'
        f"export XLT_SCALE_SECONDS_AFTER_LOSS=1\nbegin_job\n"
        f'{body}\nrun_on_nodes launch "$@"\nend_job\n'
    )
    return path


def leave(code: int, step: int, lost_node: str = "") -> str:
    """Shell that leaves an end file as a rank does."""
    facts = {"code": code, "reason": "for this test", "lost_node": lost_node, "phase": "target", "step": step}
    return f'echo {shlex.quote(json.dumps(facts))} > "$XLT_SCALE_END_FOLDER/$(hostname).json"'


def test_a_launcher_runs_once_on_every_node(cluster: TwoNodes, tmp_path: Path) -> None:
    body = (
        'launch() { sleep "$SLURM_NODEID"; echo "$(hostname): node $SLURM_NODEID of $XLT_SCALE_NODES, '
        '$XLT_SCALE_PROCESSES processes, $XLT_SCALE_MASTER_ADDRESS, $*"; }'
    )
    job = submit(cluster, script(tmp_path, body), "a b", "c", place=tmp_path, options=("--nodes=2", "--ntasks=4"))
    lines = [line for line in finish(cluster, job, tmp_path).splitlines() if ": node " in line]
    assert lines == [f"node{n}: node {n - 1} of 2, 2 processes, node1, a b c" for n in (1, 2)]


@pytest.mark.parametrize("name", ["train_torchrun.sbatch", "train_deepspeed.sbatch", "evaluate.sbatch"])
def test_unequal_numbers_of_tasks_are_refused(cluster: TwoNodes, tmp_path: Path, name: str) -> None:
    job = submit(cluster, name, "run.toml", place=tmp_path, options=("--nodes=2", "--ntasks=3"))
    assert cluster.wait_for_state(job, ["COMPLETED", "FAILED"])["ExitCode"] == "2:0"
    assert "error: nodes have unequal numbers of tasks (2,1); use --nodes with" in job_log(tmp_path, job)


@pytest.mark.parametrize(
    ("asked", "gpus"),
    [
        ("", 4),
        ("--gpus-per-node=2", 2),
        ("--gres=gpu:2", 2),
        ("--gpus=4", 2),
        ("--ntasks-per-node=4 --gpus-per-task=1", 4),
    ],
)
def test_a_launcher_has_the_gpus_that_were_asked_for_and_a_process_for_each(
    cluster_with_gpus: TwoNodes, tmp_path: Path, asked: str, gpus: int
) -> None:
    body = 'launch() { echo "$(hostname): $XLT_SCALE_PROCESSES processes, $SLURM_GPUS_ON_NODE GPUs"; }'
    job = submit(cluster_with_gpus, script(tmp_path, body), place=tmp_path, options=("--nodes=2", *asked.split()))
    lines = [line for line in finish(cluster_with_gpus, job, tmp_path).splitlines() if line.endswith("GPUs")]
    assert sorted(lines) == [f"node{n}: {gpus} processes, {gpus} GPUs" for n in (1, 2)]


def test_a_users_error_ends_the_job_with_2(cluster: TwoNodes, tmp_path: Path) -> None:
    job = submit(cluster, "train_torchrun.sbatch", "nowhere.toml", place=tmp_path, options=("--nodes=1",))
    assert cluster.wait_for_state(job, ["COMPLETED", "FAILED"])["ExitCode"] == "2:0"
    assert "nowhere.toml" in job_log(tmp_path, job) and "requeue" not in job_log(tmp_path, job)


def test_a_stopped_job_is_requeued_and_goes_on_with_its_log(cluster: TwoNodes, tmp_path: Path) -> None:
    body = f'launch() {{ [[ "$XLT_SCALE_END_FOLDER" == */start-2 ]] || {{ {leave(85, 7)}; return 1; }}; }}'
    job = submit(cluster, script(tmp_path, body), place=tmp_path)
    log = finish(cluster, job, tmp_path)
    assert "start 1 of job" in log and "requeued: job" in log and "start 2 of job" in log
    assert [(line["code"], line["step"]) for line in job_history(tmp_path, job)] == [(85, 7)]


@pytest.mark.timeout(400)
def test_over_ssh_too_a_stopped_run_is_saved_requeued_and_ends(cluster: TwoNodes, cache: Path, tmp_path: Path) -> None:
    """No signal travels through ssh: the script makes the stop file, and hands the ranks its name."""
    run = make_run(tmp_path / "made", steps=60, slowness=4, cache=cache)
    settings = {"XLT_SCALE_DEEPSPEED_ROUTE": "pdsh"}
    job = submit(cluster, "train_deepspeed.sbatch", run.file, place=tmp_path, settings=settings)
    wait_for_step(run, 3, log=lambda: job_log(tmp_path, job))
    cluster.control("scancel", "--batch", "--signal=USR1", job)
    finish(cluster, job, tmp_path, 240)
    assert [line["code"] for line in job_history(tmp_path, job)] == [85]
    assert run.is_done() and sorted(run.losses()) == list(range(1, 61))


# The launcher of a lost node neither ends nor answers: nobody may wait for it.
HANGS = "{ trap - TERM; sleep 1000; }"


def test_a_node_that_is_lost_twice_is_left_out_and_the_job_goes_on_without_it(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    body = f"""launch() {{
        [[ "$XLT_SCALE_END_FOLDER" != */start-3 ]] || {{ echo "on $XLT_SCALE_NODES node"; return 0; }}
        [[ "$(hostname)" == node1 ]] || {HANGS}
        {leave(86, 0, "node2")}
        return 1
    }}"""
    job = submit(cluster, script(tmp_path, body), place=tmp_path, options=("--nodes=1-2",))
    log = finish(cluster, job, tmp_path)
    assert "node2 was lost twice: excluded from now on" in log and "on 1 node" in log
    assert cluster.job_facts(job)["ExcNodeList"] == "node2"


def test_with_a_fixed_number_of_nodes_none_is_left_out_and_losses_come_to_an_end(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    body = f"""launch() {{
        [[ "$(hostname)" == node1 ]] || {HANGS}
        {leave(86, 5, "node2")}
        return 1
    }}"""
    job = submit(cluster, script(tmp_path, body), place=tmp_path)
    facts = cluster.wait_for_state(job, ["COMPLETED", "FAILED"])
    log = job_log(tmp_path, job)
    assert facts["ExitCode"] == "86:0" and facts["Restarts"] == "2"
    assert "node2 was lost twice but is not excluded: 1 other nodes would be left for the 2" in log
    assert "not requeued: lost 3 times without a step of progress since phase target, step 5" in log


def test_a_cancelled_job_stays_cancelled_though_its_ranks_have_saved(cluster: TwoNodes, tmp_path: Path) -> None:
    body = (
        'launch() {\n    touch waits\n    until [[ -e "$XLT_SCALE_STOP_FILE" ]]; do sleep 0.2; done\n'
        f"    {leave(85, 7)}\n    return 1\n}}"
    )
    job = submit(cluster, script(tmp_path, body), place=tmp_path)
    cluster.wait_for_state(job, ["RUNNING"])
    wait_for_file(tmp_path / "waits")
    cluster.control("scancel", job)
    cluster.wait_for_state(job, ["CANCELLED"])
    assert "not requeued: SLURM has ended the job itself" in job_log(tmp_path, job)


def wait_for_file(path: Path) -> None:
    subprocess.run(["bash", "-c", 'until [[ -e "$1" ]]; do sleep 0.1; done', "bash", str(path)], timeout=60, check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    files = [path for path in SLURM.iterdir() if path.suffix in (".sh", ".sbatch", ".env")]
    done = subprocess.run(["shellcheck", "-x", *map(str, files)], capture_output=True, text=True, cwd=ROOT)
    assert not done.stdout + done.stderr
