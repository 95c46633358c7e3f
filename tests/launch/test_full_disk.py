"""A disk without room costs checkpoints or rows of metrics, then the run, but in one line and never by a traceback."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from interruption import SHORT, losses, refused, weights
from runs import start, training
from small_disk import small_disk

from xlt_scale.config import LoggingOptions
from xlt_scale.training.metrics import MetricsWriter


def test_training_goes_on_to_its_end_when_checkpoints_do_not_fit_on_the_disk(
    run_file: Path, cache: Path, tmp_path: Path
) -> None:
    # Room for one checkpoint of the training state and the weights, not for two of the former.
    with small_disk(tmp_path / "disk", kilobytes=4000) as disk:
        ended = start(training("python", disk / "run", cache, *SHORT, "engine.name=fsdp2", run=str(run_file)))
        assert ended.code == 0, ended.output
        told = [line for line in ended.output.splitlines() if "not saved, training goes on" in line]
        assert told and all(line.startswith("phase ") and "No space left on device" in line for line in told)
        assert "Traceback" not in ended.output
        lines = (disk / "run" / "metrics.jsonl").read_text().splitlines()
        failed = [row for row in map(json.loads, lines) if "checkpoint_failed" in row]
        assert len(failed) == len(told)
        assert len(losses(disk / "run")) == 18 + 9
        for phase in ("pretrain", "target"):
            assert weights(disk / "run", phase)


def test_a_result_that_does_not_fit_on_the_disk_stops_the_run_in_one_line(
    go: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=500) as disk:
        said = refused(go, disk / "run", "logging.tensorboard=true")
        assert said.startswith(f"{disk / 'run' / 'phases' / 'pretrain' / 'result'} cannot be saved: No space left")
        assert said.endswith("free space or choose another output folder")
        assert "Traceback" not in capfd.readouterr().err
        assert not (disk / "run" / "phases" / "pretrain" / "result").exists()


def test_a_disk_without_any_room_stops_the_run_in_one_line(
    go: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        (disk / "other").write_bytes(bytes(56 * 1024))
        assert "No space left on device; mend that and start again" in refused(go, disk / "run")
        assert "Traceback" not in capfd.readouterr().err


def test_rows_that_do_not_fit_on_the_disk_do_not_end_training(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    writer = MetricsWriter(tmp_path, LoggingOptions(tensorboard=False, progress="plain"), is_main=True)
    for step in (1, 2):
        writer.write({"phase": "pretrain", "step": step, "loss": 1.0})
    writer.close()
    said = capfd.readouterr().err
    assert said == "metrics.jsonl cannot be written, the run goes on: No space left on device\n"
