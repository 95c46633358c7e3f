"""The stand-in for a GPU and the table of its peaks: entry points from headers, refusals, cases, arithmetic."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from xlt_scale.errors import UserError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import stand_in_gpu.build as stand_in  # noqa: E402
from allocator_peaks import cells, known_rows, page_lines, summary  # noqa: E402
from allocator_peaks_rows import Row, device_of, memory_cases, predict, shortened, trained_share  # noqa: E402
from stand_in_gpu.entry_points import declared_functions, source_of  # noqa: E402
from training_speed_cases import Case  # noqa: E402

from xlt_scale.planning.hardware import GIB  # noqa: E402
from xlt_scale.planning.prediction import MemoryPrediction  # noqa: E402

HEADER = """
#define cuMemAlloc cuMemAlloc_v2
#define cuMemFree __CUDA_API_PTDS(cuMemFree_v2)
typedef struct cudaThing_st { int cudaField; } cudaThing;
/* cudaError_t cudaInAComment(void); */
CUresult CUDAAPI cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize);
extern __host__ cudaError_t CUDARTAPI cudaLaunchHostFunc(cudaStream_t stream,
    cudaHostFn_t fn, void *userData __dv(0));
ncclResult_t  ncclCommAbort(ncclComm_t comm) __attribute__((deprecated("soon")));
const char *cublasGetStatusName(cublasStatus_t status);
static inline int cudaWithABody(int x) { return cudaCalled(x); }
int cuFileRead(int handle);
int somethingElse(int x);
"""


def test_a_headers_functions_become_entry_points_under_all_of_their_names() -> None:
    assert declared_functions(HEADER) == {
        "cuMemAlloc",
        "cuMemAlloc_v2",
        "cuMemFree",
        "cuMemFree_v2",
        "cudaLaunchHostFunc",
        "ncclCommAbort",
        "cublasGetStatusName",
    }


def test_entry_points_give_way_to_functions_that_do_something() -> None:
    assert source_of(["cuInit", "cuB"]) == (
        "__attribute__((weak)) long cuB(void) { return 0; }\n__attribute__((weak)) long cuInit(void) { return 0; }\n"
    )


def test_a_build_for_processors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match="built for CPUs; install a build for CUDA"):
        stand_in.build()


def test_missing_headers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    with pytest.raises(UserError, match=r"has the header driver_types\.h; reinstall PyTorch"):
        stand_in.build(tmp_path / "cache")


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    include = tmp_path / "nvidia" / "cu13" / "include"
    for name in ("driver_types.h", "crt/host_defines.h", "cuda.h", "cudnn_version.h", "nccl.h"):
        (include / name).parent.mkdir(parents=True, exist_ok=True)
        (include / name).touch()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="gcc is not found; install a C compiler"):
        stand_in.build(tmp_path / "cache")


@pytest.mark.skipif(
    torch.version.cuda is None or torch.cuda.is_available(), reason="needs PyTorch for CUDA, and no GPU"
)
def test_memory_ends_at_the_stand_ins_capacity(tmp_path: Path) -> None:
    script = """
import torch
print(torch.cuda.get_device_name())
kept = torch.ones(2 << 30, dtype=torch.uint8, device="cuda")
print(torch.cuda.max_memory_allocated() >> 30, kept[0].item())
try:
    torch.empty(3 << 30, dtype=torch.uint8, device="cuda")
except torch.OutOfMemoryError:
    print("out of memory")
"""
    process = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | stand_in.environment(capacity_mib=5 * 1024, cache=tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.splitlines() == ["stand-in for an H200 (computes nothing)", "2 0", "out of memory"]


def test_every_training_case_of_ours_is_taken_once_for_two_steps() -> None:
    cases = memory_cases()
    assert len(set(cases)) == len(cases) > 40
    assert {(case.stack, case.work, case.warmup + case.steps, case.trace) for case in cases} == {
        ("ours", "train", 2, False)
    }
    sizes = {case.size for case in cases}
    assert {"xlmr-large", "xlmr-xl", "xlmr-xxl", "planned-20b", "qwen3-14b"} <= sizes


def test_a_prediction_is_for_the_largest_micro_batch_that_is_drawn() -> None:
    """Windows of 384 tokens fill a budget of 1000 with 768, however many micro-batches there are."""
    case = shortened(Case(size="xlmr-large", lengths="qa", batch=8, budget=1000))
    cluster = device_of(stand_in.H200_MIB)
    assert predict(case, cluster) == predict(replace(case, budget=768), cluster)
    assert predict(case, cluster).activations < predict(replace(case, budget=1152), cluster).activations


def test_beside_adapters_only_theirs_are_counted_as_trained() -> None:
    assert trained_share(Case(size="4x256")) == 1.0
    case = Case(size="4x256", adapter="lora")
    # Rank 16 beside the six matrices of each layer: 16 (inputs + outputs).
    of_layer = 16 * (4 * 2 * 256 + 2 * (256 + 1024))
    assert trained_share(case) * case.shape.num_parameters == pytest.approx(4 * of_layer)


def _row(gib: float | None, predicted: float, margin: float) -> Row:
    answer: dict[str, Any] = {"status": "out of memory"}
    if gib is not None:
        answer = {"status": "measured", "allocated_gib": gib, "reserved_gib": gib + 1}
    parts = MemoryPrediction(round(predicted * GIB), 0, 0, 0, 0, round(margin * GIB))
    return Row(shortened(Case()), answer, parts, capacity_gib=139.8)


def test_errors_are_of_the_prediction_without_margins_and_verdicts_with_them() -> None:
    near, far, full = _row(100.0, 102.0, 5.0), _row(100.0, 136.0, 5.0), _row(None, 130.0, 5.0)
    assert cells(near)[1:] == ("100.0", "101.0", "102.0", "+2.0 %", "yes", "yes")
    assert cells(far)[1:] == ("100.0", "101.0", "136.0", "**+36.0 %**", "yes", "**no**")
    assert cells(full)[1:] == ("out of memory", "", "130.0", "", "no", "**no**")
    assert list(summary([near, far, full])) == [
        "2 peaks: mean size of the error 19.0 %, largest +36.0 %, 1 within 7 %.",
        "Whether it fits: as predicted for 1 of 3. 1 ran out of memory that were to fit.",
    ]


def test_cases_without_a_figure_keep_their_reason() -> None:
    failed = Row(
        shortened(Case()), {"status": "failed", "reason": "no such thing"}, _row(1.0, 1.0, 0.0).prediction, 139.8
    )
    facts = {
        "date": "2026-11-22",
        "commands": ["c"],
        "capacity_mib": 143_771,
        "python": "3.11",
        "versions": {"torch": "2"},
    }
    lines = list(page_lines(facts, [_row(1.0, 1.0, 0.0), failed], "t.json"))
    assert lines[-1] == f"- {failed.case.label}: failed: no such thing"
    assert not any("tokens/s" in line for line in lines)


def test_peaks_of_an_earlier_table_are_predicted_again() -> None:
    case, failed = shortened(Case(size="xlmr-large", batch=32)), shortened(Case(size="xlmr-large", batch=64))
    cluster = device_of(stand_in.H200_MIB)
    results: list[dict[str, Any]] = [
        {"case": case.as_json(), "status": "measured", "allocated_gib": 10.0, "reserved_gib": 11.0},
        {"case": failed.as_json(), "status": "failed", "reason": "no such thing"},
    ]
    (row,) = known_rows(results, cluster)
    assert row.case == case
    assert row.prediction == predict(case, cluster)
