"""Peaks of PyTorch's CUDA allocator beside the planner's predictions, without a GPU.

    python benchmarks/allocator_peaks.py --output benchmarks/allocator_peaks_2026-11-22.md
    python benchmarks/allocator_peaks.py --only "xlmr-xxl.*compile|lora" --minutes 10
    python benchmarks/allocator_peaks.py --only nothing --case "size=xlmr-xl batch=1024 budget=8192,16384"
    python benchmarks/allocator_peaks.py --known benchmarks/allocator_peaks_2026-11-22.json --minutes 0

Needs a build of PyTorch for CUDA and gcc. Every configuration of training_speed.py's suites that trains with our
engines runs two steps in a process of its own on a stand-in for the GPU (stand_in_gpu/), where kernels do nothing. The
page and the table are written anew after each. With `--known` the peaks of an earlier table are kept and predicted
again, as the planner is now; the other cases run, unless there are `--minutes 0`.
"""

import argparse
import json
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from allocator_peaks_rows import Row, device_of, memory_cases, predict, shortened
from stand_in_gpu.build import H200_MIB, environment
from training_speed import ROOT, run_case
from training_speed_cases import Case, read_cases
from training_speed_report import package_versions

from xlt_scale.errors import UserError
from xlt_scale.planning.hardware import Cluster

AIM_PERCENT = 7.0
_WORKER = ROOT / "benchmarks" / "stand_in_gpu" / "worker.py"
_READ_FIRST = """
**What is real here.** PyTorch's build for CUDA, with its dispatcher, autograd and caching allocator; DeepSpeed,
bitsandbytes, Dynamo, Inductor and Triton, which compile for compute capability 9.0; our engines, training loop and
data. So every tensor is allocated and freed as on a GPU, and memory ends where it would end there.

**What is not.** No kernel runs. Values, speeds and all that depends on data mean nothing and are left out. cuBLAS and
cuDNN are empty: workspaces that their kernels choose at run time may differ, beside the one that PyTorch always
allocates for cuBLAS. The context's 600 MiB are an assumption; the capacity is that of an H200. One process: no
communication's buffers. Nothing here was measured on a GPU. The one peak that was (113.0 GiB, XLM-R XXL under stock
ZeRO-3) lies 5 GiB above the stand-in's; its batch was not recorded.

*allocated*, *reserved*: the peaks of `max_memory_allocated` and `max_memory_reserved` over two steps. *predicted*: the
planner's bytes without margins, for the largest micro-batch of those two steps. *error*: predicted / allocated - 1.
*fits*: what happened; *as predicted*: whether the planner says the same, with its margins.
""".strip().splitlines()


def main() -> None:
    arguments = _parser().parse_args()
    command = shlex.join(["python", "benchmarks/allocator_peaks.py", *sys.argv[1:]])
    earlier = json.loads(arguments.known.read_text()) if arguments.known else {"commands": [], "results": []}
    facts = facts_of([*earlier["commands"], command], arguments.capacity_mib)
    cluster = device_of(arguments.capacity_mib)
    known = {row.case: row for row in known_rows(earlier["results"], cluster)}
    try:
        cases = [*known, *(case for case in memory_cases() if re.search(arguments.only, case.label))]
        cases += [shortened(case) for text in arguments.case for case in read_cases(text, Case())]
        runs_any = arguments.minutes > 0 and not set(cases) <= set(known)
        on_stand_in = environment(arguments.capacity_mib) if runs_any else {}
    except UserError as problem:
        sys.exit(f"error: {problem}")
    deadline = time.monotonic() + 60 * arguments.minutes
    rows: list[Row] = []
    for case in dict.fromkeys(cases):
        row = known.get(case)
        if row is None:
            answer = run_case(case, min(arguments.seconds, deadline - time.monotonic()), _WORKER, on_stand_in)
            row = Row(case, answer, predict(case, cluster), cluster.device.memory_gib)
        rows.append(row)
        print(" | ".join(cells(row)), flush=True)
        write(arguments.output, facts, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="of the suites the cases whose label matches this expression"
    )
    parser.add_argument("--case", action="append", default=[], metavar="'NAME=VALUE[,VALUE] ...'", help="further ones")
    parser.add_argument("--capacity-mib", type=int, default=H200_MIB, help="memory of the device (default: an H200's)")
    parser.add_argument("--minutes", type=float, default=60, help="no case is begun after so long")
    parser.add_argument("--seconds", type=float, default=240, help="a case is ended after so long")
    parser.add_argument("--known", type=Path, metavar="TABLE.json", help="keep the peaks of an earlier table")
    default = ROOT / "runs" / f"allocator_peaks_{date.today().isoformat()}.md"
    parser.add_argument("--output", type=Path, default=default, help="the page; the table lies beside it")
    return parser


