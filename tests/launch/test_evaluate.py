"""launch/evaluate.py: any model, any tasks, under any launcher, with the scores that training itself would write."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import MICRO, ROOT, SHORT, Finished, launcher, scores, start
from safetensors.torch import load_file, save_file
from small_data import SMALL_MODEL, write_small_data

from xlt_scale.checkpoint.huggingface_export import ExportOptions, export_checkpoint
from xlt_scale.config import load_run
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.evaluation.folder_scores import score_paths
from xlt_scale.evaluation.outcomes import read_outcomes
from xlt_scale.training.run import run
from xlt_scale.training.standalone import evaluation_run

EVALUATE = str(ROOT / "launch" / "evaluate.py")
IN_PROCESS = ("engine.name=fsdp2", "logging.tensorboard=false", "logging.progress=plain", "data.source=files")

# A phase for each kind of head, trained on hand-written files.
HEADS = (
    SMALL_MODEL
    + """
[[phases]]
name = "pretrain"
task = "mlm"
steps = 4
learning_rate = 1e-2
evaluate = ["tatoeba"]
[[phases]]
name = "pairs"
parent = "pretrain"
task = "snli"
steps = 6
learning_rate = 1e-3
evaluate = ["xnli", "tatoeba"]
[[phases]]
name = "questions"
parent = "pretrain"
task = "squad"
steps = 2
batch_size = 8
evaluate = ["xquad"]
[[phases]]
name = "tags"
parent = "pretrain"
task = "udpos"
steps = 3
evaluate = ["udpos"]
[[phases]]
name = "choices"
parent = "pretrain"
task = "siqa"
train_split = "dev"
steps = 2
evaluate = ["xcopa"]
"""
)
SCORED = {
    "pairs": ("xnli", "dev"),
    "questions": ("xquad", "test"),
    "tags": ("udpos", "test"),
    "choices": ("xcopa", "test"),
}

Evaluate = Callable[..., Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_data(tmp_path_factory.mktemp("small-data"))


@pytest.fixture(scope="module")
def heads(world: World, data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phases of the run `HEADS`."""
    folder = tmp_path_factory.mktemp("heads")
    (folder / "run.toml").write_text(HEADS)
    settings = [f"output={folder / 'run'}", f"data.root={data}", f"data.cache={cache}", *IN_PROCESS]
    settings += ["checkpoints.every=1", "checkpoints.keep_every=1"]
    run(load_run(folder / "run.toml", settings))
    return folder / "run" / "phases"


