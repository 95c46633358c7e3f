"""What a batch script asks at its begin and end, with programs in the place of SLURM's that answer and keep a list."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.cluster.batch_shape import gpus_by_nodes, shape_of
from xlt_scale.errors import UserError

HOST = socket.gethostname()
JOB = "4711"

SCONTROL = """\
#!/bin/bash
echo "scontrol $*" >> "$CALLS"
case "$1 $2" in
    "show hostnames") if [[ "$3" == "node[1-2]" ]]; then echo node1; echo node2; else tr , '\\n' <<<"$3"; fi ;;
    "show job") cat "$FACTS" ;;
    requeue*) [[ ! -e "$FACTS.refuses" ]] || { echo "Requested operation is presently disabled" >&2; exit 1; } ;;
esac
"""
FACTS = "JobId=4711 JobState=RUNNING Reason=None Requeue=1 NumNodes=2 NumTasks=1 Partition=main ExcNodeList=(null)"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job on node1 and node2 of a partition of three; the file lists what SLURM was asked."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "scontrol": SCONTROL,
        "sinfo": "#!/bin/bash\nprintf 'node1 alloc\\nnode2 alloc\\nnode3 idle\\nnode4 down*\\n'\n",
        "squeue": "#!/bin/bash\necho 2026-11-21T12:00:00\n",
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "facts").write_text(FACTS)
    calls = tmp_path / "calls"
    calls.touch()
    for name in [name for name in os.environ if name.startswith(("SLURM_", "XLT_SCALE_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(calls),
        "FACTS": str(tmp_path / "facts"),
        "SLURM_JOB_ID": JOB,
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_TASKS_PER_NODE": "8(x2)",
    }.items():
        monkeypatch.setenv(name, value)
    return calls


def ask(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xlt_scale.cluster.batch_job", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def begin(restart: int = 0, **environment: str) -> dict[str, str]:
    """The variables that a start of the job is given."""
    done = ask("begin", **environment, **({"SLURM_RESTART_COUNT": str(restart)} if restart else {}))
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^export (\w+)=(.*)$", done.stdout, re.MULTILINE))


def leave(variables: dict[str, str], host: str = HOST, **facts: Any) -> None:
    """The end file of a node."""
    content = {"code": 86, "reason": "gone", "lost_node": "", "lost_rank": None, "phase": "", "step": 0, "time": 1.0}
    (Path(variables["XLT_SCALE_END_FOLDER"]) / f"{host}.json").write_text(json.dumps(content | facts))


def mark(variables: dict[str, str], name: str, content: str) -> None:
    (Path(variables["XLT_SCALE_END_FOLDER"]) / name).write_text(f"{content}\n")


def end(variables: dict[str, str], code: int | None = 1) -> tuple[int, str]:
    """The exit code, and what is said."""
    done = ask("end", "--patience=0", *([] if code is None else ["--launcher-code", str(code)]), **variables)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def test_a_start_is_told_its_nodes_and_where_they_meet(slurm: Path) -> None:
    first = begin(XLT_SCALE_PROCESSES_PER_NODE="2")
    assert (first["XLT_SCALE_NODES"], first["XLT_SCALE_PROCESSES"], first["XLT_SCALE_GPUS"]) == ("2", "2", "0")
    assert first["XLT_SCALE_MASTER_ADDRESS"] == "node1"
    assert first["XLT_SCALE_JOB_FOLDER"] == f"{slurm.parent}/slurm-jobs/{JOB}"
    assert float(first["XLT_SCALE_END_TIME"]) > 1.7e9
    again = begin(restart=1)
    assert again["XLT_SCALE_END_FOLDER"] != first["XLT_SCALE_END_FOLDER"]
    assert again["XLT_SCALE_MASTER_PORT"] != first["XLT_SCALE_MASTER_PORT"]


def test_the_folder_of_another_job_with_this_number_is_put_aside(slurm: Path) -> None:
    leave(begin(), code=86)
    assert begin()["XLT_SCALE_END_FOLDER"].endswith("/start-1")
    assert (slurm.parent / "slurm-jobs" / f"{JOB}.before-1" / "start-1").exists()


def test_a_job_that_is_done_ends_with_0_and_asks_nothing(slurm: Path) -> None:
    variables = begin()
    slurm.write_text("")
    assert end(variables, 0) == (0, "")
    assert slurm.read_text() == ""


@pytest.mark.parametrize("code", [1, 2, 130])
def test_a_failed_job_ends_with_its_code_and_is_not_requeued(slurm: Path, code: int) -> None:
    variables = begin()
    leave(variables, code=code, reason="the file is not there")
    assert end(variables, 1) == (code, f"batch job: ends with code {code}: the file is not there\n")
    assert "requeue" not in slurm.read_text()


@pytest.mark.parametrize("code", [85, 86])
def test_a_job_that_was_stopped_or_lost_is_requeued(slurm: Path, code: int) -> None:
    variables = begin()
    leave(variables, code=code)
    assert end(variables)[0] == code
    assert f"scontrol requeue {JOB}" in slurm.read_text() and "ExcNodeList" not in slurm.read_text()
    # SLURM kills a job that starts in the second in which a lost node is called down.
    assert (f"update jobid={JOB} StartTime=now+20" in slurm.read_text()) == (code == 86)


def test_the_launchers_own_code_counts_where_no_node_says_anything(slurm: Path) -> None:
    assert end(begin(), 85)[0] == 85
    assert f"scontrol requeue {JOB}" in slurm.read_text()


def test_a_failed_launcher_without_an_end_file_is_a_failure(slurm: Path) -> None:
    code, said = end(begin(), 127)
    assert (code, said) == (127, "batch job: ends with code 127: the launcher ended with code 127\n")


def test_the_first_node_counts_before_the_others(slurm: Path) -> None:
    variables = begin()
    leave(variables, "node2", lost_node=HOST, reason="the other side", time=1.0)
    leave(variables, HOST, lost_node="node2", reason="this side", time=2.0)
    assert "batch job: lost: this side" in end(variables)[1]


def test_another_node_counts_when_the_first_one_says_nothing(slurm: Path) -> None:
    variables = begin()
    leave(variables, "node2", code=85, reason="saved at step 7")
    assert end(variables)[0] == 85


def test_a_script_that_went_on_without_its_launcher_reads_the_mark_of_its_node(slurm: Path) -> None:
    variables = begin()
    mark(variables, f"{HOST.split('.')[0]}.ended", "0")
    assert end(variables, None) == (0, "")


def test_a_node_that_never_began_is_lost(slurm: Path) -> None:
    variables = begin()
    mark(variables, "node1.began", HOST)
    code, said = end(variables, 1)
    assert code == 86 and "lost: node2 never began" in said


def lose(node: str, step: int, restart: int, **environment: str) -> tuple[int, str]:
    variables = begin(restart, **environment)
    mark(variables, "node1.began", HOST)
    mark(variables, "node2.began", "node2.cluster.org")
    leave(variables, lost_node=node, phase="target", step=step, reason=f"rank 1 on {node} is gone")
    return end(variables)


def test_a_node_that_was_lost_twice_is_excluded_by_slurms_name(slurm: Path) -> None:
    assert "excluded" not in lose("node2.cluster.org", 10, 0)[1]
    assert "node2 was lost twice: excluded from now on" in lose("node2.cluster.org", 20, 1)[1]
    order = re.findall(r"scontrol (requeue|update .*)", slurm.read_text())
    later = f"update jobid={JOB} StartTime=now+20"
    assert order == ["requeue", later, "requeue", later, f"update jobid={JOB} ExcNodeList=node2"]


def test_nodes_that_are_excluded_already_stay_so(slurm: Path) -> None:
    (slurm.parent / "facts").write_text(FACTS.replace("(null)", "node7,node8"))
    lose("node2", 10, 0)
    lose("node2", 20, 1)
    assert "ExcNodeList=node2,node7,node8" in slurm.read_text()


def test_no_node_is_excluded_when_too_few_would_be_left(slurm: Path) -> None:
    (slurm.parent / "facts").write_text(FACTS.replace("NumTasks=1", "NumTasks=3"))
    lose("node2", 10, 0)
    code, said = lose("node2", 20, 1)
    assert code == 86 and "2 other nodes would be left for the 3" in said and "--nodes=MIN-MAX" in said
    assert "ExcNodeList" not in slurm.read_text() and slurm.read_text().count("requeue") == 2


def test_three_losses_without_a_step_of_progress_are_the_end(slurm: Path) -> None:
    lose("node1", 10, 0)
    lose("", 10, 1)
    code, said = lose("", 10, 2)
    assert code == 86 and "not requeued: lost 3 times without a step of progress since phase target, step 10" in said
    assert slurm.read_text().count("requeue") == 2


def test_a_step_of_progress_begins_the_count_anew(slurm: Path) -> None:
    for restart, step in enumerate([10, 10, 11, 11]):
        assert "not requeued" not in lose("", step, restart)[1]


def test_what_the_batch_script_did_not_live_to_note_is_noted_at_the_next_start(slurm: Path) -> None:
    leave(begin(), "node2", lost_node="node1", reason="rank 0 on node1 is gone", phase="target", step=5)
    begin(restart=1)
    [line] = (slurm.parent / "slurm-jobs" / JOB / "history.jsonl").read_text().splitlines()
    assert json.loads(line)["lost_node"] == "node1"


def test_a_cancelled_job_is_left_alone(slurm: Path) -> None:
    (slurm.parent / "facts").write_text(FACTS.replace("JobState=RUNNING", "JobState=COMPLETING"))
    variables = begin()
    leave(variables, code=85)
    code, said = end(variables)
    assert code == 85 and "not requeued" in said
    assert f"scontrol requeue {JOB}" not in slurm.read_text()


def test_a_job_that_its_user_keeps_from_being_requeued_is_left_alone(slurm: Path) -> None:
    (slurm.parent / "facts").write_text(FACTS.replace("Requeue=1", "Requeue=0"))
    variables = begin()
    leave(variables, code=85)
    code, said = end(variables)
    assert code == 85 and "the job may not be requeued (Requeue=0)" in said
    assert f"scontrol requeue {JOB}" not in slurm.read_text()


def test_a_job_whose_time_is_up_is_requeued(slurm: Path) -> None:
    text = FACTS.replace("JobState=RUNNING Reason=None", "JobState=COMPLETING Reason=TimeLimit")
    (slurm.parent / "facts").write_text(text)
    variables = begin()
    leave(variables, code=85)
    end(variables)
    assert f"scontrol requeue {JOB}" in slurm.read_text()


def test_where_slurm_refuses_the_code_says_how_it_ended(slurm: Path) -> None:
    (slurm.parent / "facts.refuses").touch()
    variables = begin()
    leave(variables, code=86)
    code, said = end(variables)
    assert code == 86
    assert said.splitlines()[-1].startswith("batch job: not requeued: scontrol requeue 4711: Requested operation")


def shape(**changes: str) -> dict[str, str]:
    return {"SLURM_JOB_ID": JOB, "SLURM_JOB_NODELIST": "node[1-2]"} | changes


def test_processors_that_nobody_asked_for_as_tasks_are_no_processes(slurm: Path) -> None:
    assert shape_of(shape(SLURM_TASKS_PER_NODE="64,128")).processes == 1


def test_tasks_per_node_are_processes_on_nodes_without_gpus(slurm: Path) -> None:
    assert shape_of(shape(SLURM_TASKS_PER_NODE="4(x2)", SLURM_NTASKS="8")).processes == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_TASKS_PER_NODE": "2,1", "SLURM_NTASKS": "3"}, r"unequal numbers of tasks \(2,1\); use --nodes"),
        ({"SLURM_HET_SIZE": "2"}, "heterogeneous job"),
        ({"XLT_SCALE_PROCESSES_PER_NODE": "all"}, "XLT_SCALE_PROCESSES_PER_NODE is 'all'"),
        (
            {"SLURM_TASKS_PER_NODE": "4(x2)", "SLURM_NTASKS": "8", "SLURM_GPUS_ON_NODE": "8"},
            "4 tasks but 8 GPUs per node",
        ),
    ],
)
def test_shapes_that_the_scripts_do_not_serve_are_refused(slurm: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        shape_of(shape(**changes))


def details(first: str, second: str, asked: str = "") -> str:
    """As `scontrol show job -d` has printed it."""
    return (
        "   JOB_GRES=gpu:a100:12\n"
        f"     Nodes=node1 CPU_IDs=0-63 Mem=0 GRES={first}\n"
        f"     Nodes=node2 CPU_IDs=0-63 Mem=0 GRES={second}\n"
        f"   StdOut=/log\n   {asked}\n"
    )


def test_nodes_with_unequal_numbers_of_gpus_are_refused(slurm: Path) -> None:
    (slurm.parent / "facts").write_text(details("gpu:a100:8(IDX:0-7)", "gpu:a100:4(IDX:0-3)"))
    with pytest.raises(UserError, match=r"unequal numbers of GPUs \(node1: 8, node2: 4\); use --gpus-per-node"):
        shape_of(shape(SLURM_GPUS_ON_NODE="8"))


@pytest.mark.parametrize(
    ("asked", "tasks", "processes"),
    [
        ("", "", 8),
        ("TresPerNode=gres:gpu:4", "", 4),
        ("TresPerNode=gres:gpu:a100:4", "", 4),
        ("TresPerNode=gres/gpu:4", "", 4),
        ("TresPerJob=gres:gpu:4", "", 2),
        ("TresPerTask=gres:gpu:1", "4(x2)", 4),
        ("TresPerTask=gres:gpu:8", "", 8),
    ],
)
def test_of_a_whole_node_as_many_gpus_are_used_as_were_asked_for(
    slurm: Path, asked: str, tasks: str, processes: int
) -> None:
    (slurm.parent / "facts").write_text(details("gpu:a100:8(IDX:0-7)", "gpu:a100:8(IDX:0-7)", asked))
    counts = {"SLURM_TASKS_PER_NODE": tasks, "SLURM_NTASKS": "8"} if tasks else {}
    found = shape_of(shape(SLURM_GPUS_ON_NODE="8", **counts))
    assert (found.processes, found.uses_gpus) == (processes, True)


def test_gpus_that_cannot_be_shared_out_evenly_are_refused(slurm: Path) -> None:
    (slurm.parent / "facts").write_text(details("gpu:8(IDX:0-7)", "gpu:8(IDX:0-7)", "TresPerJob=gres:gpu:3"))
    with pytest.raises(UserError, match="--gpus=3 cannot be shared out evenly over 2 nodes"):
        shape_of(shape(SLURM_GPUS_ON_NODE="8"))


@pytest.mark.parametrize(
    "gres", ["gpu:8(IDX:0-7)", "gpu:a100:8(IDX:0-7)", "gpu:a100:8(IDX:0,2-8),mps:1", "mps:1,gpu:8"]
)
def test_gpus_are_counted_however_the_site_names_them(gres: str) -> None:
    assert gpus_by_nodes(details(gres, gres)) == {"node1": 8, "node2": 8}


def test_outside_slurm_it_says_whom_it_is_for(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    done = ask("begin")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: SLURM_JOB_ID is not set")


# The callers of `begin` evaluate what it prints.
def test_what_begin_prints_is_shell(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "it's $HOME"
    odd.mkdir()
    monkeypatch.setenv("SLURM_SUBMIT_DIR", str(odd))
    printed = ask("begin").stdout
    done = subprocess.run(
        ["bash", "-euc", f'{printed}\nprintf %s "$XLT_SCALE_JOB_FOLDER"'], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{odd}/slurm-jobs/{JOB}"
