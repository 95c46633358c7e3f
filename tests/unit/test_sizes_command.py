"""`xlt-scale sizes`: the ladders as people and programs read them, and as they compare with downloaded files."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from xlt_scale.cli import app
from xlt_scale.errors import UserError
from xlt_scale.sizes import LADDERS, SIZES, find_size

# What published files say, without what has nothing to do with their shape. The text part of a multimodal file is one
# of two and leaves much to the library's defaults; older files name things in older ways.
GEMMA_3_12B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "eos_token_id": [1, 106],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "model_type": "gemma3_text",
        "num_attention_heads": 16,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
        "vocab_size": 262208,
    },
}
EUROBERT_2_1B = {
    "model_type": "eurobert",
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "pad_token_id": 128001,
    "mask_token_id": 128002,
    "hidden_act": "silu",
    "hidden_size": 2304,
    "intermediate_size": 6144,
    "max_position_embeddings": 8192,
    "num_attention_heads": 18,
    "num_hidden_layers": 32,
    "num_key_value_heads": 6,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 250000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
    "is_decoder": False,
}
MMBERT_SMALL = {
    "model_type": "modernbert",
    "attention_bias": False,
    "bos_token_id": 2,
    "classifier_pooling": "mean",
    "cls_token_id": 1,
    "eos_token_id": 1,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000,
    "hidden_activation": "gelu",
    "hidden_size": 384,
    "intermediate_size": 1152,
    "local_attention": 128,
    "local_rope_theta": 160000,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 6,
    "num_hidden_layers": 22,
    "pad_token_id": 0,
    "sep_token_id": 1,
    "tie_word_embeddings": True,
    "vocab_size": 256000,
}
QWEN3_32B = {
    "model_type": "qwen3",
    "attention_bias": False,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "max_position_embeddings": 40960,
    "max_window_layers": 64,
    "num_attention_heads": 64,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
UMT5_XXL = {
    "_name_or_path": "google/umt5-xxl",
    "model_type": "umt5",
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "scalable_attention": True,
    "tie_word_embeddings": False,
    "vocab_size": 256384,
}
MDEBERTA_BASE = {
    "model_type": "deberta-v2",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-07,
    "max_position_embeddings": 512,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "position_buckets": 256,
    "relative_attention": True,
    "share_att_key": True,
    "type_vocab_size": 0,
    "vocab_size": 251000,
}
PUBLISHED = {
    "gemma3-12b": GEMMA_3_12B,
    "eurobert-2.1b": EUROBERT_2_1B,
    "mmbert-small": MMBERT_SMALL,
    "qwen3-32b": QWEN3_32B,
    "umt5-xxl": UMT5_XXL,
    "mdeberta-base": MDEBERTA_BASE,
}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["sizes", *arguments])


def write(folder: Path, fields: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(fields if isinstance(fields, str) else json.dumps(fields))
    return folder


def verified(*places: object) -> tuple[int, list[dict[str, Any]]]:
    done = run("--verify", "--json", *map(str, places))
    return done.exit_code, json.loads(done.stdout)


def field(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in report["fields"] if one["name"] == name)


def test_the_table_has_every_size_below_its_family() -> None:
    lines = run().stdout.splitlines()
    family = ""
    seen = {}
    for line in lines:
        family = next((name for name in LADDERS if line.startswith(f"{name}  ")), family)
        seen |= {word: family for word in line.split()[:1] if word in SIZES}
    assert seen == {size.name: size.family for size in SIZES.values()}


def test_the_table_says_which_counts_are_above_ten_billion() -> None:
    rows = {row["size"]: row["above_10b"] for row in json.loads(run("--json").stdout)}
    assert {size for size, above in rows.items() if above == "both"} == {
        "planned-20b",
        "planned-40b",
        "qwen3-14b",
        "qwen3-32b",
        "gemma3-12b",
        "gemma3-27b",
    }
    assert {size for size, above in rows.items() if above == "total"} == {"xlmr-xxl"}
    (line,) = [line for line in run("--family", "xlm-r").stdout.splitlines() if line.startswith("xlmr-xxl")]
    assert "total" in line.split()


def test_a_table_can_be_of_one_family() -> None:
    text = run("--family", "qwen3").stdout
    assert "qwen3-32b" in text
    assert "gemma3-4b" not in text


def test_unverified_facts_are_shown_as_such() -> None:
    text = run("--family", "gemma 3").stdout
    assert "gemma3-1b (?)" in text
    assert "not verified: " in text
    assert "(?)" not in run("--family", "qwen3").stdout


def test_one_size_is_shown_in_full() -> None:
    text = run("qwen3-32b").stdout
    for fact in ("Qwen/Qwen3-32B", "31,984,210,944", "31,206,298,624", "by both counts", "64 of 128, 8 for keys"):
        assert fact in text
    assert "post-trained" in text
    assert "Sources:" in text


def test_a_program_gets_everything_that_is_known() -> None:
    (row,) = json.loads(run("rembert", "--json").stdout)
    size = find_size("rembert")
    assert row["parameters"] == size.num_parameters
    assert row["non_embedding"] == size.num_non_embedding_parameters
    assert row["configuration"] == size.architecture()
    assert not row["unpadded"] and row["why_padded"]


def test_an_unknown_family_is_answered_with_the_nearest() -> None:
    done = run("--family", "gemma-3")
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == "family 'gemma-3' is unknown; did you mean 'Gemma 3'?"


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_ladders_say_what_published_files_say(name: str, tmp_path: Path) -> None:
    code, (report,) = verified(write(tmp_path / "downloaded", PUBLISHED[name]))
    assert (code, report["size"], report["is_equal"]) == (0, name, True)


@pytest.mark.parametrize("name", [name for name in SIZES if SIZES[name].hub_name])
def test_a_file_is_known_by_the_name_of_its_folder(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / SIZES[name].hub_name.rpartition("/")[2], find_size(name).architecture())
    code, (report,) = verified(folder)
    assert (code, report["size"]) == (0, name)


def test_fields_that_a_file_leaves_out_are_compared_by_the_librarys_defaults(tmp_path: Path) -> None:
    _, (report,) = verified(write(tmp_path, GEMMA_3_12B))
    assert field(report, "hidden_size")["is_stated"]
    assert field(report, "rope_parameters")["is_stated"]
    width = field(report, "head_dim")
    assert (width["theirs"], width["is_equal"], width["is_stated"]) == (256, True, False)
    assert field(report, "num_parameters")["is_equal"]


def test_a_file_in_the_hubs_cache_is_known_by_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "models--Qwen--Qwen3-8B-Base" / "snapshots" / "0123abc"
    code, (report,) = verified(write(folder, find_size("qwen3-8b").architecture()))
    assert (code, report["size"]) == (0, "qwen3-8b")


def test_what_differs_is_named_and_the_exit_code_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path / "EuroBERT-2.1B", EUROBERT_2_1B | {"rope_theta": 10000, "intermediate_size": 2048})
    done = run("--verify", str(folder))
    assert done.exit_code == 1
    assert "differs in intermediate_size, rope_parameters, num_parameters, num_non_embedding_parameters" in done.stdout
    assert "not in the file: the library's default" in done.stdout


def test_a_size_can_be_named_for_a_file_that_says_nothing(tmp_path: Path) -> None:
    fields = find_size("mmbert-base").architecture() | {"num_hidden_layers": 21}
    folder = write(tmp_path / "somewhere", fields)
    code, (report,) = verified(f"mmbert-base={folder}")
    assert code == 1
    assert [one["name"] for one in report["fields"] if not one["is_equal"]] == [
        "num_hidden_layers",
        "layer_types",
        "num_parameters",
        "num_non_embedding_parameters",
    ]
    done = run("--verify", str(folder))
    mend = f"write NAME={folder}/config.json"
    assert str(done.exception).endswith(f"neither its name nor its shape is that of a size; {mend}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON; name the config.json of a model"),
        ("[]", "is no configuration: it has no model_type; name the config.json of a model"),
        ('{"model_type": "no-such-type"}', "is no configuration that transformers can read: "),
    ],
)
def test_a_file_that_is_no_configuration_is_one_clear_line(content: str, message: str, tmp_path: Path) -> None:
    done = run("--verify", f"rembert={write(tmp_path, content)}")
    assert isinstance(done.exception, UserError)
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    done = run("--verify", str(tmp_path / "nowhere"))
    assert str(done.exception) == (
        f"{tmp_path}/nowhere cannot be read (No such file or directory); name a folder with config.json"
    )
    assert str(run("--verify", f"rembret={tmp_path}").exception).endswith("did you mean 'rembert'?")
    assert str(run("--verify").exception) == "sizes --verify: name a folder with config.json, or NAME=FOLDER"
