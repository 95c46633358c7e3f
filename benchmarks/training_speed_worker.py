"""One case in a process of its own: `python training_speed_worker.py CASE.json ANSWER.json`.

The answer always comes, unless the process is killed: what was measured, or the reason why not.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from training_speed_cases import Case

from xlt_scale.errors import UserError


def main() -> None:
    case = Case(**json.loads(Path(sys.argv[1]).read_text()))
    answer = Path(sys.argv[2])
    if case.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    found = answer_of(case)
    temporary = answer.with_suffix(".unfinished")
    temporary.write_text(json.dumps(found))
    temporary.rename(answer)


def answer_of(case: Case) -> dict[str, Any]:
    """What the case gives, or why it gives nothing."""
    try:
        return {"status": "measured", "hardware": hardware(case)} | measure(case)
    except torch.OutOfMemoryError as error:
        return {"status": "out of memory", "reason": str(error).splitlines()[0]}
    except UserError as error:
        return {"status": "not supported", "reason": str(error)}
    except ImportError as error:
        return {"status": "not supported", "reason": f"{error.name or 'a package'} is not installed: {error}"}
    except Exception as error:  # whatever a stack raises is a row of the table
        traceback.print_exc()
        first = next(iter(str(error).splitlines()), "")
        return {"status": "failed", "reason": f"{type(error).__name__}: {first[:300]}"}


def measure(case: Case) -> dict[str, Any]:
    if case.work == "numerics":
        from training_speed_numerics import measure as work
    elif case.work == "overhead":
        from training_speed_overhead import measure as work
    elif case.work == "losses":
        from training_speed_losses import measure as work
    elif case.is_ours:
        from training_speed_ours import measure_evaluation, measure_training

        work = measure_evaluation if case.work == "evaluate" else measure_training
    else:
        from training_speed_stock import measure_evaluation, measure_training

        work = measure_evaluation if case.work == "evaluate" else measure_training
    return work(case)


def hardware(case: Case) -> dict[str, Any]:
    """The device's name, and its dense bf16 peak in FLOP/s where it is known."""
    from xlt_scale.training.throughput import peak_flops

    if case.device == "cpu" or not torch.cuda.is_available():
        return {"device": "cpu", "peak_flops": None, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    return {"device": torch.cuda.get_device_name(), "peak_flops": peak_flops(torch.device("cuda", 0))}


if __name__ == "__main__":
    main()
