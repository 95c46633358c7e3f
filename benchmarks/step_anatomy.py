"""Operations of one optimiser step by kind: launches, host synchronisations and bytes, for each layer and for the rest.

A GPU's step at a small batch is bound by these, and they can be counted without one. Two models are run whose depth
differs by one layer: the difference is what a layer costs. Sequences are of equal length, so that attention is one call
a layer, as it is with a variable-length kernel. On a CPU the innermost operators stand for kernels; what a compiler
fuses is not seen there, so leave compile off.

    python benchmarks/step_anatomy.py --case "engine=fsdp2 precision=bf16" --case "engine=zero3 precision=bf16"
"""

import argparse
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

from training_speed import run_case
from training_speed_cases import Case, read_cases
from training_speed_trace import KINDS

from xlt_scale.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", default=[], metavar="'NAME=VALUE ...'", help="as training_speed.py")
    parser.add_argument("--depth", type=int, default=2, help="layers of the shallower model")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--operators", type=int, default=12, help="how many operators of a layer to name")
    arguments = parser.parse_args()
    base = Case(device="auto", batch=32, budget=4096, micro_batch=32, lengths="even", steps=1, warmup=3, trace=True)
    try:
        cases = [case for text in arguments.case or [""] for case in read_cases(text, base)]
    except UserError as error:
        sys.exit(f"error: {error}")
    for case in cases:
        sizes = [f"{depth}x{arguments.width}" for depth in (arguments.depth, arguments.depth + 1)]
        answers = [run_case(replace(case, size=size, trace=True), 600) for size in sizes]
        print(f"\n## {replace(case, size=sizes[0]).label}, {case.batch * 40} tokens\n")
        failed = next((answer for answer in answers if answer["status"] != "measured"), None)
        if failed:
            print(f"{failed['status']}: {failed.get('reason', '')}")
            continue
        shallow, deep = (answer["anatomy"] for answer in answers)
        for line in _table(shallow, deep, arguments.depth, arguments.operators):
            print(line, flush=True)


def _table(shallow: dict[str, Any], deep: dict[str, Any], depth: int, num_operators: int) -> list[str]:
    """What a layer costs, and what is left of a step without its layers."""
    lines = ["| kind | launches a layer | launches beside | MB a layer | MB beside |", "|---|---|---|---|---|"]
    total = [0, 0, 0.0, 0.0]
    for kind in (*KINDS, "other"):
        figures = [
            *_split(shallow["launches"].get(kind, 0), deep["launches"].get(kind, 0), depth),
            *_split(1e3 * shallow["gigabytes"].get(kind, 0), 1e3 * deep["gigabytes"].get(kind, 0), depth),
        ]
        total = [a + b for a, b in zip(total, figures, strict=True)]
        lines.append("| " + " | ".join([kind, *(f"{figure:,.0f}" for figure in figures)]) + " |")
    lines.append("| " + " | ".join(["all", *(f"{figure:,.0f}" for figure in total)]) + " |")
    waits = _split(shallow["num_synchronisations"], deep["num_synchronisations"], depth)
    layer = Counter(deep["operators"])
    layer.subtract(shallow["operators"])
    names = ", ".join(f"{name} {count}" for name, count in layer.most_common(num_operators) if count > 0)
    beside = Counter(shallow["operators"])
    beside.subtract({name: depth * count for name, count in layer.items()})
    others = ", ".join(f"{name} {count}" for name, count in beside.most_common(num_operators) if count > 0)
    return [
        *lines,
        "",
        f"Host synchronisations: {waits[0]} a layer, {waits[1]} beside. MB: without matrix products and attention.",
        f"A layer: {names}.",
        f"Beside: {others}.",
    ]


def _split(shallow: float, deep: float, depth: int) -> tuple[float, float]:
    """Of a layer, and of the rest."""
    return deep - shallow, shallow - depth * (deep - shallow)


if __name__ == "__main__":
    main()
