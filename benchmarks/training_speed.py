"""How fast training and evaluation are, beside the stock stack, on this machine.

    python benchmarks/training_speed.py --suite cpu
    python benchmarks/training_speed.py --suite gpu-quick --minutes 9 --output results
    python benchmarks/training_speed.py --suite none --case "budget=8192,16384,32768 compile=false,true size=xlmr-large"

Each configuration runs in a process of its own, so that one that runs out of memory does not end the rest; numerics
come first, then the configurations by turns, as often as `--repeats` says. What cannot be measured is a row with its
reason. The result file, named by hardware and date, is written anew after every configuration. docs/speed.md explains
the figures.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from training_speed_cases import CHOICES, Case, read_cases, suite, suite_names
from training_speed_report import speed_of, write_report

from xlt_scale.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
_LEAST_SECONDS = 20  # with less left, no configuration is begun


def main() -> None:
    arguments = _parser().parse_args()
    try:
        cases = chosen_cases(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    command = shlex.join(["python", "benchmarks/training_speed.py", *sys.argv[1:]])
    deadline = time.monotonic() + arguments.minutes * 60
    results: list[tuple[Case, list[dict[str, Any]]]] = [(case, []) for case in cases]
    page = Path()
    for repetition in range(arguments.repeats):
        for case, answers in results:
            if repetition and case.work not in ("train", "evaluate"):
                continue
            answer = run_case(case, min(arguments.seconds, deadline - time.monotonic()))
            answers.append(answer)
            print(f"{case.label}: {_in_short(case, answers)}", flush=True)
            page, _ = write_report(arguments.output, arguments.name, command, results, arguments.notes)
    print(f"results: {page}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=suite_names(), default="cpu")
    parser.add_argument(
        "--case",
        action="append",
        default=[],
        metavar="'NAME=VALUE[,VALUE] ...'",
        help="further cases, every combination of the values; names are those of Case in training_speed_cases.py: "
        + ", ".join(f"{name} ({'/'.join(values)})" for name, values in CHOICES.items()),
    )
    parser.add_argument("--only", default="", help="of the suite the cases whose label has this in it")
    parser.add_argument("--set", default="", metavar="'NAME=VALUE ...'", help="options of every case of the suite")
    parser.add_argument("--minutes", type=float, default=60, help="no configuration is begun after so long")
    parser.add_argument("--seconds", type=float, default=300, help="a configuration is ended after so long")
    parser.add_argument("--repeats", type=int, default=1, help="how often the list is gone through")
    parser.add_argument("--notes", default="", help="a sentence for the result file: what else the machine did")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "training_speed")
    parser.add_argument("--name", default="training_speed", help="how the result files' names begin")
    return parser


def chosen_cases(arguments: argparse.Namespace) -> list[Case]:
    """The suite's cases with what `--set` changes, then those of `--case`.

    Raises:
        UserError: an option or value is unknown.
    """
    cases = [case for case in suite(arguments.suite, Case()) if arguments.only in case.label]
    if arguments.set:
        names = [part.partition("=")[0] for part in arguments.set.split()]
        given = read_cases(arguments.set, Case())[0]
        cases = [replace(case, **{name: getattr(given, name) for name in names}) for case in cases]
    for text in arguments.case:
        cases += read_cases(text, Case())
    for case in cases:
        _ = case.shape
    return cases


def run_case(
    case: Case,
    seconds: float,
    worker: Path = ROOT / "benchmarks" / "training_speed_worker.py",
    environment: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """What a process of its own answers, or why there is no answer.

    Args:
        worker: the script that the process runs.
        environment: of the process, beside this one's.
    """
    if seconds < _LEAST_SECONDS:
        return {"status": "not run", "reason": "no time was left"}
    with tempfile.TemporaryDirectory() as folder:
        file, answer, log = (Path(folder) / name for name in ("case.json", "answer.json", "log.txt"))
        file.write_text(json.dumps(case.as_json()))
        command = [sys.executable, str(worker), str(file), str(answer)]
        path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                env=os.environ | {"PYTHONPATH": path} | dict(environment),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                return {"status": "not finished", "reason": f"ended after {seconds:.0f} s"}
            finally:
                process.kill()
                process.wait()
        if answer.exists():
            found: dict[str, Any] = json.loads(answer.read_text())
            if found["status"] == "failed":
                print("\n".join(log.read_text().splitlines()[-8:]), file=sys.stderr)
            return found
        what = f"by signal {-status}" if status < 0 else f"with status {status}"
        last = (log.read_text().splitlines() or [""])[-1]
        return {"status": "failed", "reason": f"the process ended {what}: {last[:200]}"}


def _in_short(case: Case, answers: list[dict[str, Any]]) -> str:
    answer = answers[-1]
    if answer["status"] != "measured":
        return f"{answer['status']}: {answer.get('reason', '')}"
    if case.work not in ("train", "evaluate"):
        return "done"
    speed = speed_of(case, [answer])
    mfu = "" if speed["mfu"] is None else f", MFU {speed['mfu']:.1%}"
    return f"{speed['tokens_per_second']:,.0f} tokens/s{mfu}, {speed['memory_gib']:.1f} GiB"


if __name__ == "__main__":
    main()
