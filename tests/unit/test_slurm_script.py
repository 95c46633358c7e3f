"""What is handed to a cluster's queue; a pretended sbatch keeps it."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.running.claims import Claims, take
from xlt_scale.scaling.running.executors.slurm import SlurmExecutor, _read_states
from xlt_scale.study_config import ResourceOptions

SBATCH = """#!/bin/bash
number=$(( $(cat "$QUEUE/last" 2>/dev/null || echo 100) + 1 ))
echo $number > "$QUEUE/last"
cp "${@: -1}" "$QUEUE/$number.sh"
echo "$number;cluster"
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the scripts that were handed over, by id from 101 on."""
    place, programs = tmp_path / "queue", tmp_path / "bin"
    place.mkdir()
    programs.mkdir()
    (programs / "sbatch").write_text(SBATCH)
    (programs / "sbatch").chmod(0o755)
    monkeypatch.setenv("QUEUE", str(place))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return place


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study", tmp_path / "study" / "phases")


def job(
    name: str, devices: int = 1, per_device: int = 1, needs: Sequence[str] = (), seconds: float = 7200.0
) -> StudyJob:
    return StudyJob(name, "small", (f"{name}-1", f"{name}-2"), frozenset(needs), devices, per_device, seconds, 0)


class Cluster:
    """What the pretended cluster says about ids."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def __call__(self, ids: Sequence[str]) -> Mapping[str, str]:
        return {number: self.states.get(number, "PENDING") for number in ids}


def submit(
    folder: StudyFolder, *jobs: StudyJob, resources: ResourceOptions | None = None, cluster: Cluster | None = None
) -> SlurmExecutor:
    executor = SlurmExecutor(folder, resources or ResourceOptions(devices_per_node=4), cluster or Cluster())
    for one in jobs:
        (folder.jobs / one.name).mkdir(parents=True, exist_ok=True)
        (folder.pool / ".claims").mkdir(parents=True, exist_ok=True)
        executor.start(one, folder.jobs / one.name, Claims([]))
    executor.submit()
    return executor


def scripts(queue: Path) -> list[str]:
    return [path.read_text() for path in sorted(queue.glob("*.sh"))]


