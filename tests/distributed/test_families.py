"""Encoders, decoders and encoder halves of every ladder: all task formats, both engines, checkpoints that cross."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import relative_difference
from small_run import TASKS
from small_runs import ENGINES
from transformers import AutoConfig, PreTrainedModel

from launch import WORKERS, launch

pytestmark = [pytest.mark.distributed]

FAMILIES = ("eurobert", "modernbert", "deberta-v2", "rembert", "mt5", "umt5", "t5gemma", "qwen3", "gemma3_text")
SAVED_AT, STEPS = 12, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def runs(family: str, folder: Path) -> dict[str, Any]:
    """What happened at two ranks, by the engine that a run began under."""
    cross = {"do": "cross", "family": family, "folder": str(folder), "saved_at": SAVED_AT, "steps": STEPS}
    return launch("family_actions", 2, {family: cross}, folder / f"ranks-{family}")[0][family]


def test_every_task_format_is_trained_alike_under_both_engines(runs: dict[str, Any]) -> None:
    zero3, fsdp2 = (runs[name] for name in ENGINES)
    assert set(zero3["tasks"]) == set(TASKS)
    assert relative_difference(zero3["losses"], fsdp2["losses"]) < 1e-4
    assert relative_difference(zero3["norms"], fsdp2["norms"]) < 1e-3


@pytest.mark.parametrize("saver", ENGINES)
def test_the_other_engine_takes_a_run_on(saver: str, runs: dict[str, Any]) -> None:
    found = runs[saver]
    expected = found["losses"][SAVED_AT : SAVED_AT + len(found["resumed"])]
    assert relative_difference(found["resumed"], expected) < 1e-4


@pytest.mark.parametrize("saver", ENGINES)
def test_the_exported_folder_gives_the_same_hidden_states_with_plain_transformers(
    family: str, saver: str, runs: dict[str, Any], folder: Path
) -> None:
    exported = folder / f"{family}-{saver}-exported"
    model = plain_model(exported)
    batch = example_batch()
    rows = torch.split(batch.input_ids, batch.lengths)
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = (torch.arange(input_ids.shape[1]) < torch.tensor(batch.lengths)[:, None]).long()
    with torch.no_grad():
        states = model(input_ids=input_ids, attention_mask=mask).last_hidden_state
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    assert np.allclose(means, runs[saver]["means"], atol=2e-5)


BODIES = ("qwen3", "gemma3_text", "t5gemma", "mt5", "deberta-v2")
DECODERS = ("qwen3", "gemma3_text")
PLAIN, RECOMPUTED = {"plain": {}}, {"recomputed": {"activation_checkpointing": True}}
COMPILED = {"compiled": {"compile": True}}
ADAPTED = {"adapted": {"phase": {"adapter": {"rank": 2}}}}


@pytest.fixture(scope="module")
def layers(folder: Path) -> dict[str, Any]:
    """What happened to runs that ask something of the layers that were found in the model."""
    actions: dict[str, Any] = {}
    for name in ENGINES:
        for family in BODIES:
            variants = PLAIN | RECOMPUTED | ADAPTED
            variants |= COMPILED if (name, family) == ("fsdp2", "qwen3") else {}
            actions[f"{name} {family}"] = {"do": "bodies", "family": family, "engine": name, "variants": variants}
    for family in DECODERS:
        actions[f"buffers {family}"] = {"do": "buffers", "family": family}
    return launch("family_actions", 2, actions, folder / "layers", seconds=280)[0]


@pytest.mark.parametrize("family", BODIES)
@pytest.mark.parametrize("name", ENGINES)
def test_computing_layers_again_changes_nothing(name: str, family: str, layers: dict[str, Any]) -> None:
    found = layers[f"{name} {family}"]
    assert relative_difference(found["recomputed"], found["plain"]) < 1e-5


@pytest.mark.parametrize("family", BODIES)
def test_adapters_stand_beside_the_linear_layers_that_are_there(family: str, layers: dict[str, Any]) -> None:
    zero3, fsdp2 = (layers[f"{name} {family}"] for name in ENGINES)
    assert relative_difference(zero3["adapted"], fsdp2["adapted"]) < 1e-4
    assert relative_difference(zero3["adapted"], zero3["plain"]) > 1e-3


def test_a_decoders_layers_are_compiled(layers: dict[str, Any]) -> None:
    found = layers["fsdp2 qwen3"]
    assert relative_difference(found["compiled"], found["plain"]) < 1e-4


@pytest.mark.parametrize("family", DECODERS)
def test_bf16_does_not_round_the_frequencies_of_rotary_positions(family: str, layers: dict[str, Any]) -> None:
    found = layers[f"buffers {family}"]
    assert [name for name in found if "inv_freq" in name]
    assert set(found.values()) == {0.0}


def plain_model(folder: Path) -> PreTrainedModel:
    """As somebody loads it who knows nothing of this project: by the class that its configuration names."""
    import transformers

    name = AutoConfig.from_pretrained(folder).architectures[0]
    model, told = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not told["unexpected_keys"]
    # A bare encoder is exported without the pooling layer, which no head here uses.
    assert not [name for name in told["missing_keys"] if not name.startswith("pooler.")]
    return model.eval()


def example_batch() -> Any:
    sys.path.insert(0, str(WORKERS))
    from family_actions import example_batch as make

    return make()
