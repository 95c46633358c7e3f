"""The result file: tables of what was measured, rows with reasons for what was not, and the command that made them."""

import json
import math
import platform
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from training_speed_cases import Case
from training_speed_clock import quartiles

from xlt_scale.sizes import training_flops

_PACKAGES = ("torch", "transformers", "deepspeed", "accelerate", "bitsandbytes", "torchao", "triton")
Result = dict[str, Any]


def speed_of(case: Case, answers: Sequence[Result]) -> Result:
    """Figures of one case from all of its repetitions; {} when none was measured."""
    measured = [answer for answer in answers if answer["status"] == "measured"]
    if not measured:
        return {}
    steps = [
        (seconds, tokens, squares, computed)
        for answer in measured
        for seconds, tokens, squares, computed in zip(
            answer["seconds"], answer["tokens"], answer["squared_lengths"], answer["computed_tokens"], strict=False
        )
    ]
    low, speed, high = quartiles([tokens / seconds for seconds, tokens, _, _ in steps])
    flops_per_second = quartiles([_flops(case, tokens, squares) / seconds for seconds, tokens, squares, _ in steps])[1]
    peak = measured[0]["hardware"]["peak_flops"]
    repeats = [
        quartiles([t / s for s, t in zip(answer["seconds"], answer["tokens"], strict=False)])[1] for answer in measured
    ]
    return {
        "tokens_per_second": speed,
        "quartiles": [low, high],
        "of_repeats": repeats,
        "tokens_per_processor_second": _per_processor_second(measured),
        "step_milliseconds": quartiles([seconds * 1e3 for seconds, *_ in steps])[1],
        "num_steps": len(steps),
        "tflops_per_second": flops_per_second / 1e12,
        "mfu": flops_per_second / peak if peak else None,
        "hfu": flops_per_second * (1 + _recomputed(case)) / peak if peak else None,
        "padding": 1 - sum(step[1] for step in steps) / sum(step[3] for step in steps),
        "tokens_per_step": sum(step[1] for step in steps) / len(steps),
        "memory_gib": max(answer["memory_gib"] for answer in measured),
        "data_wait": max((answer.get("data_wait") or 0.0) for answer in measured),
        "num_micro_batches": measured[0]["num_micro_batches"],
    }


def _per_processor_second(answers: Sequence[Result]) -> float | None:
    """On a CPU: real tokens per second of the process's own time, which other work on the machine hardly changes."""
    if any(answer["hardware"]["device"] != "cpu" or "processor_seconds" not in answer for answer in answers):
        return None
    speeds = [
        tokens / seconds
        for answer in answers
        for tokens, seconds in zip(answer["tokens"], answer["processor_seconds"], strict=False)
    ]
    return quartiles(speeds)[1]


def _flops(case: Case, tokens: int, squares: int) -> float:
    """Of real tokens: forward and backward, or, for evaluation, the forward third of that. Frozen weights get no
    gradient, so that beside adapters a third of the products falls away.
    """
    shape = case.shape
    parameters = shape.num_non_embedding_parameters * (1.0 if case.adapter == "none" else 2 / 3)
    whole = training_flops(round(parameters), shape.num_layers, shape.attention_width, tokens, squares)
    return whole / 3 if case.work == "evaluate" else whole


def _recomputed(case: Case) -> float:
    """Recomputed share of the counted operations: a forward pass of the checkpointed layers. Selective checkpointing
    keeps matrix products and attention, so it recomputes none that are counted.
    """
    forward = 1 / 3 if case.adapter == "none" else 1 / 2
    return forward / case.checkpoint_every if case.checkpointing == "full" and case.work == "train" else 0.0