@pytest.fixture(scope="module")
def micro(world: World, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last phase of the micro run, with few steps."""
    folder = tmp_path_factory.mktemp("micro") / "run"
    run(load_run(MICRO, [*SHORT, f"output={folder}", f"data.cache={cache}", *IN_PROCESS]))
    return folder / "phases" / "target-after-nli"


@pytest.fixture
def evaluate(world: World, data: Path, cache: Path, tmp_path: Path) -> Evaluate:
    """Score a model in this process; the folder of the result."""

    def evaluate(model: Path | str, tasks: Sequence[str], *settings: str, output: Path = tmp_path / "out") -> Path:
        places = [f"data.root={data}", f"data.cache={cache}"]
        run(evaluation_run(str(model), tasks, output, [*places, *IN_PROCESS, *settings]))
        return output

    return evaluate


def exported(phase: Path, folder: Path, head: str = "") -> Path:
    export_checkpoint(phase, folder, ExportOptions(head=head))
    return folder


def files(folder: Path, *tasks: str) -> dict[str, bytes]:
    """Predictions of the tasks, of all without any."""
    places = [folder / "predictions" / task for task in tasks] or [folder / "predictions"]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for place in places
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


WAYS = {
    "torchrun, copies": ("torchrun", []),
    "deepspeed, zero3": ("deepspeed", ["engine.scoring=sharded", "engine.name=zero3"]),
    "accelerate, fsdp2": ("accelerate", ["engine.scoring=sharded", "engine.name=fsdp2"]),
    "python, copy": ("python", []),
}


@pytest.mark.distributed
@pytest.mark.parametrize("way", WAYS)
def test_under_any_launcher_scores_and_predictions_are_those_of_the_training_run(
    way: str, micro: Path, cache: Path, tmp_path: Path
) -> None:
    name, settings = WAYS[way]
    done = command(name, micro, ["micro-valence", "micro-retrieval"], tmp_path, cache, *settings)
    assert done.code == 0, done.output
    assert ("copied to every process" in done.output) == ("cop" in way)
    assert files(tmp_path / "out") == files(micro) and len(files(micro)) == 3
    assert scores(tmp_path / "out") == scores(micro)


def command(name: str, model: Path, tasks: Sequence[str], place: Path, cache: Path, *settings: str) -> Finished:
    """launch/evaluate.py under a launcher, in the languages that `SHORT` scores."""
    arguments = [EVALUATE, str(model), *tasks, "--languages", "qen", "qea", "--output", str(place / "out")]
    for setting in (f"data.cache={cache}", *settings):
        arguments += ["--set", setting]
    return start([*launcher(name), *arguments], HF_HUB_OFFLINE="1")


@pytest.mark.distributed
def test_an_error_ends_all_ranks_with_one_line(micro: Path, cache: Path, tmp_path: Path) -> None:
    model = tmp_path / "damaged"
    shutil.copytree(micro / "result", model)
    shutil.copytree(micro.parents[1] / "tokenizer", model / "tokenizer")
    damage(model)
    done = command("torchrun", model, ["micro-valence"], tmp_path, cache)
    assert done.code != 0 and done.seconds < 60
    assert [line for line in done.output.splitlines() if line.startswith("error: ") and "did not arrive as it" in line]
    assert "rank 0 failed" not in done.output and "rank 1 failed" not in done.output


def damage(checkpoint: Path) -> None:
    path = sorted(checkpoint.glob("rank-*"))[0]
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("phase", SCORED)
def test_every_kind_of_head_is_scored_as_in_training(heads: Path, evaluate: Evaluate, phase: str) -> None:
    task, _ = SCORED[phase]
    found = evaluate(heads / phase, [task])
    assert scores(found)[task] == scores(heads / phase)[task]
    assert files(found) == files(heads / phase, task) != {}


@pytest.mark.parametrize("phase", ["pairs", "questions", "tags"])
def test_an_exported_model_is_scored_as_its_checkpoint(
    heads: Path, evaluate: Evaluate, phase: str, tmp_path: Path
) -> None:
    task, _ = SCORED[phase]
    found = evaluate(exported(heads / phase, tmp_path / "exported"), [task], "model.max_length=96")
    assert files(found) == files(heads / phase, task) != {}


def test_classes_in_another_order_are_found_by_their_names(heads: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    model = exported(heads / "pairs", tmp_path / "exported")
    config = json.loads((model / "config.json").read_text())
    order = [2, 0, 1]
    labels = [config["id2label"][str(number)].upper() for number in order]
    config |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    (model / "config.json").write_text(json.dumps(config))
    weights = load_file(model / "model.safetensors")
    for name in ("classifier.out_proj.weight", "classifier.out_proj.bias"):
        weights[name] = weights[name][torch.tensor(order)].contiguous()
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    found = evaluate(model, ["xnli"], "model.max_length=96")
    assert files(found) == files(heads / "pairs", "xnli")


@pytest.mark.parametrize("head", ["none", "nli"])
def test_retrieval_needs_an_encoder_alone(heads: Path, evaluate: Evaluate, head: str, tmp_path: Path) -> None:
    found = evaluate(exported(heads / "pairs", tmp_path / "exported", head), ["tatoeba"])
    assert files(found) == files(heads / "pairs", "tatoeba") != {}


def test_a_model_that_is_spread_scores_the_same(heads: Path, evaluate: Evaluate) -> None:
    found = evaluate(heads / "pairs", ["xnli", "tatoeba"], "engine.scoring=spread")
    assert files(found) == files(heads / "pairs")


def test_a_phases_folder_means_its_result_and_a_checkpoints_that_one(
    heads: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    phase, found = heads / "pretrain", {}
    state = sorted((phase / "checkpoints").glob("step-*"))[0]
    for name, model in (("phase", phase), ("result", phase / "result"), ("state", state)):
        found[name] = files(evaluate(model, ["tatoeba"], output=tmp_path / name))
    assert found["phase"] == found["result"] == files(phase) != found["state"]


@pytest.mark.parametrize("phase", SCORED)
def test_the_score_command_gives_the_same_numbers(heads: Path, evaluate: Evaluate, phase: str) -> None:
    task, split = SCORED[phase]
    found = evaluate(heads / phase, [task])
    assert_scored_alike(found, task, split)


def test_the_score_command_gives_the_same_numbers_of_retrieval(heads: Path, evaluate: Evaluate) -> None:
    assert_scored_alike(evaluate(heads / "pretrain", ["tatoeba"]), "tatoeba", "test")


def assert_scored_alike(folder: Path, task: str, split: str) -> None:
    again = score_paths(folder / "predictions", folder / "labels", split=split).values[task]
    expected = scores(folder)[task]
    assert again.keys() == expected.keys() and len(again) > 1
    for language, values in again.items():
        assert {name: expected[language].get(name) for name in values if name in expected[language]} == {
            name: value for name, value in values.items() if name in expected[language]
        }
        assert values.keys() & expected[language].keys()


def test_outcomes_are_kept_item_by_item(heads: Path, evaluate: Evaluate) -> None:
    folder = evaluate(heads / "pairs", ["xnli"])
    right = read_outcomes(folder / "phases" / "evaluate" / "outcomes" / "xnli" / "dev-de.safetensors")
    accuracy = scores(folder)["xnli"]["de"]["accuracy"]
    assert 100 * float(next(iter(right.values())).mean()) == pytest.approx(accuracy)


class Counting:
    """What evaluation announces."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def scored(self) -> list[str]:
        lines = "".join(self._capture.readouterr()).splitlines()
        return [line.split(": scoring ")[1] for line in lines if ": scoring " in line]


def test_started_again_it_scores_what_is_new_and_keeps_the_rest(
    heads: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    said = Counting(capsys)
    folder = evaluate(heads / "pairs", ["xnli"], "phases.evaluate.evaluate_languages=['de']")
    first = files(folder)
    evaluate(heads / "pairs", ["xnli", "tatoeba"], "phases.evaluate.evaluate_languages=['de', 'zh']")
    assert said.scored() == ["xnli (dev) in de", "xnli (dev) in zh", "tatoeba (test) in de, zh"]
    evaluate(heads / "pairs", ["tatoeba"])
    assert said.scored() == ["tatoeba (test) in ar"]
    evaluate(heads / "pairs", ["tatoeba", "xnli"], "phases.evaluate.evaluate_languages=['zh']")
    assert said.scored() == []
    assert {task: sorted(found) for task, found in scores(folder).items()} == {
        "xnli": ["de", "zh"],
        "tatoeba": ["ar", "de", "zh"],
    }
    assert first.items() <= files(folder).items()


def test_a_task_that_is_scored_in_another_way_loses_its_old_scores_and_no_other_does(
    heads: Path, evaluate: Evaluate
) -> None:
    folder = evaluate(heads / "pairs", ["xnli", "tatoeba"])
    evaluate(
        heads / "pairs", ["tatoeba"], "phases.evaluate.evaluate_languages=['de']", "phases.evaluate.retrieval_depth=1.0"
    )
    assert sorted(scores(folder)["tatoeba"]) == ["de"]
    assert list(files(folder, "tatoeba")) == ["predictions/tatoeba/test-de.tsv"]
    assert scores(folder)["xnli"] == scores(heads / "pairs")["xnli"]


def test_another_model_in_the_same_output_takes_nothing_over(heads: Path, evaluate: Evaluate) -> None:
    evaluate(heads / "pretrain", ["tatoeba"])
    folder = evaluate(heads / "pairs", ["tatoeba"])
    assert files(folder) == files(heads / "pairs", "tatoeba")
    assert files(folder / "phases" / "evaluate.before-1") == files(heads / "pretrain", "tatoeba")


def refusal(evaluate: Evaluate, *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        evaluate(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_unknown_task_is_answered_with_the_nearest_name(heads: Path, evaluate: Evaluate) -> None:
    assert "task 'xnlx' is unknown; did you mean 'xnli'?" in refusal(evaluate, heads / "pairs", ["xnlx"])


def test_a_task_that_needs_a_head_is_refused_by_an_encoder(heads: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    model = exported(heads / "pairs", tmp_path / "encoder", "none")
    message = refusal(evaluate, model, ["xnli"])
    assert "has no head 'nli' (classification) to score task 'xnli' with, its heads: none" in message


def test_a_task_of_another_head_is_told_which_there_are(heads: Path, evaluate: Evaluate) -> None:
    message = refusal(evaluate, heads / "pairs", ["udpos"])
    assert "has no head 'udpos' (tagging)" in message and "its heads: nli (classification)" in message


def test_labels_that_do_not_fit_are_told(heads: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    model = exported(heads / "pairs", tmp_path / "exported")
    message = refusal(evaluate, model, ["pawsx"])
    assert "knows the labels entailment, neutral, contradiction, task 'pawsx' has" in message


def test_a_checkpoint_without_a_tokenizer_is_told_where_to_put_it(
    heads: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    alone = tmp_path / "a" / "b" / "c" / "d" / "alone"
    shutil.copytree(heads / "pairs" / "result", alone)
    assert "has no tokenizer beside it; put the run's tokenizer/ into" in refusal(evaluate, alone, ["xnli"])
    named = evaluate(alone, ["xnli"], f"model.tokenizer={heads.parent / 'tokenizer'}")
    assert files(named) == files(heads / "pairs", "xnli")


def test_a_model_without_a_tokenizer_is_refused(heads: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    model = exported(heads / "pairs", tmp_path / "exported", "none")
    for path in model.glob("tokenizer*"):
        path.unlink()
    assert "has special tokens alone: its files are missing" in refusal(evaluate, model, ["tatoeba"])


def test_a_damaged_checkpoint_is_refused(heads: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    model = tmp_path / "damaged"
    shutil.copytree(heads / "pairs" / "result", model)
    shutil.copytree(heads.parent / "tokenizer", model / "tokenizer")
    damage(model)
    assert "did not arrive as it was saved; its file is damaged" in refusal(evaluate, model, ["xnli"])
    sorted(model.glob("rank-*"))[0].write_bytes(b"")
    assert "\n" not in refusal(evaluate, model, ["xnli"])
    (model / "manifest.json").write_text("{")
    assert "manifest.json" in refusal(evaluate, model, ["xnli"])


def test_a_task_without_data_is_refused(heads: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    message = refusal(evaluate, heads / "pairs", ["tatoeba"], f"data.root={tmp_path / 'empty'}", "data.source=files")
    assert "files of task 'tatoeba' found below" in message


def test_a_language_without_data_is_told(heads: Path, evaluate: Evaluate) -> None:
    message = refusal(evaluate, heads / "pairs", ["tatoeba"], "phases.evaluate.evaluate_languages=['fr']")
    assert "evaluate_languages has 'fr', but no evaluated task has data in it" in message


def test_a_hub_name_without_a_network_is_refused(heads: Path, evaluate: Evaluate) -> None:
    message = refusal(evaluate, "no-such-owner/no-such-model", ["tatoeba"])
    assert "cannot be loaded" in message and "prefetch RUN.toml on a node with a network, or give a folder" in message


def test_a_folder_that_is_no_model_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    assert "holds no checkpoints" in refusal(evaluate, tmp_path / "nothing", ["tatoeba"])
