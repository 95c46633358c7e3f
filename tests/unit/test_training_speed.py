"""The command that measures training speed: its lengths, cases, figures, and rows for what could not be measured."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xlt_scale.errors import UserError
from xlt_scale.sizes import find_size

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from training_speed_cases import Case, read_cases, suite, suite_names  # noqa: E402
from training_speed_lengths import lengths_of, make_data, padded_steps  # noqa: E402
from training_speed_report import speed_of, write_report  # noqa: E402
from training_speed_trace import read_profiler, read_trace, start_profiler  # noqa: E402

H200 = {"device": "NVIDIA H200", "peak_flops": 989e12}


def _answer(seconds: float, tokens: int, squares: int = 0, **further: Any) -> dict[str, Any]:
    figures = {"seconds": [seconds], "tokens": [tokens], "squared_lengths": [squares], "computed_tokens": [2 * tokens]}
    return figures | {"status": "measured", "hardware": H200, "memory_gib": 1.0, "num_micro_batches": 1} | further


def test_inference_lengths_have_the_published_median_and_never_exceed_the_cut() -> None:
    lengths = lengths_of(Case(), 50_000)
    assert np.median(lengths) == 38
    assert lengths.mean() == pytest.approx(41.5, abs=0.3)
    assert lengths.min() >= 8
    assert lengths.max() == 128
    assert set(lengths_of(Case(lengths="qa"), 10)) == {384}


def test_stock_batches_are_padded_to_the_cut_or_grouped_by_length() -> None:
    case = Case(batch=32, micro_batch=16, size="2x64", steps=4)
    data = make_data(case, 32 * 200)
    padded = padded_steps(case, data, 4)
    grouped = padded_steps(replace(case, batching="grouped"), data, 4)
    assert {batch["input_ids"].shape for step in padded for batch in step.micro_batches} == {(16, 128)}
    share = [
        sum(s.amount.tokens for s in steps) / sum(s.amount.computed_tokens for s in steps)
        for steps in (padded, grouped)
    ]
    assert share[0] < 0.4 and share[1] > 0.9


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_measures_distinct_known_configurations(name: str) -> None:
    cases = suite(name, Case())
    assert len({case.label for case in cases}) == len(cases)
    for case in cases:
        assert case.shape.num_non_embedding_parameters > 0
        assert case.is_ours or case.batch % case.micro_batch == 0


def test_a_sweep_is_every_combination_of_the_values() -> None:
    cases = read_cases("budget=8192,16384 compile=true,false size=xlmr-xl:4", Case())
    assert [(case.budget, case.compile) for case in cases] == [
        (8192, True),
        (8192, False),
        (16384, True),
        (16384, False),
    ]
    assert cases[0].shape.num_layers == 4


@pytest.mark.parametrize("text", ["bugdet=1", "budget=many", "stack=theirs", "budget"])
def test_a_sweep_with_a_mistake_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        read_cases(text, Case())


def test_utilisation_counts_real_tokens_and_no_embeddings() -> None:
    size = find_size("xlmr-xl")
    case = Case(size="xlmr-xl")
    speed = speed_of(case, [_answer(2.0, 10_000, squares=500_000)])
    flops = 6 * size.num_non_embedding_parameters * 10_000 + 12 * 36 * 2560 * 500_000
    assert speed["mfu"] == pytest.approx(flops / 2.0 / 989e12)
    assert speed["padding"] == 0.5
    assert speed_of(replace(case, checkpointing="full"), [_answer(2.0, 10_000)])["hfu"] == pytest.approx(
        4 / 3 * speed_of(case, [_answer(2.0, 10_000)])["mfu"]
    )
    assert speed_of(replace(case, work="evaluate"), [_answer(2.0, 10_000, 500_000)])["mfu"] == pytest.approx(
        speed["mfu"] / 3
    )


def test_the_median_is_over_the_steps_of_all_repetitions() -> None:
    answers = [_answer(1.0, 100), {"status": "out of memory", "reason": ""}, _answer(1.0, 300), _answer(1.0, 200)]
    speed = speed_of(Case(), answers)
    assert (speed["tokens_per_second"], speed["num_steps"]) == (200, 3)


def test_a_trace_on_a_cpu_counts_operators_that_a_gpu_would_launch() -> None:
    layer, values = torch.nn.Linear(16, 16), torch.randn(4, 16)
    profiler = start_profiler(torch.device("cpu"))
    total = torch.nn.functional.gelu(layer(values).view(2, 2, 16)).transpose(0, 1).sum()
    total.item()
    profiler.stop()
    anatomy = read_profiler(profiler)
    assert anatomy.launches["matrix products"] == 1
    assert anatomy.operators["aten::gelu"] == anatomy.operators["aten::sum"] == 1
    assert "aten::view" not in anatomy.operators and "aten::transpose" not in anatomy.operators
    assert anatomy.num_synchronisations == 1


def test_a_trace_of_a_gpu_knows_kinds_and_idle_time() -> None:
    def kernel(name: str, start: float, duration: float) -> dict[str, Any]:
        return {"ph": "X", "cat": "kernel", "name": name, "ts": start, "dur": duration}

    trace = {
        "traceEvents": [
            kernel("nvjet_hsh_256x128_64x4", 0, 4_000),
            kernel("flash_fwd_kernel<Flash_fwd_kernel_traits>", 3_000, 2_000),  # overlaps the first
            kernel("void at::native::vectorized_elementwise_kernel<4>", 7_000, 1_000),
            {"ph": "X", "cat": "cuda_runtime", "name": "cudaStreamSynchronize", "ts": 0, "dur": 1},
        ]
    }
    anatomy = read_trace(trace)
    assert dict(anatomy.milliseconds) == {"matrix products": 4, "attention": 2, "element-wise and reductions": 1}
    assert (anatomy.wall_milliseconds, anatomy.idle_milliseconds, anatomy.num_synchronisations) == (8, 2, 1)


@pytest.mark.parametrize("name", suite_names())
def test_a_configuration_that_is_not_reached_yet_is_a_row(name: str, tmp_path: Path) -> None:
    cases = suite(name, Case())
    page, _ = write_report(tmp_path, "speed", "python speed.py", [(case, []) for case in cases], "")
    text = page.read_text()
    assert all(case.label in text for case in cases)
    assert text.count("not reached yet") == len(cases)


@pytest.mark.slow
def test_what_cannot_be_measured_is_a_row_with_its_reason(tmp_path: Path) -> None:
    case = "device=cpu size=1x64 batch=4 micro_batch=4 budget=512 steps=2 warmup=1 precision=fp32 stack=ours,accelerate"
    command = [sys.executable, str(BENCHMARKS / "training_speed.py"), "--suite", "none", "--case", case]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, timeout=240)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    [file] = tmp_path.glob("*.json")
    ours, accelerate = json.loads(file.read_text())["results"]
    assert ours["answers"][0]["status"] == "measured", f"{ours['answers']}\n{said}"
    assert file.name.startswith("training_speed_cpu_")
    assert ours["speed"]["tokens_per_second"] > 0
    assert accelerate["answers"][0]["status"] == "not supported"
    page = next(tmp_path.glob("*.md")).read_text()
    assert "accelerate shards with FSDP2 on GPUs only" in page
