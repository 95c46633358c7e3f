"""What the loop does beside learning: stops on numbers that are not finite, keeps the best weights, shows progress."""

import json
import re
from pathlib import Path

import pytest
from runs import BIN, MICRO, TRAIN, start

from xlt_scale.config import load_run
from xlt_scale.engines.world import World, join_world
from xlt_scale.errors import TrainingError
from xlt_scale.training.run import run
from xlt_scale.training.setup import read_json

BASE = [
    "engine.name=fsdp2",
    "logging.tensorboard=false",
    "logging.progress=none",
    "logging.every=1",
    "phases.pretrain.steps=2",
    "phases.target.steps=2",
    "phases.target-after-nli.steps=2",
    "phases.target.evaluate_languages=['qen']",
    "phases.target-after-nli.evaluate_languages=['qen', 'qea']",
]


@pytest.fixture(scope="module")
def world() -> World:
    return join_world("cpu")


def micro(folder: Path, cache: Path, *settings: str) -> None:
    run(load_run(MICRO, [f"output={folder}", f"data.cache={cache}", *BASE, *settings]))


def dev_rows(folder: Path, phase: str) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["dev_accuracy"] for row in rows if row["phase"] == phase and "dev_accuracy" in row}


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(world: World, tmp_path: Path, cache: Path) -> None:
    settings = ("phases.intermediate.steps=20", "phases.intermediate.learning_rate=1e30", "logging.every=5")
    with pytest.raises(TrainingError, match=r"phase 'intermediate': the (loss|gradient norm) of step \d+ is (nan|inf)"):
        micro(tmp_path, cache, *settings)
    assert not (tmp_path / "phases" / "intermediate" / "phase.json").exists(), "nothing unusable is taken for a result"


def test_the_best_weights_on_the_dev_set_are_kept(world: World, tmp_path: Path, cache: Path) -> None:
    # At this rate training is unstable, so that the last score is not the best one.
    settings = (
        "phases.intermediate.steps=24",
        "phases.intermediate.evaluate_every=4",
        "phases.intermediate.keep=best",
        "phases.intermediate.learning_rate=0.02",
    )
    micro(tmp_path, cache, *settings)
    found = dev_rows(tmp_path, "intermediate")
    assert list(found) == [4, 8, 12, 16, 20, 24]
    first_best = max(found, key=lambda step: (found[step], -step))
    manifest = read_json(tmp_path / "phases" / "intermediate" / "result" / "manifest.json")
    assert manifest["facts"]["step"] == first_best
    assert not list((tmp_path / "phases" / "intermediate" / "checkpoints").iterdir())


def test_without_asking_for_the_best_the_last_weights_are_kept(world: World, tmp_path: Path, cache: Path) -> None:
    micro(tmp_path, cache, "phases.intermediate.steps=3")
    facts = read_json(tmp_path / "phases" / "intermediate" / "phase.json")
    assert facts["checkpoint"] == "result"
    assert read_json(tmp_path / "phases" / "intermediate" / "result" / "manifest.json")["facts"]["step"] == 3
    assert list(dev_rows(tmp_path, "intermediate")) == [3]


def test_a_phase_without_a_task_only_scores_its_parent(world: World, tmp_path: Path, cache: Path) -> None:
    run_file = tmp_path / "run.toml"
    text = Path(MICRO).read_text()
    run_file.write_text(text + '\n[[phases]]\nname = "look"\nparent = "pretrain"\nevaluate = ["micro-retrieval"]\n')
    settings = [f"output={tmp_path / 'out'}", f"data.cache={cache}", *BASE, "phases.intermediate.steps=2"]
    run(load_run(run_file, settings))
    facts = read_json(tmp_path / "out" / "phases" / "look" / "phase.json")
    assert facts["checkpoint"] == "../pretrain/result"
    scores = read_json(tmp_path / "out" / "phases" / "look" / "scores.json")["scores"]
    assert set(scores["micro-retrieval"]) == {"qea", "qeb", "qfa", "qfb", "qga", "qgb", "qha"}


