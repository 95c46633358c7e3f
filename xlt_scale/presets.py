"""Hyper-parameters that the benchmarks' own scripts prescribe, by name and by the task that is trained.

`jiant`: those of X-STILTs' code (nyu-mll/jiant @daa5a258, its XTREME run configurations): warm-up over a tenth of the
steps, clipping at 1; jiant clips after every backward pass, this toolkit once per step on the accumulated gradient.
`xtreme`: those of the scripts for XLM-R Large (google-research/xtreme @838c13b, scripts/train_*.sh).
"""

from typing import Any

from xlt_scale.errors import UserError, nearest

Fields = dict[str, Any]


def _row(epochs: float, batch_size: int, max_length: int, learning_rate: float) -> Fields:
    return {"epochs": epochs, "batch_size": batch_size, "max_length": max_length, "learning_rate": learning_rate}


_QUESTIONS = _row(3.0, 32, 384, 3e-5) | {"warmup_steps": 500, "weight_decay": 1e-4}

PRESETS: dict[str, tuple[Fields, dict[str, Fields]]] = {
    "jiant": (
        {"warmup": 0.1, "gradient_clipping": 1.0, "epsilon": 1e-8},
        {
            "mnli": _row(2.0, 32, 256, 1e-5),
            "pawsx": _row(5.0, 32, 256, 1e-5),
            "udpos": _row(10.0, 32, 256, 1e-5),
            "panx": _row(10.0, 32, 256, 1e-5),
            "squad": _row(2.0, 16, 384, 1e-5),
            "tydiqa": _row(2.0, 16, 384, 1e-5),
        },
    ),
    "xtreme": (
        {"warmup": 0.0, "weight_decay": 0.0, "gradient_clipping": 1.0, "epsilon": 1e-8},
        {
            "mnli": _row(5.0, 32, 128, 3e-5),
            "pawsx": _row(5.0, 32, 128, 2e-5),
            "udpos": _row(10.0, 32, 128, 2e-5),
            "panx": _row(10.0, 32, 128, 2e-5),
            "squad": _QUESTIONS,
            "tydiqa": _QUESTIONS,
            "siqa": _row(5.0, 32, 128, 3e-5),
            "copa": _row(5.0, 32, 128, 3e-5),
            "squad-retrieval": _row(3.0, 16, 256, 2e-5),
            "mewslix": _row(2.0, 32, 64, 1e-5),
        },
    ),
}
"""By name: what holds for every task, and what for each."""


def apply_preset(phase: Fields, place: str) -> None:
    """Fill in the fields that the phase's preset prescribes and that the phase itself does not say.

    Raises:
        UserError: no such preset, or it says nothing about the phase's task.
    """
    name, task = phase.get("preset", ""), phase.get("task", "")
    if not name or not isinstance(name, str) or not isinstance(task, str):
        return  # values of another type are refused with all others
    if name not in PRESETS:
        raise UserError(f"{place}: preset {name!r} is unknown; {nearest(name, PRESETS)}")
    common, by_task = PRESETS[name]
    if task not in by_task:
        what = f"task {task!r}" if task else "a phase without `task`"
        known = ", ".join(sorted(by_task))
        raise UserError(f"{place}: preset {name!r} says nothing about {what}, but of {known}; remove it")
    prescribed = common | by_task[task]
    # Two ways of saying one thing: what the phase says of either stands.
    for said, instead in (("steps", "epochs"), ("warmup", "warmup_steps")):
        if said in phase:
            prescribed.pop(instead, None)
    for key, value in prescribed.items():
        phase.setdefault(key, value)