def write_report(
    folder: Path, name: str, command: str, results: Sequence[tuple[Case, list[Result]]], notes: str
) -> tuple[Path, Path]:
    """Write NAME_HARDWARE_DATE.md and .json into the folder, as much as there is yet."""
    hardware = next((a["hardware"] for _, answers in results for a in answers if "hardware" in a), {"device": "none"})
    title = re.sub(r"[^a-z0-9]+", "_", str(hardware["device"]).lower().removeprefix("nvidia")).strip("_")
    path = folder / f"{name}_{title}_{date.today().isoformat()}"
    folder.mkdir(parents=True, exist_ok=True)
    environment = {"hardware": hardware, "machine": platform.machine(), "python": platform.python_version()}
    environment |= {
        "versions": package_versions(),
        "command": command,
        "notes": notes,
        "date": date.today().isoformat(),
    }
    rows = [
        {"case": case.as_json(), "label": case.label, "answers": answers, "speed": _speed_or_none(case, answers)}
        for case, answers in results
    ]
    table = path.with_suffix(".json")
    table.write_text(json.dumps(environment | {"results": rows}, indent=1))
    page = path.with_suffix(".md")
    page.write_text(_page(environment, results, table.name))
    return page, table


def _speed_or_none(case: Case, answers: Sequence[Result]) -> Result | None:
    return speed_of(case, answers) or None if case.work in ("train", "evaluate") else None


