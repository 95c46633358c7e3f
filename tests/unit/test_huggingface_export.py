"""Exported folders: plain `from_pretrained` loads them and computes the same; else nothing is left behind."""

import json
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_checkpoints import ALONE, TAGS, export, load, our_scores, refusal, save, scrambled
from small_models import MLM, PAIRS, batch_of, plan_for
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from typer.testing import CliRunner

from xlt_scale.checkpoint.checksum import PIECE
from xlt_scale.checkpoint.manifest import read_manifest
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.writer import write_checkpoint
from xlt_scale.config import ModelOptions
from xlt_scale.modeling.encoder import plan_encoder
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import describe_parameters

ROOT = Path(__file__).resolve().parents[2]
SPAN = HeadSpec("answers", "span")
FAMILIES = ["xlm-roberta", "xlm-roberta-xl", "bert"]
LENGTHS = [37, 23, 9]
FILE = "rank-00000.safetensors"


@pytest.fixture
def model() -> HeadedEncoder:
    return scrambled(plan_for("xlm-roberta", "padded"), [PAIRS])


@pytest.fixture
def checkpoint(model: HeadedEncoder, tmp_path: Path) -> Path:
    return save(model, [PAIRS], tmp_path / "checkpoint")


def compare(family: str, head: HeadSpec, automatic_class: Any, tmp_path: Path, **fields: Any) -> tuple[Any, Any]:
    """Scores of a whole padded batch, of the exported model and of ours: [sequences, ...] or [tokens, ...]."""
    plan = plan_for(family, "padded", **fields)
    ours = scrambled(plan, [head])
    export(save(ours, [head], tmp_path / "checkpoint"), tmp_path / "exported")
    batch = batch_of(LENGTHS, head, token_types=family == "bert", label_positions=torch.arange(sum(LENGTHS)))
    inputs = ours._padded_inputs(batch)
    with torch.no_grad():
        theirs = load(automatic_class, tmp_path / "exported")(**inputs)
    places = ours._places(batch)
    scores = our_scores(ours, batch)
    if head.kind in ("classification", "regression"):
        return theirs.logits, scores
    if head.kind == "span":
        return torch.stack([theirs.start_logits, theirs.end_logits], -1)[places], scores
    return theirs.logits[places], scores


