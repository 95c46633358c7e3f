"""What cannot be exported is refused in one line, what was written wrongly is noticed, and nothing is left behind."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_checkpoints import TAGS, export, load, refusal, save, scrambled
from small_models import MLM, PAIRS, plan_for
from transformers import (
    AutoModelForTokenClassification,
)

from xlt_scale.checkpoint.checksum import PIECE
from xlt_scale.checkpoint.huggingface_export import parse_bytes
from xlt_scale.checkpoint.huggingface_files import check_weights, write_weights
from xlt_scale.checkpoint.huggingface_plan import plan_export
from xlt_scale.checkpoint.manifest import COMPLETE
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.errors import UserError
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.heads import HeadSpec

FILE = "rank-00000.safetensors"


@pytest.fixture
def model() -> HeadedEncoder:
    return scrambled(plan_for("xlm-roberta", "padded"), [PAIRS])


@pytest.fixture
def checkpoint(model: HeadedEncoder, tmp_path: Path) -> Path:
    return save(model, [PAIRS], tmp_path / "checkpoint")


def test_of_several_heads_one_is_chosen_by_name(tmp_path: Path) -> None:
    heads = [PAIRS, TAGS]
    model = scrambled(plan_for("xlm-roberta", "padded"), heads)
    export(save(model, heads, tmp_path / "checkpoint"), tmp_path / "exported", head="tags")
    found = load(AutoModelForTokenClassification, tmp_path / "exported")
    assert torch.equal(found.classifier.weight, model.heads["tags"].classifier.weight)


def test_of_several_heads_none_is_guessed(tmp_path: Path) -> None:
    heads = [PAIRS, TAGS]
    source = save(scrambled(plan_for("xlm-roberta", "padded"), heads), heads, tmp_path / "checkpoint")
    assert "has the heads pairs, tags; choose one with --head" in refusal(source, tmp_path / "exported")


def test_an_unknown_head_is_refused_with_the_nearest(checkpoint: Path, tmp_path: Path) -> None:
    assert "no such head; did you mean 'pairs'?" in refusal(checkpoint, tmp_path / "exported", head="pear")


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("xlm-roberta", HeadSpec("choices", "multiple_choice")),
        ("xlm-roberta", HeadSpec("means", "classification", 3, "mean")),
        ("modernbert", PAIRS),
        ("modernbert", MLM),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_head_that_hugging_face_computes_otherwise_is_refused(family: str, head: HeadSpec, tmp_path: Path) -> None:
    source = save(scrambled(plan_for(family, "padded"), [head]), [head], tmp_path / "checkpoint")
    message = refusal(source, tmp_path / "exported")
    assert message.startswith(f"--head {head.name} cannot be exported: ")
    assert message.endswith("--head none")


def test_berts_masked_lm_head_with_another_activation_is_refused(tmp_path: Path) -> None:
    source = save(scrambled(plan_for("bert", "padded", hidden_act="relu"), [MLM]), [MLM], tmp_path / "checkpoint")
    assert "it uses gelu, Hugging Face's bert head the configuration's relu" in refusal(source, tmp_path / "exported")


def damage_content(folder: Path) -> None:
    content = bytearray((folder / FILE).read_bytes())
    content[-1] ^= 1
    (folder / FILE).write_bytes(content)


def cut_short(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-4])


def take_away_the_marker(folder: Path) -> None:
    (folder / COMPLETE).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [(damage_content, "checksum differs"), (cut_short, "bytes of"), (take_away_the_marker, "is unfinished")],
)
def test_a_damaged_checkpoint_is_refused(
    damage: Callable[[Path], None], words: str, checkpoint: Path, tmp_path: Path
) -> None:
    damage(checkpoint)
    assert words in refusal(checkpoint, tmp_path / "exported")


def test_a_checkpoint_with_nan_is_refused(model: HeadedEncoder, tmp_path: Path) -> None:
    with torch.no_grad():
        model.heads["pairs"].dense.bias[3] = float("nan")
    message = refusal(save(model, [PAIRS], tmp_path / "checkpoint"), tmp_path / "exported")
    assert "classifier.dense.bias holds a number that is not finite in float32" in message


def test_a_number_too_large_for_float16_is_refused(model: HeadedEncoder, tmp_path: Path) -> None:
    with torch.no_grad():
        model.heads["pairs"].dense.bias[3] = 70_000.0
    source = save(model, [PAIRS], tmp_path / "checkpoint")
    assert "not finite in float16; try --dtype float32" in refusal(source, tmp_path / "float16", dtype="float16")
    export(source, tmp_path / "bfloat16", dtype="bfloat16")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 64
    path.write_bytes(content)


def drop_a_tensor(path: Path) -> None:
    save_file(dict(list(load_file(path).items())[1:]), path)


def change_the_precision(path: Path) -> None:
    save_file({name: value.half() for name, value in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (flip_a_bit, "roberta.* differs from the checkpoint near row 0"),
        (drop_a_tensor, "is missing"),
        (change_the_precision, "is torch.float16, not torch.float32"),
        (Path.unlink, "model.safetensors cannot be read back"),
    ],
)
def test_written_files_that_are_not_the_checkpoints_are_noticed(
    spoil: Callable[[Path], None], words: str, model: HeadedEncoder, checkpoint: Path, tmp_path: Path
) -> None:
    with closing(CheckpointReader(checkpoint)) as reader:
        export_plan = plan_export(reader, model.plan.config, PAIRS, torch.float32)
        shards = write_weights(tmp_path, export_plan, reader, 10**9, PIECE)
        check_weights(tmp_path, shards, export_plan, reader)
        spoil(tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=words):
            check_weights(tmp_path, shards, export_plan, reader)


def test_pieces_of_any_size_give_the_same_files(model: HeadedEncoder, checkpoint: Path, tmp_path: Path) -> None:
    for elements in (97, PIECE):
        (tmp_path / str(elements)).mkdir()
        with closing(CheckpointReader(checkpoint)) as reader:
            export_plan = plan_export(reader, model.plan.config, PAIRS, torch.bfloat16)
            write_weights(tmp_path / str(elements), export_plan, reader, 10**9, elements)
    small, large = (tmp_path / str(elements) / "model.safetensors" for elements in (97, PIECE))
    assert small.read_bytes() == large.read_bytes()


def test_a_missing_tensor_is_named(model: HeadedEncoder, tmp_path: Path) -> None:
    del model.heads["pairs"].dense.bias
    message = refusal(save(model, [PAIRS], tmp_path / "checkpoint"), tmp_path / "exported")
    assert "XLMRobertaForSequenceClassification has classifier.dense.bias, the checkpoint does not" in message


def test_a_tensor_that_the_class_does_not_have_is_named(model: HeadedEncoder, tmp_path: Path) -> None:
    model.encoder.extra = torch.nn.Parameter(torch.ones(3))
    message = refusal(save(model, [PAIRS], tmp_path / "checkpoint"), tmp_path / "exported")
    assert "has no place for encoder.extra" in message


def test_an_existing_folder_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "exported").mkdir()
    assert "exists already; remove it or name another folder" in refusal(checkpoint, tmp_path / "exported")


def test_a_folder_that_cannot_be_made_is_an_error_with_the_mend(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"exported cannot be written \(Not a directory\); free space or name another"):
        export(checkpoint, tmp_path / "file" / "exported")


def test_an_unknown_precision_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    assert "did you mean 'bfloat16'" in refusal(checkpoint, tmp_path / "exported", dtype="bf16")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5GB", 5 * 10**9), ("1.5 gb", 15 * 10**8), ("2GiB", 2**31), ("700", 700), ("3K", 3000), ("12MB", 12 * 10**6)],
)
def test_bytes_are_read_as_people_write_them(text: str, expected: int) -> None:
    assert parse_bytes(text, "--max-memory") == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2XB", "0", "i"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--max-memory .* is not a number of bytes; write it like"):
        parse_bytes(text, "--max-memory")


def test_too_little_memory_is_refused_with_what_is_enough(checkpoint: Path, tmp_path: Path) -> None:
    assert "--max-memory 10MB is too little" in refusal(checkpoint, tmp_path / "exported", max_memory="10MB")