def package_versions() -> dict[str, str]:
    """Of the packages that figures depend on; 'absent' where one is not installed."""
    return {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _page(environment: Result, results: Sequence[tuple[Case, list[Result]]], table: str) -> str:
    hardware = environment["hardware"]
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    peak = f", dense bf16 peak {hardware['peak_flops'] / 1e12:.0f} TFLOP/s" if hardware.get("peak_flops") else ""
    threads = f", {hardware['threads']} thread(s) of {hardware['cores']} cores" if "threads" in hardware else ""
    lines = [
        f"# Training speed on {hardware['device']}{threads}, {environment['date']}",
        "",
        f"Python {environment['python']}, {versions}{peak}. Every figure with its steps and settings: `{table}`.",
        "",
        "```bash",
        environment["command"],
        "```",
        "",
        *([environment["notes"], ""] if environment["notes"] else []),
    ]
    by_work: dict[str, list[tuple[Case, list[Result]]]] = defaultdict(list)
    for case, answers in results:
        by_work[case.work].append((case, answers))
    tables = {
        "numerics": _numerics, "train": _training, "evaluate": _evaluation, "overhead": _overhead, "losses": _losses,
    }  # fmt: skip
    for work, make in tables.items():
        if by_work[work]:
            lines += [*make(by_work[work]), ""]
    lines += _cost_of_evaluation(results)
    lines += _anatomies(results)
    return "\n".join(lines).rstrip() + "\n"


def _training(results: Sequence[tuple[Case, list[Result]]]) -> list[str]:
    lines = [
        "## Training steps",
        "",
        "Real tokens; median over the steps, with quartiles in brackets. MFU and HFU (with recomputation) count "
        "non-embedding parameters and real tokens. Beside best stock: at the same size, lengths, precision and "
        "batch; on CPUs by processor time.",
        "",
        "| configuration | tokens/s | a processor second | step ms | MFU | HFU | beside best stock | GiB | "
        "waits for data | padding | "
        "tokens a step | micro-batches | steps |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    best = _best_stock(results)
    for case, answers in results:
        speed = speed_of(case, answers)
        if not speed:
            lines.append(f"| {case.label} | {_reason(answers)} | | | | | | | | | | | |")
            continue
        other = best.get(_opponent(case))
        ratio = f"{_steadier(speed) / other:.2f}" if other else ""
        low, high = speed["quartiles"]
        lines.append(
            f"| {case.label} | {speed['tokens_per_second']:,.0f} [{low:,.0f}, {high:,.0f}] | "
            f"{_number(speed['tokens_per_processor_second'])} | {speed['step_milliseconds']:,.0f} | "
            f"{_percent(speed['mfu'])} | {_percent(speed['hfu'])} | {ratio} | "
            f"{speed['memory_gib']:.1f} | "
            f"{speed['data_wait']:.1%} | {speed['padding']:.1%} | {speed['tokens_per_step']:,.0f} | "
            f"{speed['num_micro_batches']} | {speed['num_steps']} |"
        )
    return lines


def _steadier(speed: Result) -> float:
    """Tokens per processor second on CPUs, per second of wall time on GPUs."""
    found: float = speed["tokens_per_processor_second"] or speed["tokens_per_second"]
    return found


def _opponent(case: Case) -> tuple[str, str, str, int]:
    """What a stock configuration must share to be compared with: size, lengths, precision, batch."""
    return case.size, case.lengths, case.precision, case.batch


def _best_stock(results: Sequence[tuple[Case, list[Result]]]) -> dict[tuple[str, str, str, int], float]:
    best: dict[tuple[str, str, str, int], float] = {}
    for case, answers in results:
        speed = speed_of(case, answers)
        if speed and not case.is_ours:
            key = _opponent(case)
            best[key] = max(best.get(key, 0.0), _steadier(speed))
    return best


def _evaluation(results: Sequence[tuple[Case, list[Result]]]) -> list[str]:
    lines = [
        "## Evaluation",
        "",
        "Whole passes over a data set, making of batches and reading of predictions included.",
        "",
        "| configuration | tokens/s | a processor second | MFU | GiB | padding | passes |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, answers in results:
        speed = speed_of(case, answers)
        if not speed:
            lines.append(f"| {case.label} | {_reason(answers)} | | | | | |")
            continue
        low, high = speed["quartiles"]
        lines.append(
            f"| {case.label} | {speed['tokens_per_second']:,.0f} [{low:,.0f}, {high:,.0f}] | "
            f"{_number(speed['tokens_per_processor_second'])} | {_percent(speed['mfu'])} | {speed['memory_gib']:.1f} | "
            f"{speed['padding']:.1%} | {speed['num_steps']} |"
        )
    return lines


def _cost_of_evaluation(results: Sequence[tuple[Case, list[Result]]]) -> list[str]:
    """Seconds for XNLI's test sets in 15 languages, as a share of those for an epoch of its training."""
    best: dict[tuple[str, str], float] = {}
    for case, answers in results:
        if case.is_ours and case.lengths == "nli" and case.work in ("train", "evaluate"):
            key = case.size, case.work
            best[key] = max(best.get(key, 0.0), speed_of(case, answers).get("tokens_per_second", 0.0))
    lines = []
    for size in dict.fromkeys(size for size, _ in best):
        training, evaluation = best.get((size, "train")), best.get((size, "evaluate"))
        if training and evaluation:
            share = _XNLI_TEST_PAIRS / evaluation / (_XNLI_TRAINING_PAIRS / training)
            lines.append(
                f"{size}: at the speeds above, XNLI's {_XNLI_TEST_PAIRS:,} test pairs take {share:.1%} of the time "
                f"of an epoch of {_XNLI_TRAINING_PAIRS:,} training pairs if all languages are as long as English, and "
                f"{share * _LENGTH_BESIDE_ENGLISH:.1%} at their mean length, {_LENGTH_BESIDE_ENGLISH} times that."
            )
    return [*lines, ""] if lines else []


_XNLI_TEST_PAIRS, _XNLI_TRAINING_PAIRS = 15 * 5_010, 392_702
_LENGTH_BESIDE_ENGLISH = 1.09  # over seven languages, benchmarks/evaluation_cost.py


def _numerics(results: Sequence[tuple[Case, list[Result]]]) -> list[str]:
    lines = ["## Numerics", ""]
    for case, answers in results:
        answer = _latest(answers)
        if answer["status"] != "measured":
            lines += [f"{case.label}: {_reason(answers)}", ""]
            continue
        lines += [
            f"{case.label}: relative errors against fp32 on padded batches, the same weights and examples; means over "
            f"{answer['num_batches']} batches of {answer['examples']}. An arithmetic passes with at most "
            f"{answer['tolerated']} times the error of the stock gradients.",
            "",
            "| arithmetic | loss | all gradients | worst matrix | |",
            "|---|---|---|---|---|",
        ]
        stock = next((row.get("gradients") for row in answer["rows"] if row["variant"].startswith("stock")), None)
        for row in answer["rows"]:
            if "reason" in row:
                lines.append(f"| {row['variant']} | {row['reason']} | | | |")
                continue
            passes = "" if stock is None or row["gradients"] == stock else "passes"
            if passes and not row["gradients"] <= answer["tolerated"] * (stock or 0.0):
                passes = "worse than stock"
            errors = " | ".join(f"{row[name]:.1e}" for name in ("loss", "gradients", "worst_matrix"))
            lines.append(f"| {row['variant']} | {errors} | {passes} |")
        lines.append("")
    return lines[:-1]


def _overhead(results: Sequence[tuple[Case, list[Result]]]) -> list[str]:
    lines = [
        "## Our loop beside bare PyTorch",
        "",
        "The same model and micro-batches in one process, step by step by turns; by how much our loop takes longer: "
        "median and 95 % interval over pairs of steps.",
        "",
        "| configuration | bare step, ms | wall time | interval | processor time | interval | tokens a step | pairs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, answers in results:
        answer = _latest(answers)
        if answer["status"] != "measured":
            lines.append(f"| {case.label} | {_reason(answers)} | | | | | | |")
            continue
        wall, processor = answer["wall"], answer["processor"]
        lines.append(
            f"| {case.label} | {wall['bare_seconds'][1] * 1e3:,.0f} | {wall['overhead']:+.1%} | {_interval(wall)} | "
            f"{processor['overhead']:+.1%} | {_interval(processor)} | {answer['tokens']:,} | {answer['pairs']} |"
        )
    return lines


def _interval(times: Result) -> str:
    return f"[{times['interval'][0]:+.1%}, {times['interval'][1]:+.1%}]"


def _losses(results: Sequence[tuple[Case, list[Result]]]) -> list[str]:
    lines = ["## Losses of 200 steps", ""]
    for case, answers in results:
        answer = _latest(answers)
        if answer["status"] != "measured":
            lines += [f"{case.label}: {_reason(answers)}", ""]
            continue
        lines += [
            f"{answer['task']}, {case.steps} steps of {case.batch} examples, size {case.size}, "
            f"{json.dumps(answer['settings'])}: differences of two curves; smoothed = of running means over "
            f"{answer['smoothed_over']} steps.",
            "",
            "| curve | beside | mean | largest | smoothed, largest | first loss | last losses |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in answer["rows"]:
            lines.append(
                f"| {row['curve']} | {row['beside']} | {row['mean']:.1e} | {row['largest']:.1e} | "
                f"{row['smoothed_largest']:.1e} | {row['first_loss']:.4f} | {row['last_loss']:.4f} and "
                f"{row['last_loss_beside']:.4f} |"
            )
        lines.append("")
    return lines[:-1]


def _anatomies(results: Sequence[tuple[Case, list[Result]]]) -> list[str]:
    """A short table for each traced step."""
    lines: list[str] = []
    for case, answers in results:
        found = next((answer["anatomy"] for answer in answers if answer.get("anatomy")), None)
        if found:
            lines += ["", f"### One step of {case.label}", "", *anatomy_table(found)]
    return ["## Where a step's time goes", *lines] if lines else []


def anatomy_table(anatomy: Result) -> list[str]:
    """Time, launches and bytes by kind, of one traced step. The profiler itself slows the host down."""
    wall = anatomy["wall_milliseconds"]
    lines = ["| kind | ms | share | launches | GB read and written |", "|---|---|---|---|---|"]
    for kind in sorted(anatomy["milliseconds"], key=lambda kind: -anatomy["milliseconds"][kind]):
        time = anatomy["milliseconds"][kind]
        size = anatomy["gigabytes"].get(kind, math.nan)
        lines.append(
            f"| {kind} | {time:,.1f} | {time / wall:.1%} | {anatomy['launches'][kind]:,} | "
            f"{'' if math.isnan(size) else f'{size:,.3f}'} |"
        )
    idle = anatomy["idle_milliseconds"]
    lines.append(f"| idle | {idle:,.1f} | {idle / wall:.1%} | | |")
    lines.append(f"| all | {wall:,.1f} | | {sum(anatomy['launches'].values()):,} | |")
    return [*lines, "", f"The host waits for the device {anatomy['num_synchronisations']} times."]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _latest(answers: Sequence[Result]) -> Result:
    return answers[-1] if answers else {"status": "not run", "reason": "not reached yet"}


def _reason(answers: Sequence[Result]) -> str:
    answer = _latest(answers)
    return f"**{answer['status']}**: {answer.get('reason', '')}".replace("|", "/").replace("\n", " ")


def main() -> None:
    """Write the page of a JSON file anew."""
    path = Path(sys.argv[1])
    found = json.loads(path.read_text())
    results = [(Case(**row["case"]), row["answers"]) for row in found.pop("results")]
    path.with_suffix(".md").write_text(_page(found, results, path.name))


if __name__ == "__main__":
    main()
