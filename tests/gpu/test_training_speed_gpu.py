"""The speed benchmark on a real GPU: our side and the stock one are measured, and a step's kernels are told apart."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "training_speed.py"


def test_both_sides_are_measured_with_utilisation_and_the_anatomy_of_a_step(tmp_path: Path) -> None:
    case = "size=4x512 batch=64 micro_batch=32 budget=2048 steps=5 warmup=3 stack=ours,torch trace=true"
    command = [sys.executable, str(SCRIPT), "--suite", "none", "--case", case, "--output", str(tmp_path)]
    subprocess.run(command, check=True, timeout=280)
    found = json.loads(next(tmp_path.glob("*.json")).read_text())
    for result in found["results"]:
        assert result["speed"]["tokens_per_second"] > 0
        anatomy = result["answers"][0]["anatomy"]
        assert anatomy["launches"]["matrix products"] > 4 * 12
        assert anatomy["launches"]["attention"] >= 4 * 2
        assert 0 <= anatomy["idle_milliseconds"] < anatomy["wall_milliseconds"]


def test_our_arithmetic_is_no_worse_than_the_stock_one(tmp_path: Path) -> None:
    case = "work=numerics size=4x512 batch=32"
    command = [sys.executable, str(SCRIPT), "--suite", "none", "--case", case, "--output", str(tmp_path)]
    subprocess.run(command, check=True, timeout=280)
    answer = json.loads(next(tmp_path.glob("*.json")).read_text())["results"][0]["answers"][0]
    errors = {row["variant"]: row.get("gradients") for row in answer["rows"]}
    assert errors["ours/fsdp2, unpadded, bf16"] <= answer["tolerated"] * errors["stock, padded, bf16"]
