"""`engine.auto = true`: what the planner fills in when a run starts, and what it leaves alone."""

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_study import flat_estimate, tiny_study

from xlt_scale.config import RunOptions, make_run
from xlt_scale.errors import UserError
from xlt_scale.planning import auto, this_machine
from xlt_scale.planning.auto import processes_per_node, resolve_auto, resolve_for_this_rank
from xlt_scale.planning.gpus import Gpu
from xlt_scale.planning.hardware import GIB
from xlt_scale.planning.memory import predict_memory
from xlt_scale.scaling.grid.design import design
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import pack
from xlt_scale.scaling.running.run_files import RUN_FILE, write_job

NLI = {"name": "nli", "task": "mnli", "epochs": 1, "batch_size": 128}


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's driver lists H200s; nothing is computed on them."""
    cards = [Gpu(str(number), f"GPU-{number}", "NVIDIA H200", 143_771) for number in range(8)]
    monkeypatch.setattr(this_machine, "gpus", lambda: cards)
    monkeypatch.setattr(this_machine, "num_nvlinks", lambda: 18)
    monkeypatch.setattr(this_machine.psutil, "virtual_memory", lambda: SimpleNamespace(total=2 << 40))


def run_of(size: str = "facebook/xlm-roberta-xl", engine: dict[str, Any] | None = None, *phases: Any) -> RunOptions:
    table = {
        "output": "somewhere",
        "model": {"name": size, "max_length": 128},
        "engine": {"auto": True} | (engine or {}),
        "phases": list(phases) or [NLI],
    }
    options: RunOptions = make_run(table, [], "test")
    return options


def test_without_auto_nothing_is_touched() -> None:
    options = run_of(engine={"auto": False})
    assert resolve_auto(options, 8) is options


@pytest.mark.usefixtures("h200")
def test_the_table_is_filled_in_and_told_in_one_line() -> None:
    lines: list[str] = []
    engine = resolve_auto(run_of(), 8, 8, lines.append).engine
    assert not engine.auto  # resolved: what run.toml holds can be run again as it is
    assert engine.float8 is False
    (line,) = lines
    assert line.startswith(f"engine.auto: {engine.name}, {engine.max_tokens_per_micro_batch:,} tokens")
    assert "predicted" in line and "of 139.8 GiB" in line


@pytest.mark.usefixtures("h200")
def test_what_the_run_file_sets_stays() -> None:
    fixed = {"name": "zero3", "max_tokens_per_micro_batch": 2048, "compile": False}
    lines: list[str] = []
    engine = resolve_auto(run_of("facebook/xlm-roberta-xxl", fixed), 4, say=lines.append).engine
    assert {name: getattr(engine, name) for name in fixed} == fixed
    assert "as the run file says: name, max_tokens_per_micro_batch, compile" in lines[0]


@pytest.mark.usefixtures("h200")
def test_the_same_run_plans_the_same_and_another_world_size_anew() -> None:
    options = run_of("facebook/xlm-roberta-xxl")
    assert resolve_auto(options, 8, 8) == resolve_auto(options, 8, 8)
    engines = [resolve_auto(options, count, count).engine for count in (1, 8)]
    assert engines[0] != engines[1]


@pytest.mark.usefixtures("h200")
def test_one_layout_fits_the_tightest_phase() -> None:
    long = {"name": "long", "task": "squad", "epochs": 1, "batch_size": 64, "max_length": 384}
    options = run_of("facebook/xlm-roberta-xl", {}, NLI, long)
    found = resolve_auto(options, 1)
    plan = _plan(found)
    for phase in plan.phases:
        assert phase.memory is not None and phase.work.workload is not None
        again = predict_memory(phase.work.workload, plan.layout, this_machine.this_machine(num_devices=1)[0])
        assert again.total <= 139.8 * GIB


@pytest.mark.usefixtures("h200")
def test_runs_that_must_repeat_are_not_compiled() -> None:
    assert resolve_auto(run_of(engine={"repeatable": True}), 1).engine.compile is False


