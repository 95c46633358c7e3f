"""Run files with models of other families than XLM-R's: what is planned for them, and from what."""

import json
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.config import RunOptions
from xlt_scale.planning.activations import kept_bytes
from xlt_scale.planning.describe import RunDescription
from xlt_scale.planning.known_hardware import find_cluster
from xlt_scale.planning.layer_time import layer_products
from xlt_scale.planning.layouts import free_settings, part_of
from xlt_scale.planning.memory import num_trained
from xlt_scale.planning.run_plan import plan_run
from xlt_scale.planning.shapes import shape_of
from xlt_scale.planning.task_data import DataFacts
from xlt_scale.planning.workload import Layout, Workload
from xlt_scale.sizes import SIZES, find_size

MNLI = {"name": "pairs", "task": "mnli", "batch_size": 32, "learning_rate": 1e-5, "epochs": 1}
PUBLISHED = [name for name, size in SIZES.items() if size.hub_name]
LADDERS = ("eurobert-2.1b", "mmbert-base", "mdeberta-base", "rembert", "mt5-xl", "umt5-xl", "t5gemma-9b", "qwen3-14b")


def describe(model: dict[str, Any], **phase: Any) -> RunDescription:
    run = RunOptions.model_validate({"model": {"tokenizer": "micro"} | model, "phases": [MNLI | phase]})
    return RunDescription(run, DataFacts(run, reads="nothing"), on_processors=False)


def workload(model: dict[str, Any], **phase: Any) -> Workload:
    (work,) = describe(model, **phase).trained()
    assert work.workload is not None
    return work.workload


@pytest.mark.parametrize("name", [*LADDERS, "gemma3-27b"])
def test_every_family_has_a_plan_that_fits_a_node(name: str) -> None:
    description, cluster = describe({"size": name}), part_of(find_cluster("hgx-h200"), 8)
    settings = free_settings(description.run.engine, cluster) | {"name": "fsdp2", "compile": False}
    plan = plan_run(description, cluster, settings)
    assert 0 < plan.best.bytes_needed / 2**30 < cluster.device.memory_gib
    assert 0 < plan.best.seconds < 24 * 3600


@pytest.mark.parametrize("name", [*LADDERS, "gemma3-27b", "xlmr-xl"])
def test_a_folder_of_the_family_is_planned_like_its_size(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(find_size(name).architecture()))
    found, known = (workload(model).shape for model in ({"name": str(tmp_path)}, {"size": name}))
    assert found.num_parameters == known.num_parameters
    assert (found.query_size, found.key_value_size, found.model_type) == (
        known.query_size,
        known.key_value_size,
        known.model_type,
    )


def test_a_family_that_is_not_known_is_said_so_once() -> None:
    fields = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100}
    description = describe({"architecture": fields | {"model_type": "electra"}})
    description.trained()
    said = [note for note in description.facts.notes if "'electra'" in note]
    assert said == ["layers of type 'electra' are counted as if they were XLM-R's"]
    known = describe({"size": "qwen3-4b"})
    assert not [note for note in known.facts.notes if "counted as if" in note]


@pytest.mark.parametrize("name", PUBLISHED)
def test_matrices_of_a_layer_are_nearly_all_of_its_parameters(name: str) -> None:
    shape = shape_of(find_size(name))
    matrices = shape.num_layers * sum(inputs * outputs for inputs, outputs in layer_products(shape))
    assert 0.99 < matrices / shape.num_non_embedding_parameters <= 1.0


def test_padding_is_counted_where_batches_are_padded_only() -> None:
    assert workload({"size": "qwen3-4b"}).lengths.padding == 1.0
    assert workload({"size": "qwen3-4b", "attention": "padded"}).lengths.padding > 1.5
    assert workload({"size": "mt5-xl"}).lengths.padding > 1.5


def test_a_decoder_read_in_both_directions_attends_to_all_and_one_in_its_own_to_half() -> None:
    assert not workload({"size": "qwen3-4b"}).shape.causal
    assert workload({"size": "qwen3-4b", "bidirectional": False}).shape.causal


def test_scores_that_lie_in_memory_grow_with_the_length_of_sequences() -> None:
    short, long = (workload({"size": "rembert", "max_length": length}, max_length=length) for length in (64, 256))
    layout = Layout("fsdp2", 1)
    more = kept_bytes(long, layout, 4096) - kept_bytes(short, layout, 4096)
    assert more == 4096 * 32 * 18 * 2 * (256 - 64)  # tokens, layers, heads, bytes, longer rows
    short, long = (workload({"size": "qwen3-4b", "max_length": length}, max_length=length) for length in (64, 256))
    assert kept_bytes(long, layout, 4096) == kept_bytes(short, layout, 4096)


def test_an_output_matrix_of_its_own_is_trained_beside_the_word_table() -> None:
    masked = {"task": "", "mixture": {"micro-mlm": 1.0}, "steps": 10, "epochs": None}
    phase = {key: value for key, value in masked.items() if value is not None}
    tied, untied = (workload({"size": name}, **phase).shape for name in ("qwen3-4b", "qwen3-14b"))
    assert tied.num_parameters == find_size("qwen3-4b").num_parameters
    assert untied.num_parameters - find_size("qwen3-14b").num_parameters == 151_936 * 5120


def test_adapters_are_as_wide_as_the_matrices_that_they_stand_beside() -> None:
    adapter = {"rank": 8, "targets": ["q_proj", "down_proj"]}
    found = workload({"size": "qwen3-14b"}, adapter=adapter)
    assert num_trained(found) == pytest.approx(40 * 8 * ((5120 + 5120) + (17_408 + 5120)))
    everything = workload({"size": "gemma3-12b"}, adapter={"rank": 8, "targets": "all"})
    sizes = [inputs + outputs for inputs, outputs in layer_products(everything.shape)]
    assert num_trained(everything) == pytest.approx(48 * 8 * sum(sizes))
