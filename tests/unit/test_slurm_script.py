"""What is handed to a cluster's queue, and what a batch job does with it."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_stand_in import Queue, job, study_folder
from tiny_study import soon

from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.running.batch_task import Member, exit_code
from xlt_scale.scaling.running.claims import Claims, is_claimed, take
from xlt_scale.scaling.running.executors.slurm import SlurmExecutor, nodes_of
from xlt_scale.scaling.running.run_files import train_script
from xlt_scale.study_config import ResourceOptions

FOUR = ResourceOptions(devices_per_node=4)


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    pretended = Queue(tmp_path)
    for name, value in pretended.environment.items():
        monkeypatch.setenv(name, value)
    return pretended


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return study_folder(tmp_path)


def submit(folder: StudyFolder, *jobs: StudyJob, resources: ResourceOptions = FOUR, has_gpus: bool = True) -> None:
    executor = SlurmExecutor(folder, resources, nodes_of(resources, has_gpus))
    try:
        for one in jobs:
            (folder.jobs / one.name).mkdir(parents=True, exist_ok=True)
            executor.start(one, folder.jobs / one.name, Claims([]))
        executor.submit()
    finally:
        executor.stop()


def test_a_job_on_one_node(queue: Queue, folder: StudyFolder) -> None:
    resources = ResourceOptions(devices_per_node=4, slurm=["--account=lab", "#SBATCH --comment='for the paper'"])
    submit(folder, job("large", devices=4), resources=resources)
    [found] = queue.options()
    assert (found["nodes"], found["ntasks-per-node"], found["gpus-per-node"]) == ("1", "1", "4")
    assert found["array"] == "0-0" and found["account"] == "lab" and found["comment"] == "for the paper"
    assert found["signal"] == "B:USR1@420" and "requeue" in found


def test_the_script_repeats_for_people_what_the_command_line_says(queue: Queue, folder: StudyFolder) -> None:
    submit(folder, job("large", devices=4))
    [text] = queue.scripts()
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert dict(line.partition("=")[::2] for line in lines) == {
        name: value for name, value in queue.options()[0].items() if name != "parsable"
    }


def test_a_cluster_without_gpus_is_asked_for_processor_cores(queue: Queue, folder: StudyFolder) -> None:
    submit(folder, job("a", devices=2), job("b", devices=2), resources=ResourceOptions(), has_gpus=False)
    [found] = queue.options()
    assert found["cpus-per-task"] == "2" and found["array"] == "0-1"
    assert not any("gpu" in name for name in found)


def test_another_spelling_of_gpus_stands_in_place_of_the_studys(queue: Queue, folder: StudyFolder) -> None:
    submit(folder, job("a", devices=4), resources=ResourceOptions(devices_per_node=4, slurm=["--gres=gpu:a100:4"]))
    [found] = queue.options()
    assert found["gres"] == "gpu:a100:4" and "gpus-per-node" not in found


def test_options_that_the_study_sets_itself_are_refused(folder: StudyFolder) -> None:
    with pytest.raises(UserError, match=r"resources.slurm: --job-name=mine: the study sets job-name itself"):
        submit(folder, job("a"), resources=ResourceOptions(slurm=["--job-name=mine"]))


def test_the_time_has_a_margin_over_the_rough_cost(queue: Queue, folder: StudyFolder) -> None:
    submit(folder, job("a", seconds=20 * 3600.0))
    assert queue.options()[0]["time"] == "1-06:17:00"


def test_jobs_that_are_alike_are_one_array(queue: Queue, folder: StudyFolder) -> None:
    submit(folder, *(job(str(number), devices=4) for number in range(12)))
    assert [found["array"] for found in queue.options()] == ["0-11"]


def test_small_jobs_share_a_batch_job_and_its_devices(queue: Queue, folder: StudyFolder) -> None:
    submit(folder, *(job(f"small{number}", per_device=2) for number in range(10)))
    [found] = queue.options()
    assert found["array"] == "0-1" and found["gpus-per-node"] == "4"
    [place] = (folder.root / "batch").iterdir()
    assert (place / "task-0.json").read_text().count('"job":') == 8


def test_a_job_waits_for_the_jobs_that_it_needs(queue: Queue, folder: StudyFolder) -> None:
    first, second = job("first", devices=4), job("second", devices=4)
    submit(folder, job("after", devices=4, needs=("second-1",)), first, second)
    encoders, after = queue.options()
    assert "dependency" not in encoders
    assert after["dependency"] == "afterok:101_1" and after["kill-on-invalid-dep"] == "yes"


def test_a_job_over_several_nodes_has_a_launcher_on_each_that_signals_do_not_end(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    (queue.programs / "scontrol").write_text("#!/bin/bash\nprintf 'node7\\nnode8\\n'\n")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    member = Member("huge", ("huge-1",), "job.toml", "log.txt", devices=8, nodes=2)
    command = member.command()
    assert command[:4] == ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    assert "--nnodes=2 --nproc-per-node=4" in command[-1] and "--rdzv-endpoint=node7:20372" in command[-1]
    assert command[-1].startswith("trap '' USR1 TERM;")


PRINTS = "import os, sys\nprint('has run on', os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True)\n"


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A program in the place of launch/train.py."""
    # The batch job's own process imports the package: the checkout is pretended around it.
    package = train_script().parents[1] / "xlt_scale"
    checkout = tmp_path / "checkout"
    (checkout / "launch").mkdir(parents=True)
    (checkout / "xlt_scale").mkdir()
    (checkout / "xlt_scale" / "__init__.py").write_text(f"__path__ = [{str(package)!r}]\n__version__ = '0'\n")
    program = checkout / "launch" / "train.py"
    program.write_text(PRINTS)
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    # `python -m` looks into the working directory first.
    monkeypatch.chdir(tmp_path)
    yield program