def options(script: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_a_job_on_one_node(queue: Path, folder: StudyFolder) -> None:
    submit(folder, job("large", devices=4), resources=ResourceOptions(devices_per_node=4, slurm=["--account=lab"]))
    [text] = scripts(queue)
    found = options(text)
    assert (found["nodes"], found["ntasks-per-node"], found["gpus-per-node"]) == ("1", "1", "4")
    assert found["job-name"] == "large" and found["account"] == "lab"
    assert found["signal"] == "B:USR1@120" and "requeue" in found
    assert "--nnodes 1 --nproc-per-node 4 --standalone" in text and "launch/train.py" in text


def test_a_job_over_several_nodes_meets_at_the_first(queue: Path, folder: StudyFolder) -> None:
    submit(folder, job("huge", devices=16))
    [text] = scripts(queue)
    assert options(text)["nodes"] == "4" and options(text)["gpus-per-node"] == "4"
    assert "--nnodes 4 --nproc-per-node 4 --rdzv-backend c10d" in text
    assert "scontrol show hostnames" in text


def test_the_time_has_a_margin_over_the_rough_cost(queue: Path, folder: StudyFolder) -> None:
    submit(folder, job("a", seconds=20 * 3600.0))
    assert options(scripts(queue)[0])["time"] == "1-06:10:00"


def test_small_jobs_share_an_allocation_and_its_devices(queue: Path, folder: StudyFolder) -> None:
    submit(folder, *(job(f"small{number}", per_device=2) for number in range(10)))
    first, second = scripts(queue)
    assert options(first)["gpus-per-node"] == "4" and options(second)["gpus-per-node"] == "1"
    visible = [line.strip()[-1] for line in first.splitlines() if "CUDA_VISIBLE_DEVICES" in line]
    assert visible == list("00112233")


def test_jobs_of_several_devices_share_a_node(queue: Path, folder: StudyFolder) -> None:
    submit(folder, job("a", devices=2), job("b", devices=2))
    [text] = scripts(queue)
    assert "CUDA_VISIBLE_DEVICES=0,1" in text and "CUDA_VISIBLE_DEVICES=2,3" in text
    assert options(text)["gpus-per-node"] == "4"


def test_a_job_waits_for_the_jobs_that_it_needs(queue: Path, folder: StudyFolder) -> None:
    encoder = job("encoder", devices=4)
    submit(folder, job("after", devices=4, needs=["encoder-1"]), encoder)
    first, second = scripts(queue)
    assert "dependency" not in options(first) and options(first)["job-name"] == "encoder"
    assert options(second)["dependency"] == "afterok:101" and options(second)["kill-on-invalid-dep"] == "yes"


def test_what_is_in_the_queue_is_known_after_a_restart(queue: Path, folder: StudyFolder) -> None:
    submit(folder, job("a"), job("b"))
    again = SlurmExecutor(folder, ResourceOptions(devices_per_node=4), Cluster())
    assert set(again.underway()) == {"a", "b"}
    assert again.underway()["a"].phases == ("a-1", "a-2")


def test_ended_jobs_tell_their_own_code(queue: Path, folder: StudyFolder) -> None:
    cluster = Cluster()
    executor = submit(folder, job("a"), job("b"), cluster=cluster)
    cluster.states["101"] = "FAILED"
    (folder.jobs / "a" / "exit_code").write_text("0\n")
    (folder.jobs / "b" / "exit_code").write_text("2\n")
    (folder.jobs / "b" / "log.txt").write_text("error: no file\n")
    ended = {one.job.name: (one.code, one.reason) for one in executor.poll()}
    assert ended == {"a": (0, "batch job 101 is FAILED"), "b": (2, "error: no file")}
    assert not SlurmExecutor(folder, ResourceOptions(), cluster).underway()


def test_a_cancelled_job_was_not_carried_out(queue: Path, folder: StudyFolder) -> None:
    cluster = Cluster()
    executor = submit(folder, job("a"), cluster=cluster)
    cluster.states["101"] = "CANCELLED"
    assert [one.code for one in executor.poll()] == [None]


def test_stopping_leaves_the_queue_alone_and_says_so(queue: Path, folder: StudyFolder) -> None:
    assert "stay in the queue; to cancel them: scancel 101" in submit(folder, job("a")).stop()


def test_devices_that_are_no_whole_number_of_nodes_are_refused(folder: StudyFolder) -> None:
    executor = SlurmExecutor(folder, ResourceOptions(devices_per_node=4), Cluster())
    assert "set sizes.devices to a multiple" in executor.why_never(job("a", devices=6))
    assert not executor.why_never(job("a", devices=8))


def test_a_refused_script_is_told_in_one_line(queue: Path, folder: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/bash\necho 'invalid account' >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"invalid account; mend resources.slurm"):
        submit(folder, job("a"))


def test_without_sbatch_it_is_said_where_to_start(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="--executor local"):
        submit(folder, job("a"))


def test_states_are_read_as_accounting_prints_them() -> None:
    assert _read_states(["12|CANCELLED by 0", "13|RUNNING", "14|"]) == {
        "12": "CANCELLED",
        "13": "RUNNING",
        "14": "UNKNOWN",
    }


def carried_out(script: str, train: str, tmp_path: Path) -> int:
    """Run a script here, with a program in the place of launch/train.py and srun doing nothing of its own."""
    (tmp_path / "bin" / "srun").write_text('#!/bin/bash\nexec "$@"\n')
    (tmp_path / "bin" / "srun").chmod(0o755)
    program = tmp_path / "train.py"
    program.write_text(train)
    lines = [line for line in script.splitlines() if not line.startswith("#SBATCH")]
    from xlt_scale.scaling.running.run_files import train_script

    text = "\n".join(lines).replace(str(train_script()), str(program))
    return subprocess.run(["bash", "-c", text], timeout=60, check=False).returncode


def test_a_script_carries_out_all_its_jobs_and_fails_when_one_does(
    queue: Path, folder: StudyFolder, tmp_path: Path
) -> None:
    submit(folder, job("a"), job("b"))
    train = "import sys\nprint('has run', flush=True)\nsys.exit(3 if '/a/' in sys.argv[-1] else 0)\n"
    assert carried_out(scripts(queue)[0], train, tmp_path) == 1
    codes = [(folder.jobs / name / "exit_code").read_text().strip() for name in "ab"]
    assert codes == ["3", "0"]
    assert all("has run" in (folder.jobs / name / "log.txt").read_text() for name in "ab")


def test_a_script_holds_the_claims_of_its_phases(queue: Path, folder: StudyFolder, tmp_path: Path) -> None:
    submit(folder, job("a"))
    train = (
        "import fcntl, sys\n"
        f"file = open({str(folder.claim_file('a-2'))!r}, 'a')\n"
        "try:\n    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept BlockingIOError:\n    sys.exit(0)\n"
        "sys.exit(9)\n"
    )
    assert carried_out(scripts(queue)[0], train, tmp_path) == 0


def test_a_script_whose_phases_are_worked_on_elsewhere_does_nothing(
    queue: Path, folder: StudyFolder, tmp_path: Path
) -> None:
    cluster = Cluster()
    executor = submit(folder, job("a"), cluster=cluster)
    claims = take(folder, ["a-2"])
    assert claims is not None
    assert carried_out(scripts(queue)[0], "open('/dev/null')", tmp_path) == 1
    claims.release()
    cluster.states["101"] = "FAILED"
    assert [one.code for one in executor.poll()] == [None]
    assert not (folder.jobs / "a" / "log.txt").exists()


def test_the_state_file_holds_what_a_restart_needs(queue: Path, folder: StudyFolder) -> None:
    submit(folder, job("a"))
    facts = json.loads((folder.jobs / "a" / "slurm.json").read_text())
    assert facts["id"] == "101" and facts["phases"] == ["a-1", "a-2"]
