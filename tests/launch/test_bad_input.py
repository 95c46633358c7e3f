"""What a user gets for bad input: one line that names the place and the mend, exit code 2, nobody left hanging."""

import json
import shutil
from pathlib import Path

import pytest
from runs import MICRO, SHORT, TRAIN, launcher, start, train

from xlt_scale.config import load_run
from xlt_scale.engines.world import World, join_world
from xlt_scale.errors import UserError
from xlt_scale.training.run import run
from xlt_scale.training.setup import check_before_launch, set_up

NLI_RUN = """
[model]
tokenizer = "micro"
max_length = 64
[model.architecture]
model_type = "xlm-roberta"
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
intermediate_size = 64
vocab_size = 1024
max_position_embeddings = 130
[engine]
name = "fsdp2"
[logging]
progress = "none"
tensorboard = false
[[phases]]
name = "snli"
task = "snli"
steps = 2
batch_size = 4
evaluate = ["xnli"]
"""


@pytest.fixture(scope="module")
def world() -> World:
    return join_world("cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Small files in the published layouts."""
    root = tmp_path / "data"
    (root / "snli").mkdir(parents=True)
    (root / "xnli").mkdir()
    header = "sentence1\tsentence2\tgold_label\n"
    rows = "A man runs.\tHe moves.\tentailment\nA man runs.\tHe sleeps.\tcontradiction\n" * 4
    (root / "snli" / "train.tsv").write_text(header + rows)
    (root / "snli" / "dev.tsv").write_text(header + rows)
    (root / "xnli" / "dev-en.tsv").write_text(rows)
    return root


def complaint(world: World, tmp_path: Path, cache: Path, *settings: str, text: str = NLI_RUN) -> str:
    """The message that a run file with these settings ends on."""
    run_file = tmp_path / "run.toml"
    run_file.write_text(text)
    with pytest.raises(UserError) as caught:
        run(load_run(run_file, [f"output={tmp_path / 'out'}", f"data.cache={cache}", *settings]))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_good_run_passes(world: World, tmp_path: Path, cache: Path, data: Path) -> None:
    run_file = tmp_path / "run.toml"
    run_file.write_text(NLI_RUN)
    options = load_run(run_file, [f"output={tmp_path / 'out'}", f"data.cache={cache}", f"data.root={data}"])
    run(options)
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["scores"]["xnli"]["en"]["num_items"] == 8


def test_a_missing_data_folder(world: World, tmp_path: Path, cache: Path) -> None:
    message = complaint(world, tmp_path, cache, "data.root=/no/such/folder")
    assert message == "data.root = '/no/such/folder' is not a folder; give the folder that holds the task files"


def test_an_empty_data_file(world: World, tmp_path: Path, cache: Path, data: Path) -> None:
    (data / "snli" / "train.tsv").write_text("")
    assert complaint(world, tmp_path, cache, f"data.root={data}").startswith(
        f"{data}/snli/train.tsv: the file is empty"
    )


def test_a_label_outside_the_declared_set(world: World, tmp_path: Path, cache: Path, data: Path) -> None:
    with open(data / "snli" / "train.tsv", "a") as file:
        file.write("A man runs.\tHe moves.\tmaybe\n")
    message = complaint(world, tmp_path, cache, f"data.root={data}")
    assert message.startswith(f"{data}/snli/train.tsv, line 10: label 'maybe' is not one of entailment, neutral")


def test_a_broken_row_of_what_is_scored_at_the_end_is_found_before_training(
    world: World, tmp_path: Path, cache: Path, data: Path
) -> None:
    with open(data / "xnli" / "dev-en.tsv", "a") as file:
        file.write("A man runs.\tHe moves.\tmaybe\n")
    message = complaint(world, tmp_path, cache, f"data.root={data}")
    assert message.startswith(f"{data}/xnli/dev-en.tsv, line 9: label 'maybe' is not one of")
    assert not (tmp_path / "out" / "phases").exists()


def test_no_files_and_no_hub(world: World, tmp_path: Path, cache: Path, data: Path) -> None:
    shutil.rmtree(data / "xnli")
    message = complaint(world, tmp_path, cache, f"data.root={data}", "data.source=files")
    assert "no dev files of task 'xnli' found below" in message


def test_sequences_longer_than_the_models_positions(world: World, tmp_path: Path, cache: Path, data: Path) -> None:
    message = complaint(world, tmp_path, cache, f"data.root={data}", "model.max_length=129")
    assert message.startswith("model.max_length = 129, but xlm-roberta has 128 positions; set model.max_length to 128")


def test_a_task_that_the_phase_has_no_head_for(world: World, tmp_path: Path, cache: Path, data: Path) -> None:
    message = complaint(world, tmp_path, cache, f"data.root={data}", "phases.snli.evaluate=['micro-topic']")
    assert "cannot be scored on 'micro-topic': it needs a head 'micro-topic', the phase trains: nli" in message


def test_a_task_that_is_scored_only_cannot_be_trained(world: World, tmp_path: Path, cache: Path, data: Path) -> None:
    message = complaint(world, tmp_path, cache, f"data.root={data}", "phases.snli.task=tatoeba")
    assert "task 'tatoeba' is scored, not trained; move it to evaluate" in message


def test_a_language_that_no_task_has(world: World, tmp_path: Path, cache: Path, data: Path) -> None:
    message = complaint(world, tmp_path, cache, f"data.root={data}", "phases.snli.evaluate_languages=['xx']")
    assert "evaluate_languages has 'xx'" in message and "valid: en" in message


def test_a_checkpoint_of_another_architecture(world: World, tmp_path: Path, cache: Path, data: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    run_file = first / "run.toml"
    run_file.write_text(NLI_RUN)
    run(load_run(run_file, [f"output={first / 'out'}", f"data.cache={cache}", f"data.root={data}"]))
    parent = first / "out" / "phases" / "snli"
    message = complaint(
        world,
        second,
        cache,
        f"data.root={data}",
        f"phases.snli.parent={parent}",
        "model.architecture.hidden_size=64",
    )
    assert "has shape [1024, 32], the model wants [1024, 64]; the checkpoint is of another architecture" in message


def test_a_parent_that_is_no_phase(world: World, tmp_path: Path, cache: Path, data: Path) -> None:
    message = complaint(world, tmp_path, cache, f"data.root={data}", f"phases.snli.parent={tmp_path}")
    assert message.startswith("phase 'snli': parent") and "is no finished phase" in message


def test_fewer_examples_in_a_batch_than_processes_says_how_many_to_start(
    tmp_path: Path, cache: Path, data: Path, world: World
) -> None:
    from dataclasses import replace

    from xlt_scale.training.job import plan_streams

    run_file = tmp_path / "run.toml"
    run_file.write_text(NLI_RUN)
    options = load_run(run_file, [f"output={tmp_path / 'out'}", f"data.cache={cache}", f"data.root={data}"])
    setup = replace(set_up(options, check_before_launch(options), world), world=replace(world, size=8))
    with pytest.raises(
        UserError, match="batch_size = 4 leaves some of 8 processes without an example; start at most 4"
    ):
        plan_streams(setup, options.phases[0], seed=1)


def test_an_output_folder_that_cannot_be_made(world: World, tmp_path: Path, cache: Path, data: Path) -> None:
    (tmp_path / "file").write_text("")
    message = complaint(world, tmp_path, cache, f"data.root={data}", f"output={tmp_path / 'file' / 'out'}")
    assert message.endswith("choose another folder")


@pytest.mark.distributed
def test_two_ranks_print_one_line_and_end(tmp_path: Path, cache: Path) -> None:
    ended = train("deepspeed", tmp_path, cache, "engine.name=fsdp2", "model.max_length=600", *SHORT)
    assert ended.output.count("error: model.max_length = 600") == 1
    assert ended.code != 0
    assert ended.seconds < 60


def test_a_typing_mistake_is_found_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    ended = start([*launcher("python"), TRAIN, "--run", MICRO, "--set", "phases.target.learning_rat=1"])
    assert ended.code == 2
    assert ended.output.strip().endswith("did you mean 'learning_rate'?")
    assert len(ended.output.strip().splitlines()) == 1
    assert ended.seconds < 2.5


UNEQUAL = """
import os, sys
from xlt_scale.cluster.ending import run_as_program
from xlt_scale.config import load_run
from xlt_scale.training.run import run

def main():
    budget = 100 + int(os.environ["RANK"])
    run(load_run(sys.argv[1], [f"output={sys.argv[2]}", f"engine.max_tokens_per_micro_batch={budget}"]))

run_as_program(main)
"""


def test_ranks_that_would_lay_the_model_out_in_different_ways_end_at_once(tmp_path: Path) -> None:
    program = tmp_path / "unequal.py"
    program.write_text(UNEQUAL)
    ended = start([*launcher("torchrun"), str(program), MICRO, str(tmp_path / "run")])
    assert ended.code != 0
    assert ended.output.count("error: ranks 0 and 1 have different engine options") == 1
    assert "max_tokens_per_micro_batch = 100 and 101" in ended.output
    assert ended.seconds < 60


CRASH = """
import sys, time
from xlt_scale.engines.world import join_world
from xlt_scale.cluster.ending import run_as_program

def main():
    world = join_world("cpu")
    world.barrier()
    if world.rank == 1:
        raise RuntimeError("a fault on one rank")
    world.barrier()
    time.sleep(600)

run_as_program(main)
"""


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["deepspeed", "torchrun"])
def test_a_crash_on_one_rank_ends_the_others_within_seconds(name: str, tmp_path: Path) -> None:
    script = tmp_path / "crash.py"
    script.write_text(CRASH)
    ended = start([*launcher(name), str(script)], limit=120)
    assert ended.code != 0
    assert "rank 1 failed:" in ended.output and "a fault on one rank" in ended.output
    assert ended.seconds < 60
