"""Heartbeats between real processes: who is killed, stopped or fails is named, and nobody is left behind."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

# A rank without torch: it joins the watch through a file in place of a process group, then does as it is told.
RANK = """
import os, pathlib, sys, time
from xlt_scale.cluster.ending import StoppedError, run_as_program
from xlt_scale.cluster.mark import Mark
from xlt_scale.cluster.verdict import Limits
from xlt_scale.cluster.watch import Watch
from xlt_scale.errors import UserError

folder, rank, size, deed = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]

def share(make):
    place = folder / "shared"
    if rank == 0:
        facts = make()
        place.with_suffix(".new").write_text(repr(facts))
        place.with_suffix(".new").rename(place)
        return facts
    while not place.exists():
        time.sleep(0.02)
    return eval(place.read_text())

def main():
    mark = Mark()
    limits = Limits(lost_after=4.0, standstill=float(os.environ.get("STANDSTILL", 60)), step=60.0)
    with Watch(rank, size, share, limits, mark):
        mark.at("step", phase="target", step=7, is_stepping=False)
        (folder / f"ready-{rank}").write_text(str(os.getpid()))
        while not (folder / "go").exists():
            time.sleep(0.02)
        if deed == "work":
            time.sleep(30)
        if deed == "fail":
            raise KeyError("planted")
        if deed == "collective":
            time.sleep(0.5)
            raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
        if deed == "user":
            raise UserError("mend this")
        if deed == "stopped":
            raise StoppedError("saved")

run_as_program(main)
"""


class Ranks:
    """Ranks that do each a deed: 'work' for a long time, 'fail', 'end' ..."""

    def __init__(self, folder: Path, *deeds: str, **environment: str) -> None:
        self.folder = folder
        script = folder / "rank.py"
        script.write_text(RANK)
        shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "XLT_SCALE_END_FOLDER": str(folder / "ends"), **environment}
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(script), str(folder), str(rank), str(len(deeds)), deed],
                env=shared | {"RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, deed in enumerate(deeds)
        ]
        deadline = time.monotonic() + 30
        while not all((folder / f"ready-{rank}").exists() for rank in range(len(deeds))):
            assert time.monotonic() < deadline, "the ranks did not meet"
            time.sleep(0.02)
        time.sleep(0.5)  # the first words
        (folder / "go").write_text("")
        self.began = time.monotonic()

    def end(self, seconds: float) -> tuple[list[int], list[str]]:
        """Exit codes and what each said, when all have ended within so long."""
        said = []
        for process in self.processes:
            try:
                said.append(process.communicate(timeout=max(0.1, self.began + seconds - time.monotonic()))[1])
            except subprocess.TimeoutExpired:
                said.append("still there")
                process.kill()
        return [process.wait() for process in self.processes], said


def test_ranks_that_end_well_say_nothing(tmp_path: Path) -> None:
    assert Ranks(tmp_path, "end", "end", "end").end(10) == ([0, 0, 0], ["", "", ""])
    assert not (tmp_path / "ends").exists()


def test_a_killed_rank_ends_the_others_within_seconds_and_one_line_names_it(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, "work", "work", "work")
    ranks.processes[1].kill()
    codes, said = ranks.end(8)
    assert codes == [86, -9, 86]
    assert said[0].startswith(f"lost: rank 1 on {socket.gethostname()} (process {ranks.processes[1].pid}) ended")
    assert "the same command goes on" in said[0] and said[0].count("\n") == 1
    assert said[1:] == ["", ""]


def test_a_stopped_rank_is_lost_when_it_has_been_silent_too_long(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, "work", "work")
    ranks.processes[1].send_signal(signal.SIGSTOP)
    time.sleep(6.5)
    ranks.processes[1].send_signal(signal.SIGKILL)
    codes, said = ranks.end(8)
    assert codes[0] == 86 and "rank 1 on" in said[0] and "not heard of for 4 s" in said[0]


def test_the_others_find_out_alone_that_rank_0_is_gone(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, "work", "work", "work")
    ranks.processes[0].kill()
    codes, said = ranks.end(8)
    assert codes == [-9, 86, 86]
    assert f"rank 0 on {socket.gethostname()} ended without a word" in said[1]


def test_a_collective_that_fails_because_a_peer_is_gone_is_not_what_the_user_reads(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, "collective", "work", "collective")
    ranks.processes[1].kill()
    codes, said = ranks.end(8)
    assert codes == [86, -9, 86]
    assert "rank 1" in said[0] and "Traceback" not in "".join(said)


def test_a_rank_that_fails_tells_why_and_the_others_end_with_its_words(tmp_path: Path) -> None:
    codes, said = Ranks(tmp_path, "work", "fail").end(8)
    assert codes == [1, 1]
    assert "Traceback" in said[1] and f"stopped: rank 1 on {socket.gethostname()}: KeyError: 'planted'" in said[0]


def test_an_error_of_all_ranks_is_told_once_by_rank_0(tmp_path: Path) -> None:
    codes, said = Ranks(tmp_path, "user", "user").end(12)
    assert codes == [2, 2] and said[0] == "error: mend this\n"


def test_an_error_that_one_rank_finds_alone_ends_the_others_too(tmp_path: Path) -> None:
    codes, said = Ranks(tmp_path, "work", "user").end(15)
    assert codes == [2, 2]
    assert said[0] == f"error: rank 1 on {socket.gethostname()}: mend this\n"


def test_ranks_that_stop_on_request_have_an_exit_code_of_their_own(tmp_path: Path) -> None:
    codes, said = Ranks(tmp_path, "stopped", "stopped").end(8)
    assert codes == [85, 85] and said == ["stopped: saved\n", ""]


def test_when_nothing_moves_all_end_with_the_places_of_the_ranks(tmp_path: Path) -> None:
    codes, said = Ranks(tmp_path, "work", "work", STANDSTILL="3").end(12)
    assert codes == [86, 86] and "nothing has moved for 3 s: all 2 ranks at phase target, step 7" in said[0]


def test_the_first_process_of_a_node_leaves_an_end_file(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, "work", "work")
    ranks.processes[1].kill()
    ranks.end(8)
    found = json.loads((tmp_path / "ends" / f"{socket.gethostname()}.json").read_text())
    assert (found["code"], found["lost_rank"], found["lost_node"]) == (86, 1, socket.gethostname())
    assert (found["phase"], found["step"]) == ("target", 7)
    assert [path.name for path in (tmp_path / "ends").iterdir()] == [f"{socket.gethostname()}.json"]


def test_a_stranger_on_the_port_is_turned_away(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, "work", "end")
    port = eval((tmp_path / "shared").read_text())[1]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.sendall(b'{"token": "guessed", "rank": 1, "host": "x", "process": 1}\n{"failed": "ha", "code": 1}\n')
        stranger.settimeout(5)
        # Closed, or reset.
        with contextlib.suppress(ConnectionResetError):
            while stranger.recv(100):
                pass
    assert ranks.processes[0].poll() is None
    ranks.processes[0].kill()
    ranks.end(5)
