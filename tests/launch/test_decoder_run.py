"""A published decoder from its files to a table of gains: adapted to both directions, trained, scored, exported."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import BIN, ROOT, Finished, start, train_forked
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from xlt_scale.checkpoint.manifest import read_manifest
from xlt_scale.config import DataOptions
from xlt_scale.data.prepare import micro_world_folder

RUN = """
[model]
max_length = 64
dropout = 0.0

[engine]
max_tokens_per_micro_batch = 512

[logging]
every = 1
tensorboard = false
progress = "plain"

[[phases]]
name = "adaptation"
task = "micro-mlm"
objective = "masked_next_token"
steps = 6
learning_rate = 1e-3

[[phases]]
name = "nli"
parent = "adaptation"
task = "micro-nli"
steps = 5
learning_rate = 1e-3

[[phases]]
name = "target"
parent = "adaptation"
task = "micro-valence"
steps = 5
learning_rate = 1e-3
evaluate = ["micro-valence"]
evaluate_languages = ["qen", "qea"]

[[phases]]
name = "target-after-nli"
parent = "nli"
baseline = "target"
task = "micro-valence"
steps = 5
learning_rate = 1e-3
evaluate = ["micro-valence"]
evaluate_languages = ["qen", "qea"]
"""


@pytest.fixture(scope="module")
def published(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 as its folder on the hub looks: no mask token, no class token, nothing put around texts."""
    folder = tmp_path_factory.mktemp("published")
    world = micro_world_folder(DataOptions(cache=str(cache)))
    texts = [line for path in sorted(world.rglob("*.tsv"))[:6] for line in path.read_text().splitlines()[:400]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    options: dict[str, Any] = {"vocab_size": 500, "special_tokens": ["<|endoftext|>"], "show_progress": False}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(initial_alphabet=alphabet, **options))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    ends = dict.fromkeys(("eos_token", "pad_token"), "<|endoftext|>")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"head_dim": 16, "intermediate_size": 48, "vocab_size": 512, "max_position_embeddings": 128}
    sizes |= {"bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["zero3", "fsdp2"])
def ended(
    request: pytest.FixtureRequest, published: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Finished]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "run.toml").write_text(RUN)
    settings = (f"model.name={published}", f"engine.name={request.param}")
    return folder / "run", train_forked(folder / "run", cache, *settings, run=str(folder / "run.toml"))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.distributed
def test_it_is_trained_and_scored_like_an_encoder(ended: tuple[Path, Finished]) -> None:
    folder, run = ended
    assert run.code == 0, run.output
    assert "qwen3 is a decoder, read in both directions here (model.bidirectional)" in run.output
    assert "the tokenizer ends no text by itself: <|endoftext|> is put behind each" in run.output
    assert "fp32, unpadded attention ->" in run.output
    assert run.output.count("gain of") == 1
    facts = read_manifest(folder / "phases" / "target" / "result").facts
    assert [head["pooling"] for head in facts["heads"]] == ["mean"]
    assert facts["model"]["is_causal"] is False


@pytest.mark.distributed
def test_its_own_output_matrix_is_adapted(ended: tuple[Path, Finished]) -> None:
    folder, _ = ended
    losses = [row["loss"] for row in rows(folder) if row.get("phase") == "adaptation" and "loss" in row]
    assert len(losses) == 6 and losses[-1] < losses[0]
    identity = read_manifest(folder / "phases" / "adaptation" / "result").facts["identity"]
    assert identity["mask_token"] == "_" and identity["phase"]["objective"] == "masked_next_token"


@pytest.mark.distributed
def test_scored_on_its_own_it_has_the_same_scores(ended: tuple[Path, Finished], cache: Path, tmp_path: Path) -> None:
    folder, _ = ended
    phase = folder / "phases" / "target"
    command = [sys.executable, str(ROOT / "launch" / "evaluate.py"), str(phase), "micro-valence"]
    options = ["--languages", "qen", "qea", "--set", f"data.cache={cache}", "--output", str(tmp_path / "scored")]
    done = start([*command, *options])
    assert done.code == 0, done.output
    found = json.loads(next((tmp_path / "scored").rglob("scores.json")).read_text())["scores"]["micro-valence"]
    expected = json.loads((phase / "scores.json").read_text())["scores"]["micro-valence"]
    assert {language: values["accuracy"] for language, values in found.items()} == {
        language: values["accuracy"] for language, values in expected.items()
    }


@pytest.mark.distributed
def test_exported_it_is_a_decoder_that_says_how_it_is_read(ended: tuple[Path, Finished], tmp_path: Path) -> None:
    folder, _ = ended
    exported = tmp_path / "exported"
    command = [str(BIN / "python"), "-m", "xlt_scale.cli", "export", str(folder / "phases" / "adaptation")]
    done = start([*command, str(exported)])
    assert done.code == 0, done.output
    assert "Qwen3ForCausalLM" in done.output
    model, tokenizer = AutoModel.from_pretrained(exported).eval(), AutoTokenizer.from_pretrained(exported)
    assert model.config.is_causal is False
    ids = torch.tensor([tokenizer("a b c d")["input_ids"]])
    assert ids[0, -1] == tokenizer.eos_token_id
    other = ids.clone()
    other[0, -1] = 5
    with torch.no_grad():
        change = model(input_ids=ids).last_hidden_state[0, 0] - model(input_ids=other).last_hidden_state[0, 0]
    assert change.abs().max() > 0


@pytest.mark.distributed
def test_the_direction_of_an_encoder_is_refused_in_one_line(cache: Path, tmp_path: Path) -> None:
    run = train_forked(tmp_path / "run", cache, "model.bidirectional=false")
    assert run.code == 2
    assert "model.bidirectional = false, but xlm-roberta is an encoder" in run.output
    assert "Traceback" not in run.output