@pytest.mark.usefixtures("h200")
def test_neither_float8_nor_the_optimizer_is_changed_to_make_a_run_fit() -> None:
    found = resolve_auto(run_of("facebook/xlm-roberta-xxl"), 1)
    assert found.engine.float8 is False
    assert found.phases == run_of("facebook/xlm-roberta-xxl").phases


@pytest.mark.usefixtures("h200")
def test_where_nothing_fits_the_line_says_so_and_the_mend() -> None:
    with pytest.raises(UserError, match=r"^engine.auto = true: .* needs .* GiB .*; .*fits") as raised:
        resolve_auto(run_of("facebook/xlm-roberta-xxl", {"offload": "none"}), 1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        ({"deepspeed_config": "own.json"}, "engine.deepspeed_config is set, which the planner does not read"),
        ({"name": "zero3", "replicas": 2}, "engine.name = 'zero3' has no hybrid sharding"),
    ],
)
def test_what_cannot_be_planned_around_is_refused(engine: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        resolve_auto(run_of(engine=engine), 2)


def test_on_processors_nothing_is_compiled_or_offloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    table = {
        "output": "somewhere",
        "model": {"size": "micro-small", "tokenizer": "micro"},
        "engine": {"auto": True},
        "phases": [{"name": "a", "task": "micro-nli", "steps": 3}],
    }
    engine = resolve_auto(make_run(table, [], "test"), 2, 2).engine
    assert (engine.compile, engine.offload) == (False, "none")


def test_a_run_that_only_scores_has_nothing_to_choose() -> None:
    lines: list[str] = []
    options = run_of("FacebookAI/xlm-roberta-large", {}, {"name": "scores", "evaluate": ["tatoeba"]})
    engine = resolve_auto(options, 1, say=lines.append).engine
    assert engine.model_dump(exclude={"auto"}) == options.engine.model_dump(exclude={"auto"})
    assert lines == ["engine.auto: nothing is trained, so there is nothing to choose"]


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}, 4),
        ({"LOCAL_SIZE": "8", "WORLD_SIZE": "16"}, 8),
        ({"SLURM_NTASKS_PER_NODE": "2", "WORLD_SIZE": "4"}, 2),
        ({"SLURM_NNODES": "2", "WORLD_SIZE": "8"}, 4),
        ({"WORLD_SIZE": "8"}, 0),
    ],
)
def test_the_processes_of_a_node_are_what_the_launcher_says(environment: dict[str, str], count: int) -> None:
    assert processes_per_node(environment) == count


@pytest.mark.usefixtures("h200")
def test_only_rank_0_speaks_and_all_ranks_choose_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    found = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        found.append(resolve_for_this_rank(run_of()))
    assert found[0] == found[1]
    assert capsys.readouterr().out.count("engine.auto:") == 1


@pytest.mark.usefixtures("h200")
def test_nodes_are_counted_from_the_processes() -> None:
    cluster, notes = auto.cluster_of_processes(run_of().engine, 16, 8)
    assert (cluster.num_nodes, cluster.devices_per_node) == (2, 8)
    assert any(note.startswith("between nodes: ") for note in notes)


def test_a_study_hands_a_planned_engine_to_its_runs_as_it_is_written(tmp_path: Path) -> None:
    run = {"model": {"tokenizer": "micro"}, "engine": {"auto": True, "name": "fsdp2"}}
    study = tiny_study(tmp_path, run=run)
    grid = design(study)
    job = pack(grid, list(grid.phases), *flat_estimate(grid), 1.0)[0]
    written = tomllib.loads((write_job(StudyFolder.of(study), grid, job) / RUN_FILE).read_text())
    assert written["engine"] == {"auto": True, "name": "fsdp2"}


def _plan(options: RunOptions) -> Any:
    from xlt_scale.planning.describe import RunDescription
    from xlt_scale.planning.layouts import layout_of
    from xlt_scale.planning.run_plan import plan_layout
    from xlt_scale.planning.task_data import DataFacts

    cluster, _ = this_machine.this_machine(num_devices=1)
    description = RunDescription(options, DataFacts(options, reads="nothing"), on_processors=False)
    works = [description.work(phase) for phase in options.phases]
    return plan_layout(layout_of(options.engine, cluster), works, description, cluster)
