"""A task of the micro benchmark trained in float8 and in bf16: the losses end where they do, seed by seed."""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from xlt_scale.config import load_run
from xlt_scale.engines.world import World
from xlt_scale.training.run import run

pytestmark = [pytest.mark.slow]

SEEDS = (1, 2, 3)
STEPS, LAST = 120, 30
RUN = """
[model]
tokenizer = "micro"
max_length = 64
dropout = 0.0
[model.architecture]
model_type = "xlm-roberta"
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 4
intermediate_size = 64
vocab_size = 768
max_position_embeddings = 130
type_vocab_size = 1
pad_token_id = 1
[engine]
name = "fsdp2"
precision = "bf16"
[logging]
every = 1
progress = "none"
tensorboard = false
"""
PHASE = """
[[phases]]
name = "seed-{seed}"
task = "micro-mlm"
steps = {steps}
batch_size = 8
learning_rate = 3e-3
seed = {seed}
"""


@pytest.fixture(scope="module")
def trained(world: World, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By precision the losses of each seed and what is recorded of the first one's phase."""
    folder = tmp_path_factory.mktemp("float8")
    (folder / "run.toml").write_text(RUN + "".join(PHASE.format(seed=seed, steps=STEPS) for seed in SEEDS))
    found: dict[str, Any] = {}
    for name, float8 in (("bf16", "false"), ("float8", "true")):
        output = folder / name
        changes = [f"output={output}", f"data.cache={cache}", f"engine.float8={float8}"]
        run(load_run(folder / "run.toml", changes))
        rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        losses = [
            [row["loss"] for row in rows if row.get("phase") == f"seed-{seed}" and "loss" in row] for seed in SEEDS
        ]
        phase = json.loads((output / "phases" / f"seed-{SEEDS[0]}" / "phase.json").read_text())
        found[name] = {"losses": losses, "phase": phase}
    return found


def test_final_losses_differ_by_less_than_those_of_seeds(trained: dict[str, Any]) -> None:
    bf16, float8 = ([mean(losses[-LAST:]) for losses in trained[name]["losses"]] for name in ("bf16", "float8"))
    noise = stdev(bf16)
    differences = [one - other for one, other in zip(float8, bf16, strict=True)]
    assert all(len(losses) == STEPS for losses in trained["float8"]["losses"])
    assert abs(mean(differences)) < noise / 3
    assert max(map(abs, differences)) < noise


def test_that_is_learning_and_in_another_precision(trained: dict[str, Any]) -> None:
    for bf16, float8 in zip(trained["bf16"]["losses"], trained["float8"]["losses"], strict=True):
        assert mean(float8[-LAST:]) < float8[0] - 1.0
        assert bf16 != float8


def test_a_phase_in_float8_is_another_phase_and_recorded_as_such(trained: dict[str, Any]) -> None:
    bf16, float8 = (trained[name]["phase"] for name in ("bf16", "float8"))
    assert bf16["hash"] != float8["hash"]
    assert "float8" not in bf16["identity"] and float8["identity"]["float8"] is True
    assert (bf16["training"]["float8"], float8["training"]["float8"]) == (False, True)