def facts_of(commands: Sequence[str], capacity_mib: int) -> dict[str, Any]:
    """How the peaks come about."""
    return {
        "commands": list(commands),
        "date": date.today().isoformat(),
        "capacity_mib": capacity_mib,
        "python": platform.python_version(),
        "versions": package_versions(),
    }


def known_rows(results: Sequence[Mapping[str, Any]], cluster: Cluster) -> Iterator[Row]:
    """The rows of a table that was written before as far as they have a peak, predicted by the planner as it is now."""
    for result in results:
        case = Case(**result["case"])
        row = Row(case, result, predict(case, cluster), cluster.device.memory_gib)
        if row.is_known:
            yield row


def write(page: Path, facts: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """The page, and the table of all figures beside it."""
    page.parent.mkdir(parents=True, exist_ok=True)
    table = page.with_suffix(".json")
    table.write_text(json.dumps({**facts, "results": [row.as_json() for row in rows]}, indent=1) + "\n")
    page.write_text("\n".join(page_lines(facts, rows, table.name)) + "\n", encoding="utf-8")


def page_lines(facts: Mapping[str, Any], rows: Sequence[Row], table: str) -> Iterator[str]:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    yield from (f"# Peaks of PyTorch's allocator without a GPU, {facts['date']}", "")
    yield from (*_READ_FIRST, "")
    yield f"Python {facts['python']}, {versions}; a device of {facts['capacity_mib']:,} MiB. Part by part: `{table}`."
    yield from ("", "```bash", *facts["commands"], "```", "", *summary(rows), "")
    yield "| case | allocated GiB | reserved GiB | predicted GiB | error | fits | as predicted |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        if row.is_known:
            yield "| " + " | ".join(cells(row)) + " |"
    others = [row for row in rows if not row.is_known]
    if others:
        yield from ("", "Without a figure:", "")
        yield from (f"- {row.case.label}: {row.answer['status']}: {row.answer.get('reason', '')}" for row in others)


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """How far off all predictions are together."""
    errors = [row.error for row in rows if row.error is not None]
    known = [row for row in rows if row.is_known]
    if not errors:
        return
    near = sum(abs(one) <= AIM_PERCENT for one in errors)
    size = statistics.mean(map(abs, errors))
    yield (
        f"{len(errors)} peaks: mean size of the error {size:.1f} %, largest {max(errors, key=abs):+.1f} %, "
        f"{near} within {AIM_PERCENT:.0f} %."
    )
    right = sum(row.trained == row.is_predicted_to_fit for row in known)
    boldly = sum(row.is_predicted_to_fit and not row.trained for row in known)
    yield f"Whether it fits: as predicted for {right} of {len(known)}. {boldly} ran out of memory that were to fit."


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table; for a case without a figure its reason."""
    label, predicted = row.case.label, f"{row.predicted_gib:.1f}"
    if not row.is_known:
        return label, row.answer["status"], str(row.answer.get("reason", "")), predicted
    verdict = "yes" if row.trained == row.is_predicted_to_fit else "**no**"
    if row.error is None:
        return label, "out of memory", "", predicted, "", "no", verdict
    seen = (f"{row.answer['allocated_gib']:.1f}", f"{row.answer['reserved_gib']:.1f}")
    mark = "**" if abs(row.error) > AIM_PERCENT else ""
    return label, *seen, predicted, f"{mark}{row.error:+.1f} %{mark}", "yes", verdict


if __name__ == "__main__":
    main()
