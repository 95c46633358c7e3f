"""A run that is asked to stop saves, says so, and goes on as if nothing had happened."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from interruption import assert_same_end, checkpoints, losses, weights

from xlt_scale.cluster.ending import StoppedError
from xlt_scale.cluster.stop_request import SECONDS_OF_ECHOES, StopRequest

NO_OTHER_SAVES = ("checkpoints.every=0", "checkpoints.minutes=0")


@pytest.fixture(scope="module")
def undisturbed(go: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    go(folder, *NO_OTHER_SAVES)
    return folder


@pytest.fixture
def when(tmp_path: Path) -> Iterator[Callable[[int, Callable[[], object]], None]]:
    """Does something as soon as metrics.jsonl has so many rows."""
    threads: list[threading.Thread] = []

    def do(num_rows: int, act: Callable[[], object]) -> None:
        path = tmp_path / "run" / "metrics.jsonl"

        def watch() -> None:
            while not (path.exists() and path.read_text().count('"loss"') >= num_rows):
                time.sleep(0.001)
            act()

        threads.append(threading.Thread(target=watch))
        threads[-1].start()

    yield do
    for thread in threads:
        thread.join()


def stopped(go: Callable[..., None], folder: Path, *settings: str) -> str:
    with pytest.raises(StoppedError) as caught:
        go(folder, *NO_OTHER_SAVES, *settings)
    return str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_leads_to_a_checkpoint_and_a_run_that_ends_the_same(
    number: signal.Signals, go: Callable[..., None], when: Callable[..., None], tmp_path: Path, undisturbed: Path
) -> None:
    folder = tmp_path / "run"
    when(5, lambda: os.kill(os.getpid(), number))
    said = stopped(go, folder)
    (saved,) = checkpoints(folder)
    step = int(saved.name.removeprefix("step-"))
    assert said == f"{number.name} came; phase pretrain is saved at step {step}, the same command goes on from there"
    assert 5 <= step < 18
    go(folder, *NO_OTHER_SAVES)
    assert_same_end(folder, undisturbed)


def test_a_stop_file_stops_it_too(
    go: Callable[..., None], tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_file = tmp_path / "stop"
    stop_file.write_text("")
    monkeypatch.setenv("XLT_SCALE_STOP_FILE", str(stop_file))
    assert stopped(go, tmp_path / "run").startswith(f"{stop_file} is there; ")
    stop_file.unlink()
    go(tmp_path / "run", *NO_OTHER_SAVES)
    assert_same_end(tmp_path / "run", undisturbed)


def test_it_stops_in_time_before_the_allocation_ends(
    go: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLT_SCALE_END_TIME", str(time.time() - 1))
    assert stopped(go, tmp_path / "run").startswith("the allocation ends in 0 s; ")
    monkeypatch.setenv("XLT_SCALE_END_TIME", str(time.time() + 1000))
    go(tmp_path / "run", *NO_OTHER_SAVES)


def test_between_training_and_scoring_there_is_nothing_to_save(
    go: Callable[..., None], when: Callable[..., None], tmp_path: Path, undisturbed: Path
) -> None:
    # The last phase has nine steps: the signal comes with its last row.
    when(18 + 9, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    said = stopped(go, tmp_path / "run")
    assert "is left to score" in said or "is saved at step" in said
    go(tmp_path / "run", *NO_OTHER_SAVES)
    assert weights(tmp_path / "run", "target") == weights(undisturbed, "target")
    assert losses(tmp_path / "run") == losses(undisturbed)


def test_a_signal_that_is_sent_on_by_a_launcher_counts_once_and_a_later_one_ends_at_once() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        request = StopRequest()
        with request.listening():
            os.write(writer, b".")
            while True:
                time.sleep(0.05)
    os.read(reader, 1)
    os.kill(child, signal.SIGUSR1)
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    time.sleep(SECONDS_OF_ECHOES + 0.3)
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "an echo ended it"
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM


def test_a_process_that_reads_data_ignores_the_signals_of_the_run() -> None:
    request = StopRequest()
    with request.listening():
        child = os.fork()
        if child == 0:
            time.sleep(1.0)
            os._exit(7)
        time.sleep(0.2)
        os.kill(child, signal.SIGUSR1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert request.why() == ""
