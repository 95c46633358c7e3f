"""`xlt-scale checkpoint`: what it says of checkpoints, and that it removes none that is needed."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_states import FILE, GROUP, change_manifest, facts_of, flip_bit, random_tensors, save_tensors

from xlt_scale import cli
from xlt_scale.checkpoint.manifest import COMPLETE, MANIFEST, read_manifest
from xlt_scale.errors import UserError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with an interrupted phase of four checkpoints, and one that is finished."""
    folder = tmp_path / "run"
    for step in (10, 20, 30, 40):
        path = folder / "phases" / "target" / "checkpoints" / f"step-{step:08d}"
        save_tensors(path, random_tensors(step), facts_of(step), size=2)
    weights = facts_of(40, phase="pretrain")
    del weights["optimizer"]
    save_tensors(folder / "phases" / "pretrain" / "result", random_tensors(5, moments=False), weights)
    (folder / "phases" / "pretrain" / "checkpoints").mkdir()
    return folder


@pytest.fixture
def phase(run: Path) -> Path:
    return run / "phases" / "target"


def step(phase: Path, number: int) -> Path:
    return phase / "checkpoints" / f"step-{number:08d}"


def steps_left(phase: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (phase / "checkpoints").glob("step-*"))


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `xlt-scale checkpoint` with arguments; the exit code and all that it printed."""

    def call(*arguments: object) -> tuple[int, str]:
        code = cli.app(["checkpoint", *map(str, arguments)], standalone_mode=False)
        return code or 0, capsys.readouterr().out

    return call


@pytest.fixture
def as_json(command: Command) -> Callable[..., Any]:
    return lambda *arguments: json.loads(command(*arguments, "--json")[1])


def cells(text: str, first: str) -> list[str]:
    """The cells of a printed table's row that begins with a word."""
    line = next(line for line in text.splitlines() if line.startswith(f"│ {first}"))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_runs_checkpoints_are_listed_by_phase_and_step(run: Path, command: Command) -> None:
    code, text = command("list", run)
    assert code == 0
    assert cells(text, "pretrain")[:3] == ["pretrain", "40", "weights (result)"]
    assert cells(text, "target")[:3] == ["target", "10", "training state"]
    assert cells(text, "target")[4:] == ["zero3", "2", "2026-11-01 10:10", "whole"]
    assert text.count("│ target") == 4


