"""Hugging Face folders as checkpoints: what is exported comes back bit by bit, heads too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_checkpoints import save, scrambled
from small_models import MLM, PAIRS, plan_for
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from xlt_scale.checkpoint.huggingface_export import ExportOptions, export_checkpoint
from xlt_scale.checkpoint.huggingface_import import import_huggingface
from xlt_scale.checkpoint.manifest import read_manifest
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.store import find_problem
from xlt_scale.errors import UserError
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.modeling.weights import PretrainedWeights

CLASSIFICATION = HeadSpec("classification", "classification", num_labels=3)
SPAN = HeadSpec("span", "span")
TAGGING = HeadSpec("tagging", "tagging", num_labels=5)
FAMILIES = ["xlm-roberta", "xlm-roberta-xl", "bert"]


def tensors(folder: Path) -> dict[str, Tensor]:
    """Everything in a checkpoint, whole."""
    reader = CheckpointReader(folder)
    stored = reader.manifest.tensors
    found = {key: reader.read(key, 0, tensor.numel).view(tensor.shape) for key, tensor in stored.items()}
    reader.close()
    return found


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def exported(family: str, head: HeadSpec, tmp_path: Path, dtype: str = "float32", **fields: Any) -> tuple[Path, Path]:
    """A checkpoint of ours and its exported folder."""
    source = save(scrambled(plan_for(family, **fields), [head]), [head], tmp_path / "ours")
    export_checkpoint(source, tmp_path / "exported", ExportOptions(dtype=dtype), lambda line: None)
    return source, tmp_path / "exported"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", [CLASSIFICATION, MLM, SPAN, TAGGING], ids=lambda head: head.name)
def test_what_was_exported_comes_back_bit_by_bit(family: str, head: HeadSpec, tmp_path: Path) -> None:
    source, folder = exported(family, head, tmp_path)
    import_huggingface(folder, tmp_path / "imported")
    assert_equal(tensors(tmp_path / "imported"), tensors(source))


def test_an_output_matrix_of_its_own_comes_back(tmp_path: Path) -> None:
    source, folder = exported("xlm-roberta", MLM, tmp_path, tie_word_embeddings=False)
    import_huggingface(folder, tmp_path / "imported")
    found = tensors(tmp_path / "imported")
    assert "param/heads.mlm.decoder.weight" in found
    assert_equal(found, tensors(source))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_comes_back_as_it_was_rounded(dtype: str, tmp_path: Path) -> None:
    source, folder = exported("xlm-roberta", CLASSIFICATION, tmp_path, dtype)
    import_huggingface(folder, tmp_path / "imported")
    rounded = {key: value.to(getattr(torch, dtype)).float() for key, value in tensors(source).items()}
    assert_equal(tensors(tmp_path / "imported"), rounded)


def test_what_was_imported_goes_out_as_the_same_files(tmp_path: Path) -> None:
    _, folder = exported("xlm-roberta", CLASSIFICATION, tmp_path)
    import_huggingface(folder, tmp_path / "imported")
    export_checkpoint(tmp_path / "imported", tmp_path / "again", say=lambda line: None)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_checkpoint_that_was_imported_is_whole_and_says_what_it_is(tokenizer: Any, tmp_path: Path) -> None:
    plan = plan_for("xlm-roberta")
    plan.config.num_labels = 2
    plan.config.id2label, plan.config.label2id = {0: "same", 1: "other"}, {"same": 0, "other": 1}
    AutoModelForSequenceClassification.from_config(plan.config).save_pretrained(tmp_path / "published")
    tokenizer.save_pretrained(tmp_path / "published")
    import_huggingface(tmp_path / "published", tmp_path / "imported")
    assert find_problem(tmp_path / "imported", read_all=True) == ""
    facts = read_manifest(tmp_path / "imported").facts
    head = {"name": "classification", "kind": "classification", "num_labels": 2, "pooling": "first"}
    assert facts["heads"] == [head | {"labels": ["same", "other"]}]
    assert facts["model"]["model_type"] == "xlm-roberta"
    assert facts["tokenizer"] == str(tmp_path / "published")
    assert not read_manifest(tmp_path / "imported").holds_training_state


def test_a_bare_encoder_comes_in_without_a_head(tmp_path: Path) -> None:
    AutoModel.from_config(plan_for("xlm-roberta").config).save_pretrained(tmp_path / "published")
    import_huggingface(tmp_path / "published", tmp_path / "imported")
    assert read_manifest(tmp_path / "imported").facts["heads"] == []
    assert all(key.startswith("param/encoder.") for key in tensors(tmp_path / "imported"))


def test_a_head_of_another_form_than_ours_stays_behind(tmp_path: Path) -> None:
    AutoModelForSequenceClassification.from_config(plan_for("modernbert").config).save_pretrained(
        tmp_path / "published"
    )
    lines: list[str] = []
    import_huggingface(tmp_path / "published", tmp_path / "imported", lines.append)
    assert read_manifest(tmp_path / "imported").facts["heads"] == []
    assert "the head is not: modernbert has no Hugging Face class that computes a classification head" in lines[0]


def test_a_head_of_a_kind_that_we_do_not_have_stays_behind(tmp_path: Path) -> None:
    AutoModelForMultipleChoice.from_config(plan_for("xlm-roberta").config).save_pretrained(tmp_path / "published")
    lines: list[str] = []
    import_huggingface(tmp_path / "published", tmp_path / "imported", lines.append)
    assert "no head of ours is that of XLMRobertaForMultipleChoice" in lines[0]


def test_a_head_that_is_not_whole_stays_behind(tmp_path: Path) -> None:
    _, folder = exported("xlm-roberta", CLASSIFICATION, tmp_path)
    stored = load_file(folder / "model.safetensors")
    del stored["classifier.out_proj.bias"]
    save_file(stored, folder / "model.safetensors")
    lines: list[str] = []
    import_huggingface(folder, tmp_path / "imported", lines.append)
    assert read_manifest(tmp_path / "imported").facts["heads"] == []
    assert "the head is not: the files do not hold all of it" in lines[0]


def test_pytorch_files_come_in_too(tmp_path: Path) -> None:
    model = AutoModelForTokenClassification.from_config(plan_for("bert").config)
    model.config.architectures = ["BertForTokenClassification"]
    model.config.save_pretrained(tmp_path / "published")
    torch.save(model.state_dict(), tmp_path / "published" / "pytorch_model.bin")
    import_huggingface(tmp_path / "published", tmp_path / "imported")
    assert torch.equal(tensors(tmp_path / "imported")["param/heads.tagging.classifier.weight"], model.classifier.weight)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json; give the folder of a Hugging Face model"):
        import_huggingface(tmp_path, tmp_path / "imported")


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    _, folder = exported("xlm-roberta", CLASSIFICATION, tmp_path)
    with pytest.raises(UserError, match="exists already; remove it or name another folder"):
        import_huggingface(folder, tmp_path / "ours")


def test_a_missing_encoder_weight_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    _, folder = exported("xlm-roberta", CLASSIFICATION, tmp_path)
    stored = load_file(folder / "model.safetensors")
    del stored["roberta.encoder.layer.2.output.dense.weight"]
    save_file(stored, folder / "model.safetensors")
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"weight encoder\.layer\.2\.output\.dense\.weight of the encoder is missing"):
        import_huggingface(folder, tmp_path / "imported")
    assert set(tmp_path.iterdir()) == before


def weights_of(folder: Path, head: HeadSpec, family: str = "xlm-roberta", **options: Any) -> list[str]:
    """The head's parameters that a model of ours finds in a folder."""
    plan = plan_for(family)
    specs = describe_parameters(plan, [head])
    weights = PretrainedWeights(folder, specs, plan.prefix, **options)
    return [name for name in specs if name.startswith("heads.") and weights.has(name)]


def test_a_run_takes_no_head_but_that_of_masked_language_modelling(tmp_path: Path) -> None:
    _, folder = exported("xlm-roberta", PAIRS, tmp_path)
    assert weights_of(folder, PAIRS) == []
    assert len(weights_of(folder, PAIRS, heads=[PAIRS])) == 4


def test_a_head_with_other_classes_is_not_taken(tmp_path: Path) -> None:
    _, folder = exported("xlm-roberta", PAIRS, tmp_path)
    other = HeadSpec("pairs", "classification", num_labels=4)
    assert weights_of(folder, other, heads=[other]) == []


def test_a_head_of_another_kind_is_not_taken(tmp_path: Path) -> None:
    _, folder = exported("xlm-roberta", PAIRS, tmp_path)
    assert weights_of(folder, SPAN, heads=[SPAN]) == []