def codes(folder: StudyFolder) -> dict[str, str]:
    return {path.stem: path.read_text().strip() for path in folder.root.glob("batch/*/*.code")}


def log(folder: StudyFolder, name: str) -> str:
    return (folder.jobs / name / "log.txt").read_text()


def test_a_batch_job_carries_out_all_its_jobs_and_fails_when_one_does(
    queue: Queue, folder: StudyFolder, train: Path
) -> None:
    submit(folder, job("a"), job("b"))
    train.write_text(PRINTS + "sys.exit(3 if '/a/' in sys.argv[-1] else 0)\n")
    done = queue.carry_out(queue.scripts()[0])
    assert done.returncode == 3, done.stderr
    assert codes(folder) == {"a": "3", "b": "0"}
    assert "has run on 0" in log(folder, "a") and "has run on 1" in log(folder, "b")


def test_a_batch_job_holds_the_claims_of_its_phases(queue: Queue, folder: StudyFolder, train: Path) -> None:
    submit(folder, job("a"))
    train.write_text(
        "import fcntl, sys\n"
        f"file = open({str(folder.claim_file('a-2'))!r}, 'a')\n"
        "try:\n    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept BlockingIOError:\n    sys.exit(0)\n"
        "sys.exit(9)\n"
    )
    assert queue.carry_out(queue.scripts()[0]).returncode == 0


def test_a_batch_job_whose_phases_are_worked_on_elsewhere_does_nothing(
    queue: Queue, folder: StudyFolder, train: Path
) -> None:
    submit(folder, job("a"))
    claims = take(folder, ["a-2"])
    assert claims is not None
    assert queue.carry_out(queue.scripts()[0]).returncode == 75
    claims.release()
    assert codes(folder) == {"a": "75"} and not (folder.jobs / "a" / "log.txt").exists()


@pytest.mark.parametrize("code", [85, 86])
def test_a_batch_job_that_only_has_to_go_on_goes_back_into_the_queue(
    queue: Queue, folder: StudyFolder, train: Path, code: int
) -> None:
    submit(folder, job("a"), job("b"))
    train.write_text(f"import sys\nsys.exit({code} if '/a/' in sys.argv[-1] else 0)\n")
    running = start(queue, queue.scripts()[0])
    assert soon(lambda: "requeue 101_0" in queue.said("scontrol"))
    assert codes(folder) == {"a": str(code), "b": "0"}
    end(running)


