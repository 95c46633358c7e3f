"""Heartbeats between real processes: who is killed, stopped or fails is named, and nobody is left behind."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

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
        place.with_suffix(".new").write_text(facts)
        place.with_suffix(".new").rename(place)
        return facts
    while not place.exists():
        time.sleep(0.02)
    return place.read_text()

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
        time.sleep(1.5)  # a few words
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


HERE = socket.gethostname()


def kill(number: int) -> Callable[[Ranks], None]:
    return lambda ranks: ranks.processes[number].kill()


def hold_still(ranks: Ranks) -> None:
    """The process lives and says nothing; killed when the others have noticed."""
    ranks.processes[1].send_signal(signal.SIGSTOP)
    time.sleep(6.5)
    ranks.processes[1].kill()


def guess_the_token(ranks: Ranks) -> None:
    port = json.loads((ranks.folder / "shared").read_text())["port"]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.sendall(b'{"token": "guessed", "rank": 1, "host": "x", "process": 1}\n{"failed": "ha", "code": 1}\n')
        # Closed, or reset.
        with contextlib.suppress(ConnectionResetError):
            while stranger.recv(100):
                pass
    time.sleep(1.0)
    assert ranks.processes[0].poll() is None
    ranks.processes[0].kill()


# What each rank does, what befalls them, and further environment. All wait most of the time: they do it together.
SCENES: dict[str, tuple[list[str], Callable[[Ranks], None] | None, dict[str, str]]] = {
    "all end well": (["end", "end", "end"], None, {}),
    "rank 1 killed": (["work", "work", "work"], kill(1), {}),
    "rank 0 killed": (["work", "work", "work"], kill(0), {}),
    "rank 1 silent": (["work", "work"], hold_still, {}),
    "a collective fails": (["collective", "work", "collective"], kill(1), {}),
    "rank 1 fails": (["work", "fail"], None, {}),
    "all find an error": (["user", "user"], None, {}),
    "rank 1 finds an error": (["work", "user"], None, {}),
    "all are stopped": (["stopped", "stopped"], None, {}),
    "nothing moves": (["work", "work"], None, {"STANDSTILL": "3"}),
    "a stranger calls": (["work", "end"], guess_the_token, {}),
}
LIMIT = 20.0

Seen = tuple[list[int], list[str], Path]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[Seen]]:
    """Exit codes, words and folder of each scene."""

    folders = {name: tmp_path_factory.mktemp(name.replace(" ", "-")) for name in SCENES}

    def play(name: str) -> Seen:
        deeds, act, environment = SCENES[name]
        folder = folders[name]
        ranks = Ranks(folder, *deeds, **environment)
        if act is not None:
            act(ranks)
        return *ranks.end(LIMIT), folder

    with ThreadPoolExecutor(len(SCENES)) as pool:
        return {name: pool.submit(play, name) for name in SCENES}


Scenes = dict[str, Future[Seen]]


def test_ranks_that_end_well_say_nothing(scenes: Scenes) -> None:
    codes, said, folder = scenes["all end well"].result()
    assert (codes, said) == ([0, 0, 0], ["", "", ""])
    assert not (folder / "ends").exists()


def test_a_killed_rank_ends_the_others_and_one_line_names_it(scenes: Scenes) -> None:
    codes, said, _ = scenes["rank 1 killed"].result()
    assert codes == [86, -9, 86]
    assert said[0].startswith(f"lost: rank 1 on {HERE} (process ")
    assert "ended without a word; last seen at phase target, step 7" in said[0]
    assert "the same command goes on" in said[0] and said[0].count("\n") == 1
    assert said[1:] == ["", ""]


def test_a_rank_that_has_been_silent_too_long_is_lost(scenes: Scenes) -> None:
    codes, said, _ = scenes["rank 1 silent"].result()
    assert codes[0] == 86 and "rank 1 on" in said[0] and "not heard of for 4 s" in said[0]


def test_the_others_find_out_alone_that_rank_0_is_gone(scenes: Scenes) -> None:
    codes, said, _ = scenes["rank 0 killed"].result()
    assert codes == [-9, 86, 86]
    assert f"rank 0 on {HERE} ended without a word" in said[1]


def test_a_collective_that_fails_because_a_peer_is_gone_is_not_what_the_user_reads(scenes: Scenes) -> None:
    codes, said, _ = scenes["a collective fails"].result()
    assert codes == [86, -9, 86]
    assert "rank 1" in said[0] and "Traceback" not in "".join(said)


def test_a_rank_that_fails_tells_why_and_the_others_end_with_its_words(scenes: Scenes) -> None:
    codes, said, _ = scenes["rank 1 fails"].result()
    assert codes == [1, 1]
    assert "Traceback" in said[1] and f"stopped: rank 1 on {HERE}: KeyError: 'planted'" in said[0]


def test_an_error_of_all_ranks_is_told_once_and_by_rank_0_first(scenes: Scenes) -> None:
    codes, said, _ = scenes["all find an error"].result()
    assert codes == [2, 2] and said[0] == "error: mend this\n"


def test_an_error_that_one_rank_finds_alone_ends_the_others_too(scenes: Scenes) -> None:
    codes, said, _ = scenes["rank 1 finds an error"].result()
    assert codes == [2, 2]
    assert said[0] == f"error: rank 1 on {HERE}: mend this\n"


def test_ranks_that_stop_on_request_have_an_exit_code_of_their_own(scenes: Scenes) -> None:
    codes, said, _ = scenes["all are stopped"].result()
    assert codes == [85, 85] and said == ["stopped: saved\n", ""]


def test_when_nothing_moves_all_end_with_the_places_of_the_ranks(scenes: Scenes) -> None:
    codes, said, _ = scenes["nothing moves"].result()
    assert codes == [86, 86] and "nothing has moved for 3 s: all 2 ranks at phase target, step 7" in said[0]


def test_the_first_process_of_a_node_leaves_an_end_file(scenes: Scenes) -> None:
    *_, folder = scenes["rank 1 killed"].result()
    found = json.loads((folder / "ends" / f"{HERE}.json").read_text())
    assert (found["code"], found["lost_rank"], found["lost_node"]) == (86, 1, HERE)
    assert (found["phase"], found["step"]) == ("target", 7)
    assert [path.name for path in (folder / "ends").iterdir()] == [f"{HERE}.json"]


def test_a_stranger_on_the_port_is_turned_away(scenes: Scenes) -> None:
    codes, said, _ = scenes["a stranger calls"].result()
    assert codes == [-9, 0] and said == ["", ""]
