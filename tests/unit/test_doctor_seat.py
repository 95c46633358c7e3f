"""Where the doctor thinks it sits: from a launcher's variables, from srun's, or alone."""

import pytest

from xlt_scale.doctor.seat import expand_counts, expand_nodes, find_seat
from xlt_scale.errors import UserError

STEP = {
    "SLURM_JOB_ID": "12345",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURMD_NODENAME": "gpu08",
}
LAUNCHER = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "gpu07", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("login", ("login",)),
        ("node1,node2", ("node1", "node2")),
        ("gpu[01-03,07],login", ("gpu01", "gpu02", "gpu03", "gpu07", "login")),
        ("rack[1-2]n[9-10]", ("rack1n9", "rack1n10", "rack2n9", "rack2n10")),
        ("n[098-101]", ("n098", "n099", "n100", "n101")),
    ],
)
def test_a_list_of_nodes_is_read_as_slurm_writes_it(text: str, names: tuple[str, ...]) -> None:
    assert expand_nodes(text) == names


def test_counts_of_tasks_are_read_as_slurm_writes_them() -> None:
    assert expand_counts("2(x3),1") == (2, 2, 2, 1)


def test_under_srun_rank_head_and_nodes_come_from_slurm() -> None:
    seat = find_seat(STEP)
    assert (seat.rank, seat.size, seat.local_rank, seat.head) == (2, 3, 0, "gpu07")
    assert seat.nodes == ("gpu07", "gpu08")
    assert [seat.describe(rank) for rank in range(3)] == ["rank 0 on gpu07", "rank 1 on gpu07", "rank 2 on gpu08"]


def test_all_tasks_of_a_job_find_the_same_port_and_other_jobs_another() -> None:
    port = find_seat(STEP).port
    assert find_seat(STEP | {"SLURM_PROCID": "0"}).port == port
    assert find_seat(STEP | {"SLURM_JOB_ID": "12346"}).port != port


def test_the_port_and_head_that_a_run_of_the_job_takes_are_looked_at() -> None:
    of_script = {"XLT_SCALE_MASTER_PORT": "21000", "XLT_SCALE_MASTER_ADDRESS": "gpu08"}
    assert (find_seat(STEP | of_script).head, find_seat(STEP | of_script).port) == ("gpu08", 21000)
    assert find_seat(STEP | of_script | {"MASTER_PORT": "29511"}).port == 29511


def test_ranks_are_not_placed_on_nodes_where_slurm_deals_them_out_in_another_order() -> None:
    assert find_seat(STEP | {"SLURM_DISTRIBUTION": "cyclic"}).describe(2) == "rank 2"


def test_a_launcher_under_srun_comes_first() -> None:
    seat = find_seat(STEP | LAUNCHER)
    assert (seat.rank, seat.size, seat.port, seat.launcher) == (1, 2, 29500, "launcher")


def test_in_a_batch_script_outside_srun_the_process_is_alone() -> None:
    script = {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_NODELIST": "gpu[07-08]"}
    assert (find_seat(script).size, find_seat(script).launcher) == (1, "alone")


def test_the_port_that_torchrun_holds_is_not_listened_at() -> None:
    assert find_seat(LAUNCHER).meeting_ports[0] == 29500
    assert 29500 not in find_seat(LAUNCHER | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).meeting_ports


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": "one"}, "RANK = 'one' is not a number"),
        ({"RANK": "2"}, "RANK = 2 of WORLD_SIZE = 2"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not"),
        ({"WORLD_SIZE": None}, "WORLD_SIZE is not set"),
    ],
)
def test_variables_that_do_not_fit_are_named(changes: dict[str, str | None], message: str) -> None:
    variables = {name: value for name, value in (LAUNCHER | changes).items() if value is not None}
    with pytest.raises(UserError, match=message):
        find_seat(variables)