def assert_same(pair: tuple[Tensor, Tensor]) -> None:
    found, expected = pair
    assert found.shape == expected.shape
    assert expected.std() > 0.01
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classification_head_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    assert_same(compare(family, PAIRS, AutoModelForSequenceClassification, tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_masked_lm_head_gives_the_same_logits(family: str, tied: bool, tmp_path: Path) -> None:
    assert_same(compare(family, MLM, AutoModelForMaskedLM, tmp_path, tie_word_embeddings=tied))


def test_a_regression_head_gives_the_same_numbers(tmp_path: Path) -> None:
    theirs, ours = compare(
        "xlm-roberta", HeadSpec("numbers", "regression", 1), AutoModelForSequenceClassification, tmp_path
    )
    assert_same((theirs, ours))
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["problem_type"] == "regression"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_span_head_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    assert_same(compare(family, SPAN, AutoModelForQuestionAnswering, tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tagging_head_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    assert_same(compare(family, TAGS, AutoModelForTokenClassification, tmp_path))


@pytest.mark.parametrize("family", [*FAMILIES, "modernbert"])
def test_the_bare_encoder_gives_the_same_hidden_states(family: str, tmp_path: Path) -> None:
    ours = scrambled(plan_for(family, "padded"), [PAIRS])
    export(save(ours, [PAIRS], tmp_path / "checkpoint"), tmp_path / "exported", head="none")
    pooler = {} if family == "modernbert" else {"add_pooling_layer": False}
    theirs, notes = AutoModel.from_pretrained(tmp_path / "exported", output_loading_info=True, **pooler)
    assert not [problem for problems in notes.values() for problem in problems]
    ids = torch.arange(5, 35)[None]
    with torch.no_grad():
        found, expected = (part.eval()(input_ids=ids).last_hidden_state for part in (theirs, ours.encoder))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_tensor_is_the_checkpoints_in_the_chosen_precision(
    dtype: str, model: HeadedEncoder, checkpoint: Path, tmp_path: Path
) -> None:
    export(checkpoint, tmp_path / "exported", dtype=dtype)
    found = load_file(tmp_path / "exported" / "model.safetensors")
    ours = {name.replace("encoder.", "roberta.", 1): value for name, value in model.encoder.named_parameters("encoder")}
    ours |= {f"classifier.{name}": value for name, value in model.heads["pairs"].named_parameters()}
    assert found.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(found[name], value.detach().to(getattr(torch, dtype))), name
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported").dtype == getattr(torch, dtype)


def test_of_a_training_state_only_the_weights_go_out(model: HeadedEncoder, checkpoint: Path, tmp_path: Path) -> None:
    manifest, reader = read_manifest(checkpoint), CheckpointReader(checkpoint)
    shapes = {key: tensor.shape for key, tensor in manifest.tensors.items()}
    shapes |= {key.replace("param/", "exp_avg/"): shape for key, shape in shapes.items()}
    ranges = {key: (0, prod(shape)) for key, shape in shapes.items()}
    values = ((key, reader.read(key.replace("exp_avg/", "param/"), *ranges[key])) for key in shapes)
    write_checkpoint(ALONE, tmp_path / "state", shapes, ranges, values, manifest.facts | {"optimizer": {}})
    for name in ("state", "checkpoint"):
        export(tmp_path / name, tmp_path / f"exported-{name}")
    found, expected = (tmp_path / f"exported-{name}" / "model.safetensors" for name in ("state", "checkpoint"))
    assert found.read_bytes() == expected.read_bytes()


def test_shards_are_no_larger_than_asked_and_load_as_one_model(
    model: HeadedEncoder, checkpoint: Path, tmp_path: Path
) -> None:
    export(checkpoint, tmp_path / "whole")
    export(checkpoint, tmp_path / "shards", max_shard_size="50KB")
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert files == [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    assert len(files) > 5
    for file in files:
        with safe_open(tmp_path / "shards" / file, framework="pt") as opened:
            assert sum(opened.get_tensor(name).nbytes for name in opened.keys()) <= 50_000  # noqa: SIM118
    found, expected = (load(AutoModelForSequenceClassification, tmp_path / name) for name in ("shards", "whole"))
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_a_tensor_larger_than_a_shard_has_a_file_of_its_own(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "exported", max_shard_size="10KB")
    index = json.loads((tmp_path / "exported" / "model.safetensors.index.json").read_text())
    file = index["weight_map"]["roberta.embeddings.word_embeddings.weight"]
    assert list(index["weight_map"].values()).count(file) == 1


def test_the_index_says_how_large_the_model_is(model: HeadedEncoder, checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "exported", max_shard_size="50KB", dtype="bfloat16")
    index = json.loads((tmp_path / "exported" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * sum(value.numel() for value in model.parameters())


def test_the_configuration_names_the_class_and_the_labels(model: HeadedEncoder, tmp_path: Path) -> None:
    entry = vars(PAIRS) | {"labels": ["entailment", "neutral", "contradiction"]}
    export(save(model, [PAIRS], tmp_path / "checkpoint", heads=[entry]), tmp_path / "exported")
    config = AutoConfig.from_pretrained(tmp_path / "exported")
    assert config.architectures == ["XLMRobertaForSequenceClassification"]
    assert config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert config.label2id == {"entailment": 0, "neutral": 1, "contradiction": 2}
    assert config.problem_type == "single_label_classification"


def test_labels_without_names_are_numbered(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "exported")
    assert AutoConfig.from_pretrained(tmp_path / "exported").id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


def test_a_span_model_has_two_outputs_whatever_its_parent_had(tmp_path: Path) -> None:
    assert_same(compare("xlm-roberta", SPAN, AutoModelForQuestionAnswering, tmp_path, num_labels=3))


def write_phase(tmp_path: Path, model: HeadedEncoder) -> Path:
    phase = tmp_path / "run" / "phases" / "target"
    save(model, [PAIRS], phase / "checkpoints" / "step-00000007")
    (phase / "phase.json").write_text(json.dumps({"checkpoint": "checkpoints/step-00000007"}))
    return phase


def test_a_phase_stands_for_its_result(model: HeadedEncoder, tmp_path: Path) -> None:
    export(write_phase(tmp_path, model), tmp_path / "exported")
    found = load(AutoModelForSequenceClassification, tmp_path / "exported")
    assert torch.equal(found.classifier.out_proj.weight, model.heads["pairs"].out_proj.weight)


def test_of_a_run_the_phases_are_offered(model: HeadedEncoder, tmp_path: Path) -> None:
    phase = write_phase(tmp_path, model)
    assert f"neither a finished phase nor a checkpoint; give one of {phase}" in refusal(
        tmp_path / "run", tmp_path / "exported"
    )


def test_the_runs_tokenizer_comes_along(model: HeadedEncoder, tokenizer: Any, tmp_path: Path) -> None:
    phase = write_phase(tmp_path, model)
    tokenizer.save_pretrained(tmp_path / "run" / "tokenizer")
    export(phase, tmp_path / "exported")
    found = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert found("the old man", "a ball").input_ids == tokenizer("the old man", "a ball").input_ids


def test_a_tokenizer_named_in_the_checkpoint_comes_along_without_the_model_beside_it(
    model: HeadedEncoder, tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "published")
    (tmp_path / "published" / "pytorch_model.bin").write_bytes(b"")
    source = save(model, [PAIRS], tmp_path / "checkpoint", tokenizer=str(tmp_path / "published"))
    export(source, tmp_path / "exported")
    assert AutoTokenizer.from_pretrained(tmp_path / "exported").get_vocab() == tokenizer.get_vocab()
    assert not (tmp_path / "exported" / "pytorch_model.bin").exists()


def test_an_absent_tokenizer_is_said(checkpoint: Path, tmp_path: Path) -> None:
    assert "without a tokenizer" in export(checkpoint, tmp_path / "exported")[0]


MEASURE = """
import sys
from pathlib import Path

import psutil
from xlt_scale.checkpoint.huggingface_export import ExportOptions, export_checkpoint

limit = psutil.Process().memory_info().rss // 1_000_000 + 200
export_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), ExportOptions(dtype="bfloat16", max_memory=f"{limit}MB"))
status = Path("/proc/self/status").read_text().splitlines()
peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print(limit * 1_000_000, int(peak) * 1024)
"""


def test_a_checkpoint_larger_than_the_memory_allowed_exports_within_it(tmp_path: Path) -> None:
    """The checkpoint is one table of 300 MB and little else; 200 MB beside the program itself are allowed."""
    fields = {"vocab_size": 600_000, "hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    architecture = {"model_type": "xlm-roberta", "intermediate_size": 128, "max_position_embeddings": 130} | fields
    plan = plan_encoder(ModelOptions(architecture=architecture, tokenizer="micro", attention="padded"))
    specs = describe_parameters(plan, [])
    pattern = torch.rand(PIECE)

    def values() -> Any:
        for name, spec in specs.items():
            for start in range(0, spec.numel, PIECE):
                yield f"param/{name}", pattern[: min(PIECE, spec.numel - start)]

    shapes = {f"param/{name}": spec.shape for name, spec in specs.items()}
    ranges = {f"param/{name}": (0, spec.numel) for name, spec in specs.items()}
    facts = {"model": plan.config.to_dict(), "heads": []}
    write_checkpoint(ALONE, tmp_path / "checkpoint", shapes, ranges, values(), facts)

    arguments = [sys.executable, "-c", MEASURE, tmp_path / "checkpoint", tmp_path / "exported"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    limit, peak = map(int, done.stdout.splitlines()[-1].split())
    assert peak < limit


def test_the_command_exports(checkpoint: Path, tmp_path: Path) -> None:
    from xlt_scale.cli import app

    arguments = [
        "export",
        str(checkpoint),
        str(tmp_path / "exported"),
        "--dtype",
        "bfloat16",
        "--max-shard-size",
        "1MB",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert load(AutoModelForSequenceClassification, tmp_path / "exported").dtype == torch.bfloat16


def test_the_launch_script_refuses_in_one_line(tmp_path: Path) -> None:
    arguments = [sys.executable, "launch/export.py", tmp_path / "absent", tmp_path / "exported"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'absent'} is neither a finished phase")