def test_the_folder_one_is_in_can_be_named_by_a_dot(
    phase: Path, as_json: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    change_manifest(step(phase, 40), lambda table: table.update(facts={}))
    monkeypatch.chdir(step(phase, 40))
    row = as_json("list", ".")[0]
    assert (row["phase"], row["step"]) == ("target", 40)


@pytest.mark.parametrize("part", ["", "checkpoints", "checkpoints/step-00000040"])
def test_a_phase_a_folder_of_checkpoints_and_a_checkpoint_can_be_listed(
    part: str, phase: Path, as_json: Callable[..., Any]
) -> None:
    rows = as_json("list", phase / part)
    assert rows[-1]["path"] == str(step(phase, 40))
    assert {row["phase"] for row in rows} == {"target"}
    assert rows[-1]["bytes"] == sum(path.stat().st_size for path in step(phase, 40).iterdir())


def test_checkpoints_that_are_not_whole_are_listed_with_the_reason(phase: Path, command: Command) -> None:
    os.truncate(step(phase, 20) / FILE, 100)
    (step(phase, 30) / COMPLETE).unlink()
    (phase / "checkpoints" / ".step-00000050.01234567.unfinished").mkdir()
    text = command("list", phase)[1]
    states = [line.split("│")[-2].strip() for line in text.splitlines() if line.startswith("│ target")]
    assert states == ["whole", "damaged", "unfinished", "whole", "unfinished"]
    assert f"damaged: {step(phase, 20) / FILE} has 100 bytes" in text
    assert f"unfinished: {step(phase, 30)} is unfinished" in text
    assert "is a save under way, or what an interrupted one has left" in text


def test_a_phase_that_has_saved_nothing_yet_is_no_error(tmp_path: Path, command: Command) -> None:
    (tmp_path / "phases" / "target").mkdir(parents=True)
    (tmp_path / "phases" / "target" / "phase.json").write_text("{}")
    assert command("list", tmp_path) == (0, f"{tmp_path}: no checkpoint yet\n")
    assert command("list", tmp_path, "--json") == (0, "[]\n")


@pytest.mark.parametrize("name", ["list", "show", "verify", "prune"])
@pytest.mark.parametrize("place", ["absent", "empty"])
def test_a_folder_without_checkpoints_is_a_mistake_in_one_line(
    name: str, place: str, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        command(name, tmp_path / place)
    assert str(tmp_path / place) in str(error.value)
    assert "; name a run's folder, a phase's" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mistake_ends_the_program_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["xlt-scale", "checkpoint", "show", str(tmp_path / "absent")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'absent'} is not a folder; name")


def test_show_tells_what_a_checkpoint_holds(phase: Path, command: Command) -> None:
    code, text = command("show", step(phase, 30))
    assert code == 0
    lines = {line[2:].split("  ")[0]: line.split("  ")[-1].strip() for line in text.splitlines() if line[:2] == "  "}
    assert lines["step"] == "30 of 40"
    assert lines["parameters"] == "215 (215 trained)"
    assert lines["saved by"] == "zero3 on 2, bf16"
    assert lines["optimiser"] == "adamw after 30 steps"
    assert lines["position in xnli"] == "steps 30, epoch 0.5"
    assert lines["best score"] == "71.5 at step 20"
    assert lines["versions"] == "torch 2.11.0"
    assert lines["size"].endswith("in 2 files")
    assert cells(text, "no_decay") == ["no_decay", "0.0001", "0", "[0.9, 0.999]", "1e-08"]


def test_show_lists_tensors_when_asked(phase: Path, command: Command, as_json: Callable[..., Any]) -> None:
    assert "exp_avg_sq/encoder.weight" not in command("show", step(phase, 30))[1]
    checksum = read_manifest(step(phase, 30)).tensors["exp_avg_sq/encoder.weight"].crc32
    row = ["exp_avg_sq/encoder.weight", "[30, 7]", "2", f"{checksum:08x}"]
    assert cells(command("show", step(phase, 30), "--tensors")[1], "exp_avg_sq/encoder") == row
    assert len(as_json("show", step(phase, 30), "--tensors")["tensors"]) == 6


def test_of_a_phase_the_newest_whole_checkpoint_is_shown(phase: Path, as_json: Callable[..., Any]) -> None:
    os.truncate(step(phase, 40) / FILE, 100)
    assert as_json("show", phase)["path"] == str(step(phase, 30))


def test_of_a_finished_phase_its_result_is_shown(run: Path, as_json: Callable[..., Any]) -> None:
    shown = as_json("show", run / "phases" / "pretrain")
    assert shown["path"] == str(run / "phases" / "pretrain" / "result")
    assert (shown["holds"], shown["trained_parameters"]) == ("weights", 0)


def test_of_a_run_a_phase_must_be_named(run: Path, command: Command) -> None:
    with pytest.raises(UserError, match=r"is a run's folder; name one of its phases \(pretrain, target\)"):
        command("show", run)


ODD = {"optimizer": {"groups": {"decay": None}}, "position": {"xnli": None}, "progress": {"tokens": "many"}, "best": {}}


@pytest.mark.parametrize("facts", [{}, {"optimizer": None, "position": 3, "best": None, "saved_at": "yesterday"}, ODD])
def test_facts_that_an_older_program_did_not_write_are_left_out(
    facts: dict[str, Any], tmp_path: Path, command: Command
) -> None:
    folder = tmp_path / "target" / "checkpoints" / "step-00000003"
    save_tensors(folder, random_tensors(), facts)
    assert cells(command("list", folder)[1], "target")[:2] == ["target", "3"]
    assert re.search(r"step +3 of \?", command("show", folder)[1])
    assert command("diff", folder, folder)[0] == 0
    assert command("prune", folder.parent)[0] == 0


def test_a_position_may_be_a_number_of_steps(phase: Path, command: Command) -> None:
    change_manifest(step(phase, 30), lambda table: table["facts"].update(position={"xnli": 30}))
    assert "position in xnli  steps 30" in command("show", step(phase, 30))[1]


def test_verify_reads_everything_and_tells_how_fast(run: Path, command: Command) -> None:
    code, text = command("verify", run)
    assert code == 0
    assert text.count("ok: ") == 5
    assert "GB/s" in text.splitlines()[-1]


def test_verify_finds_a_flipped_bit_that_list_does_not(phase: Path, command: Command) -> None:
    flip_bit(step(phase, 20) / FILE, 500)
    assert "damaged" not in command("list", phase)[1]
    code, text = command("verify", phase)
    assert code == 1
    assert f"damaged: {step(phase, 20) / FILE} is not as it was written" in text
    assert text.count("ok: ") == 3


@pytest.mark.parametrize("damage", ["manifest", "marker", "file"])
def test_verify_finds_what_is_not_whole(
    damage: str, phase: Path, as_json: Callable[..., Any], command: Command
) -> None:
    folder = step(phase, 20)
    if damage == "manifest":
        (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace('"step": 20', '"step": 21'))
    else:
        (folder / (COMPLETE if damage == "marker" else FILE)).unlink()
    assert [row["ok"] for row in as_json("verify", step(phase, 10), folder)] == [True, False]
    assert command("verify", folder)[0] == 1


def test_equal_states_are_equal_whatever_saved_them(phase: Path, tmp_path: Path, command: Command) -> None:
    other = facts_of(30, engine="fsdp2", world_size=5, git_revision="def456", precision="fp32")
    save_tensors(tmp_path / "other", random_tensors(30), other, size=5)
    code, text = command("diff", step(phase, 30), tmp_path / "other")
    assert code == 0
    assert text.splitlines()[-2:] == ["tensors: 6 equal, 0 differing", "the states are equal"]
    assert cells(text, "world_size") == ["world_size", "2", "5"]
    assert cells(text, "engine") == ["engine", "zero3", "fsdp2"]


def test_equal_states_are_told_without_reading_their_data(phase: Path, tmp_path: Path, command: Command) -> None:
    shutil.copytree(step(phase, 30), tmp_path / "other")
    for path in tmp_path.glob("other/*.safetensors"):
        path.unlink()
    assert command("diff", step(phase, 30), tmp_path / "other")[0] == 0


def test_differing_tensors_are_told_with_their_largest_difference(
    phase: Path, tmp_path: Path, command: Command, as_json: Callable[..., Any]
) -> None:
    tensors = random_tensors(30)
    tensors["exp_avg/encoder.weight"].view(-1)[[3, 209]] += torch.tensor([0.25, -2.0])
    save_tensors(tmp_path / "other", tensors, facts_of(30), size=3)
    code, text = command("diff", step(phase, 30), tmp_path / "other")
    assert code == 1
    assert cells(text, "exp_avg/encoder.weight") == ["exp_avg/encoder.weight", "2"]
    assert text.splitlines()[-2:] == ["tensors: 5 equal, 1 differing", "the states differ"]
    assert as_json("diff", step(phase, 30), tmp_path / "other")["differing"] == ["exp_avg/encoder.weight"]


def test_a_number_that_is_none_is_no_small_difference(
    phase: Path, tmp_path: Path, command: Command, as_json: Callable[..., Any]
) -> None:
    tensors = random_tensors(30)
    tensors["param/encoder.weight"][3, 3] = float("nan")
    save_tensors(tmp_path / "other", tensors, facts_of(30))
    assert cells(command("diff", step(phase, 30), tmp_path / "other")[1], "param/encoder.weight")[1] == "nan"
    told = as_json("diff", step(phase, 30), tmp_path / "other")
    assert told["largest_differences"] == {"param/encoder.weight": None}


def test_only_so_many_differing_tensors_are_read(phase: Path, command: Command) -> None:
    code, text = command("diff", step(phase, 30), step(phase, 40), "--limit", 2)
    assert code == 1
    assert text.count("│ param/") == 2
    assert "and 4 more (--limit)" in text


def test_differing_settings_and_position_make_other_states(phase: Path, tmp_path: Path, command: Command) -> None:
    facts = facts_of(30)
    facts["optimizer"] = facts["optimizer"] | {"groups": {"decay": GROUP | {"lr": 0.5}, "no_decay": GROUP}}
    save_tensors(tmp_path / "other", random_tensors(30), facts)
    code, text = command("diff", step(phase, 30), tmp_path / "other")
    assert code == 1
    assert cells(text, "optimizer.groups.decay.lr") == ["optimizer.groups.decay.lr", "0.0001", "0.5"]
    assert "tensors: 6 equal" in text


def test_the_weights_of_a_training_state_and_of_a_result_can_be_compared(
    phase: Path, tmp_path: Path, command: Command
) -> None:
    weights = {key: values for key, values in random_tensors(30).items() if key.startswith("param/")}
    save_tensors(tmp_path / "result", weights, {"step": 30})
    code, text = command("diff", step(phase, 30), tmp_path / "result")
    assert code == 1
    assert "4 tensors in the first only: exp_avg/encoder.weight, " in text
    assert command("diff", step(phase, 30), tmp_path / "result", "--weights-only")[0] == 0


def test_tensors_of_another_shape_differ(phase: Path, tmp_path: Path, command: Command) -> None:
    tensors = random_tensors(30) | {"param/encoder.weight": torch.ones(7, 30)}
    save_tensors(tmp_path / "other", tensors, facts_of(30))
    code, text = command("diff", step(phase, 30), tmp_path / "other")
    assert code == 1
    assert "param/encoder.weight has shape [30, 7] in the first, [7, 30] in the second" in text


def prune(command: Command, path: Path, *arguments: object) -> str:
    code, text = command("prune", path, *arguments)
    assert code == 0
    return text


def test_prune_keeps_the_last_and_the_best(phase: Path, command: Command) -> None:
    size = sum(path.stat().st_size for number in (10, 30) for path in step(phase, number).iterdir())
    text = prune(command, phase, "--keep-last", 1)
    assert steps_left(phase) == [20, 40]
    assert [line for line in text.splitlines() if line.startswith("removed")] == [
        line for line in text.splitlines() if "step-00000010" in line or "step-00000030" in line
    ]
    assert text.splitlines()[-1] == f"{size / 1000:.1f} kB freed"


def test_prune_keeps_those_of_every_so_many_steps(phase: Path, command: Command) -> None:
    prune(command, phase, "--keep-last", 1, "--keep-every", 30)
    assert steps_left(phase) == [20, 30, 40]


def test_a_dry_run_removes_nothing(phase: Path, command: Command) -> None:
    text = prune(command, phase, "--keep-last", 1, "--dry-run")
    assert f"would remove {step(phase, 10)}" in text
    assert "would be freed" in text
    assert steps_left(phase) == [10, 20, 30, 40]


def test_nothing_is_removed_when_the_newest_one_is_damaged_inside(phase: Path, command: Command) -> None:
    flip_bit(step(phase, 40) / FILE, 500)
    with pytest.raises(UserError, match=r"nothing is removed: .* is not as it was written .* and remove .*40 by hand"):
        command("prune", phase, "--keep-last", 1)
    assert steps_left(phase) == [10, 20, 30, 40]


def test_of_a_run_nothing_is_removed_when_any_phase_is_damaged(run: Path, phase: Path, command: Command) -> None:
    shutil.copytree(phase, run / "phases" / "a_good_one")
    flip_bit(step(phase, 40) / FILE, 500)
    with pytest.raises(UserError, match="nothing is removed"):
        command("prune", run, "--keep-last", 1)
    assert steps_left(run / "phases" / "a_good_one") == [10, 20, 30, 40]


def test_a_checkpoint_that_is_not_whole_does_not_count_as_a_kept_one(phase: Path, command: Command) -> None:
    os.truncate(step(phase, 40) / FILE, 100)
    text = prune(command, phase, "--keep-last", 1)
    assert steps_left(phase) == [20, 30, 40]
    assert f"left alone, damaged: {step(phase, 40) / FILE}" in text


def test_the_only_good_one_stays(phase: Path, command: Command) -> None:
    for number in (10, 20, 40):
        (step(phase, number) / COMPLETE).unlink()
    assert "nothing to remove" in prune(command, phase, "--keep-last", 1)
    assert steps_left(phase) == [10, 20, 30, 40]


def test_results_stay(run: Path, command: Command) -> None:
    prune(command, run, "--keep-last", 1)
    assert (run / "phases" / "pretrain" / "result" / COMPLETE).is_file()
    assert steps_left(run / "phases" / "target") == [20, 40]


def test_what_was_pruned_can_be_told_to_a_program(phase: Path, as_json: Callable[..., Any]) -> None:
    told = as_json("prune", phase, "--keep-last", 3)
    assert told["removed"] == [str(step(phase, 10))]
    assert told["kept"] == [str(step(phase, number)) for number in (20, 30, 40)]


def test_one_checkpoint_is_not_pruned(phase: Path, command: Command) -> None:
    with pytest.raises(UserError, match="is one checkpoint; name the folder of its phase"):
        command("prune", step(phase, 40))


@pytest.mark.parametrize("name", ["list", "show", "verify", "diff", "prune"])
def test_every_command_has_an_example(name: str, command: Command) -> None:
    assert f"Example: xlt-scale checkpoint {name} " in command(name, "--help")[1].replace("\n", " ")