def test_scores_of_other_data_are_not_taken_over(world: World, tmp_path: Path, cache: Path) -> None:
    """Without training nothing else in the phase's name knows of the data."""
    head, _ = Path(MICRO).read_text().split("[[phases]]", 1)
    run_file = tmp_path / "run.toml"
    run_file.write_text(head + '[[phases]]\nname = "untrained"\nevaluate = ["micro-retrieval"]\n')
    found = []
    for world_seed in (1, 2):
        settings = [f"output={tmp_path / 'out'}", f"data.cache={cache}", f"data.micro_world={world_seed}"]
        run(load_run(run_file, [*settings, "engine.name=fsdp2", "logging.progress=none"]))
        found.append(read_json(tmp_path / "out" / "phases" / "untrained" / "scores.json")["scores"])
    assert found[0] != found[1]


def test_new_heads_are_said_and_encoders_named(
    world: World, tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    micro(tmp_path, cache, "phases.intermediate.steps=2", "logging.progress=plain")
    said = capfd.readouterr().err
    assert "phase pretrain: fresh weights of seed 1" in said
    assert "phase intermediate: encoder of pretrain, new head: micro-nli" in said


def test_a_terminal_gets_a_live_bar(tmp_path: Path, cache: Path) -> None:
    """On a pseudo-terminal, one process."""
    settings = [
        f"output={tmp_path}",
        f"data.cache={cache}",
        *BASE,
        "logging.progress=auto",
        "phases.intermediate.steps=2",
    ]
    command = " ".join([str(BIN / "python"), TRAIN, "--run", MICRO, *(f'--set "{setting}"' for setting in settings)])
    ended = start(["script", "-qec", command, "/dev/null"], TERM="xterm", COLUMNS="120")
    assert ended.code == 0, ended.output
    assert re.search(r"intermediate .*2/2 .*loss \d", ended.output)
    assert "tokens/s" in ended.output and "GiB" in ended.output


def test_losses_do_not_depend_on_whether_progress_is_shown(world: World, tmp_path: Path, cache: Path) -> None:
    losses = []
    for style in ("none", "plain"):
        micro(tmp_path / style, cache, "phases.intermediate.steps=2", f"logging.progress={style}")
        rows = [json.loads(line) for line in (tmp_path / style / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert losses[0] == losses[1]


FAMILIES = {
    "modernbert": "hidden_size=32 num_hidden_layers=4 num_attention_heads=2 intermediate_size=48",
    "bert": "hidden_size=32 num_hidden_layers=2 num_attention_heads=2 intermediate_size=48",
    "xlnet": "d_model=32 n_layer=2 n_head=2 d_inner=48",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_train_too(
    family: str, world: World, tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sizes = dict(pair.split("=") for pair in FAMILIES[family].split())
    fields = {key: int(value) for key, value in sizes.items()} | {"model_type": family, "vocab_size": 640}
    fields |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    run_file = tmp_path / "run.toml"
    run_file.write_text(Path(MICRO).read_text().replace('size = "micro-small"', ""))
    architecture = [f"model.architecture.{key}={json.dumps(value)}" for key, value in fields.items()]
    settings = [f"output={tmp_path / 'out'}", f"data.cache={cache}", *BASE, *architecture]
    run(load_run(run_file, [*settings, "phases.intermediate.steps=2", "logging.progress=plain"]))
    said = capfd.readouterr().err
    assert ("padded attention" in said) and ("unpadded attention" in said) == (family != "xlnet")


def test_a_pre_trained_folder_is_continued(
    world: World, tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With its tokenizer and its language-modelling head: the first loss is that of the folder's own model."""
    import torch
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaForMaskedLM

    from xlt_scale.config import DataOptions
    from xlt_scale.data.prepare import micro_world_folder

    tokenizer = AutoTokenizer.from_pretrained(micro_world_folder(DataOptions(cache=str(cache))) / "tokenizer")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=130, type_vocab_size=1, **sizes)
    torch.manual_seed(7)
    model = XLMRobertaForMaskedLM(config)
    with torch.no_grad():
        # A head that can only say one word: its loss is far from that of fresh weights.
        model.lm_head.bias[5] = 40.0
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    run_file = tmp_path / "run.toml"
    text = Path(MICRO).read_text().replace('size = "micro-small"', f'name = "{tmp_path / "model"}"')
    run_file.write_text(text.replace('tokenizer = "micro"', ""))
    settings = [f"output={tmp_path / 'out'}", f"data.cache={cache}", *BASE, "phases.intermediate.steps=2"]
    run(load_run(run_file, [*settings, "logging.progress=plain"]))
    said = capfd.readouterr().err
    assert f"phase pretrain: encoder of {tmp_path / 'model'}\n" in said, "no new head: the folder's own is used"
    first = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] > 30
