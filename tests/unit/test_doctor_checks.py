"""What the doctor finds on one machine, and how its findings become a table."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_disk import small_disk

from xlt_scale.cli_doctor import print_table
from xlt_scale.config import load_run
from xlt_scale.doctor.deadline import TookTooLong, within
from xlt_scale.doctor.findings import CHECKS, Finding, Row, merge_findings, name_nodes
from xlt_scale.doctor.folder import check_folder
from xlt_scale.doctor.interfaces import Interface, check_interfaces, gloo_choice
from xlt_scale.doctor.machine import check_gpus, check_shared_memory, versions
from xlt_scale.doctor.run_needs import bytes_needed
from xlt_scale.doctor.stack import StackProbe
from xlt_scale.doctor.unlike import check_hardware, check_versions

ROOT = Path(__file__).resolve().parents[2]
MICRO = ROOT / "launch" / "runs" / "micro.toml"
LOOPBACK = Interface("lo", True, ("127.0.0.1",))
ETHERNET = Interface("eth0", True, ("10.1.0.5",))
UNPLUGGED = Interface("eth1", False, ("10.2.0.5",))
NAMELESS = Interface("ib0", True, ())
INTERFACES = [LOOPBACK, ETHERNET, UNPLUGGED, NAMELESS]
NODE: dict[str, Any] = {"cores": 8, "memory_gib": 64.0, "architecture": "x86_64", "gpus": None, "driver": ""}


def doctor(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # Nothing of a batch job, nor of the process group that an earlier test has made in this process.
    foreign = ("SLURM", "XLT_SCALE", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return subprocess.run(
        [sys.executable, "-m", "xlt_scale.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | variables,
    )


def states(findings: list[Finding]) -> list[str]:
    return [finding.state for finding in findings]


def test_a_machine_by_itself_is_checked_in_a_table(tmp_path: Path) -> None:
    done = doctor("--quick", "--output", str(tmp_path / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "one node: nothing to compare with" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_failure_ends_with_exit_code_2_and_its_mend(tmp_path: Path) -> None:
    done = doctor("--quick", "--json", "--interface", "eth99", "--output", str(tmp_path))
    assert done.returncode == 2
    (failed,) = (row for row in json.loads(done.stdout) if row["state"] == "fail")
    assert "eth99: there is no such interface" in failed["found"]
    assert failed["mend"].startswith("export GLOO_SOCKET_IFNAME=")


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--seconds", "0"], {}, "error: --seconds 0: give a number above 0"),
        (["--set", "seed=1"], {}, "error: --set overrides a key of a run file"),
        (["nowhere.toml"], {}, "error: nowhere.toml"),
        ([str(MICRO), "--set", "sed=1"], {}, "unknown key 'sed'; did you mean 'seed'?"),
        ([], {"RANK": "1"}, "error: WORLD_SIZE is not set"),
    ],
)
def test_bad_arguments_are_one_line(arguments: list[str], variables: dict[str, str], message: str) -> None:
    done = doctor("--quick", *arguments, **variables)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_model_and_data_that_an_offline_node_lacks_are_named_before_the_start(tmp_path: Path) -> None:
    run = tmp_path / "run.toml"
    run.write_text(
        'output = "out"\n[model]\nname = "FacebookAI/xlm-roberta-base"\n'
        '[[phases]]\nname = "target"\ntask = "xnli"\nsteps = 1\n'
    )
    done = doctor("--quick", "--json", str(run), HF_HOME=str(tmp_path / "hub"), HF_HUB_OFFLINE="1")
    found = {row["check"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 2
    assert "model.name = 'FacebookAI/xlm-roberta-base' is not in" in found["model"]["found"]
    assert "hub dataset" in found["data"]["found"]
    assert all("xlt-scale prefetch" in found[check]["mend"] for check in ("model", "data"))


def test_processes_of_one_node_are_checked_together_and_end_alike(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "xlt_scale.cli", "doctor", "--quick", "--json", "--output", "/proc/nowhere"]
    ranks = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | ranks | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert outputs[1] == ""
    assert "2 processes on one node have met" in outputs[0]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("eth9", "there is no such interface; there are lo (127.0.0.1), eth0 (10.1.0.5), eth1 down (10.2.0.5)"),
        ("eth1", "that interface is down"),
        ("ib0", "that interface has no address"),
        ("lo", "that is loopback"),
    ],
)
def test_a_named_interface_that_cannot_work_is_refused(value: str, found: str) -> None:
    (finding,) = check_interfaces(INTERFACES, True, False, environment={"GLOO_SOCKET_IFNAME": value})
    assert (finding.state, finding.mend) == ("fail", "export GLOO_SOCKET_IFNAME=eth0")
    assert found in finding.found


def test_a_named_interface_that_is_up_passes_and_gloo_takes_its_address() -> None:
    variables = {"GLOO_SOCKET_IFNAME": "eth0"}
    assert states(check_interfaces(INTERFACES, True, False, environment=variables)) == ["pass"]
    assert gloo_choice(INTERFACES, variables).address == "10.1.0.5"


@pytest.mark.parametrize(
    ("value", "states_with_gpus"),
    [("eth", ["pass"]), ("=eth0", ["pass"]), ("^eth", ["pass", "fail"]), ("mlx", ["pass", "fail"])],
)
def test_nccl_takes_beginnings_of_names_and_exceptions(value: str, states_with_gpus: list[str]) -> None:
    outward = [ETHERNET, UNPLUGGED, NAMELESS]
    variables = {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": value}
    assert states(check_interfaces(outward, True, True, environment=variables)) == states_with_gpus


def test_unequal_versions_name_the_odd_nodes() -> None:
    here = versions()
    (finding,) = check_versions({"n1": here, "n2": here, "n3": here | {"torch": "2.0.0"}})
    assert finding.found == f"torch: {here['torch']} on n1, n2; 2.0.0 on n3"
    assert "on n3 the torch of the others" in finding.mend
    assert states(check_versions({"n1": here, "n2": here})) == ["pass"]
    assert states(check_versions({"n1": here | {"deepspeed": "not installed"}})) == ["fail"]


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "pass"),
        ({"memory_gib": 63.5}, "pass"),
        ({"memory_gib": 32.0}, "warn"),
        ({"cores": 4}, "warn"),
        ({"gpus": ["A100"]}, "fail"),
        ({"architecture": "aarch64"}, "fail"),
    ],
)
def test_unequal_nodes_are_told(changes: dict[str, Any], state: str) -> None:
    assert states(check_hardware({"n1": NODE, "n2": NODE | changes})) == [state]


@pytest.mark.parametrize(
    ("num_tasks", "starts_launcher", "visible", "state"),
    [
        (4, False, None, "pass"),
        (1, True, None, "pass"),
        (2, False, None, "warn"),
        (5, True, None, "fail"),
        (4, False, "0,1", "fail"),
        (1, True, "", "warn"),
    ],
)
def test_processes_are_counted_against_gpus(
    num_tasks: int, starts_launcher: bool, visible: str | None, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    facts = NODE | {"gpus": ["H200, 141 GiB"] * 4, "gpu_problem": "", "ecc_errors": 0}
    assert states(check_gpus(facts, num_tasks, starts_launcher)) == [state]


def test_memory_errors_of_a_gpu_fail() -> None:
    facts = NODE | {"gpus": ["H200"], "gpu_problem": "", "ecc_errors": 3}
    assert "fail" in states(check_gpus(facts, 1, False))


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    writing, space = check_folder(tmp_path / "not" / "yet", bytes_needed=1)
    assert (writing.state, space.state) == ("pass", "pass")
    assert list(tmp_path.iterdir()) == []


def test_space_is_held_against_what_the_run_needs(tmp_path: Path) -> None:
    assert check_folder(tmp_path, bytes_needed=1 << 60)[1].state == "fail"
    unknown = check_folder(tmp_path, bytes_needed=None)[1]
    assert unknown.state in ("-", "warn")


def test_a_full_disk_fails_whatever_it_says_is_free(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        writing, space = check_folder(disk, bytes_needed=None)
        assert list(disk.iterdir()) == []
    assert (writing.state, space.state) == ("fail", "warn")
    assert "the disk is full" in writing.found


def test_little_shared_memory_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path / "shm", kilobytes=64) as shared_memory:
        assert states(check_shared_memory(shared_memory)) == ["warn"]


def test_a_run_needs_room_for_the_checkpoints_that_stay_and_the_next() -> None:
    run = load_run(MICRO, ["checkpoints.keep_last=2"])
    trained = [phase for phase in run.phases if phase.trains]
    assert bytes_needed(run, 1000) == 1000 * (12 * 3 + 4 * (len(trained) + 1))


def test_nodes_that_find_the_same_share_a_row() -> None:
    well, full = Finding("folder", "pass", "fine"), Finding("folder", "fail", "full", "make room")
    rows = merge_findings([("n1", well), ("n2", well), ("n3", full), ("", Finding("nodes", "pass", "all"))])
    assert [(row.check, row.state, row.nodes) for row in rows] == [
        ("nodes", "pass", ()),
        ("folder", "pass", ("n1", "n2")),
        ("folder", "fail", ("n3",)),
    ]


def test_the_table_shows_what_libraries_say_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    said = "[/gloo/transport/tcp/pair.h:311] Connection closed"
    row = Row("all-reduce", "fail", ("n1",), said, "look at [bold]interface[/bold]")
    print_table((row, Row("folder", "pass", ("n1", "n2"), "fine", "")), "2 processes", as_json=False)
    shown = capsys.readouterr().out
    assert f"n1: {said}" in shown
    assert "look at [bold]interface[/bold]" in shown
    assert "n2" not in shown


def test_of_many_nodes_the_first_are_named() -> None:
    assert name_nodes([f"n{number}" for number in range(64)]) == "n0, n1, n2, n3 and 60 more"


def test_every_check_is_on_its_page() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text()
    first_cells = {
        name for line in page.splitlines() if line.startswith("| ") for name in line.split("|")[1].strip().split(", ")
    }
    assert set(CHECKS) <= first_cells


def test_a_stack_that_hangs_is_ended_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlt_scale.doctor.stack.SECONDS", 0.1)
    began = time.monotonic()
    first, *others = StackProbe().findings()
    assert time.monotonic() - began < 10
    assert (first.check, first.state) == ("PyTorch", "fail")
    assert "no answer within" in first.found
    assert states(others) == ["-", "-"]


def test_a_step_that_hangs_ends_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(TookTooLong):
        within(0.1, lambda: time.sleep(30))
    assert time.monotonic() - began < 5