def test_a_node_that_was_lost_twice_is_avoided(queue: Queue, folder: StudyFolder, train: Path) -> None:
    submit(folder, job("a"))
    train.write_text(
        "import json, os, sys, time\n"
        "os.makedirs(os.environ['XLT_SCALE_END_FOLDER'], exist_ok=True)\n"
        "def leave(host, lost):\n"
        "    facts = {'code': 86, 'lost_node': lost, 'step': int(os.environ['SLURM_RESTART_COUNT'])}\n"
        "    json.dump(facts, open(os.environ['XLT_SCALE_END_FOLDER'] + f'/{host}.json', 'w'))\n"
        "leave(os.uname().nodename, 'node2')\n"
        "leave('node2', 'node1')\n"  # as after a cut link
        "sys.exit(1)\n"  # as torchrun does
    )
    (queue.programs / "sinfo").write_text("#!/bin/bash\nprintf 'node1 idle\\nnode2 idle\\n'\n")
    (queue.programs / "sinfo").chmod(0o755)
    for turn in range(2):
        running = start(queue, queue.scripts()[0], SLURM_RESTART_COUNT=str(turn))
        assert soon(lambda turn=turn: queue.said("scontrol").count("requeue 101_0") == turn + 1)
        if turn:
            assert soon(lambda: "ExcNodeList=node2" in queue.said("scontrol"))
        else:
            assert "ExcNodeList" not in queue.said("scontrol")
        end(running)


def test_a_cancelled_batch_job_does_not_go_back(queue: Queue, folder: StudyFolder, train: Path) -> None:
    submit(folder, job("a"))
    train.write_text("import sys\nsys.exit(85)\n")
    [place] = (folder.root / "batch").iterdir()
    (place / "cancelled").touch()
    assert queue.carry_out(queue.scripts()[0]).returncode == 85
    assert "requeue" not in queue.said("scontrol")


SAVES = (
    "import os, signal, sys, time\n"
    "signal.signal(signal.{sign}, lambda *_: sys.exit(85))\n"
    "print('listens', flush=True)\n"
    "time.sleep(60)\n"
)


def test_slurms_warning_reaches_the_jobs_and_its_file_those_on_other_nodes(
    queue: Queue, folder: StudyFolder, train: Path
) -> None:
    submit(folder, job("a"))
    train.write_text(SAVES.format(sign="SIGUSR1"))
    running = start(queue, queue.scripts()[0])
    assert soon(lambda: (folder.jobs / "a" / "log.txt").exists() and "listens" in log(folder, "a"))
    running.send_signal(signal.SIGUSR1)
    assert soon(lambda: codes(folder) == {"a": "85"})
    assert list(folder.root.glob("batch/*/stop-0"))
    assert soon(lambda: "requeue 101_0" in queue.said("scontrol"))
    end(running)


def test_a_batch_job_that_somebody_ends_saves_and_does_not_go_back(
    queue: Queue, folder: StudyFolder, train: Path
) -> None:
    submit(folder, job("a"))
    train.write_text(SAVES.format(sign="SIGTERM"))
    running = start(queue, queue.scripts()[0])
    assert soon(lambda: (folder.jobs / "a" / "log.txt").exists() and "listens" in log(folder, "a"))
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 85
    assert codes(folder) == {"a": "85"} and "requeue" not in queue.said("scontrol")
    assert not is_claimed(folder, "a-1")


def test_a_warning_before_a_job_listens_does_not_kill_it(queue: Queue, folder: StudyFolder, train: Path) -> None:
    submit(folder, job("a"))
    train.write_text(
        "import os, sys, time\nprint('starts', flush=True)\n"
        "while not os.path.exists(os.environ['XLT_SCALE_STOP_FILE']):\n    time.sleep(0.1)\n"
        "time.sleep(0.5)\nsys.exit(85)\n"
    )
    running = start(queue, queue.scripts()[0])
    assert soon(lambda: (folder.jobs / "a" / "log.txt").exists() and "starts" in log(folder, "a"))
    running.send_signal(signal.SIGUSR1)
    assert soon(lambda: codes(folder) == {"a": "85"})
    end(running)


def test_the_exit_code_of_a_batch_job_is_what_most_needs_to_be_told() -> None:
    assert [exit_code(codes) for codes in ([0, 0], [0, 85], [85, 86], [85, 2], [2, 85, 1], [75, 0])] == [
        *(0, 85, 86, 2, 1, 75)
    ]


def start(queue: Queue, script: str, **environment: str) -> "subprocess.Popen[bytes]":
    """Run a script as SLURM does, in the background."""
    variables = {"SLURM_JOB_ID": "101", "SLURM_ARRAY_JOB_ID": "101", "SLURM_ARRAY_TASK_ID": "0", **environment}
    return subprocess.Popen(
        ["bash", "-c", script],
        env={**os.environ, **queue.environment, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end(running: "subprocess.Popen[bytes]") -> None:
    """What SLURM does with a batch job that goes back into the queue."""
    time.sleep(0.1)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
