"""What is drawn at each step: streams of examples and how often each comes.

A stream is a task, or one language of a task where languages are drawn by an exponent. Each step trains one stream.
"""

from collections.abc import Mapping

from xlt_scale.config import PhaseOptions


def stream_name(task: str, language: str) -> str:
    """What a stream is called that is one language of a task."""
    return f"{task}/{language}"


def stream_weights(phase: PhaseOptions, sizes: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """The share of the steps that each stream gets; they sum to one.

    Within a task, language l of n examples has weight n ** language_exponent (Conneau & Lample 2019, section 3.1).

    Args:
        sizes: of each task, the number of examples of each of its streams by the stream's name.
    """
    weights: dict[str, float] = {}
    for task, share in task_shares(phase, {task: sum(streams.values()) for task, streams in sizes.items()}).items():
        powers = {name: size**phase.language_exponent for name, size in sizes[task].items()}
        weights |= {name: share * power / sum(powers.values()) for name, power in powers.items()}
    return weights


def task_shares(phase: PhaseOptions, sizes: Mapping[str, int]) -> dict[str, float]:
    """The share of the steps that each task gets; they sum to one.

    Proportional mixing with a cap and its temperature are those of Raffel et al. 2020, section 3.5.2.

    Args:
        sizes: examples of each task.
    """
    main = {task: _weight(phase, task, sizes[task]) for task in phase.main_tasks}
    left = 1.0 - sum(phase.joint.values())
    return {task: left * weight / sum(main.values()) for task, weight in main.items()} | dict(phase.joint)


def _weight(phase: PhaseOptions, task: str, size: int) -> float:
    if isinstance(phase.mixture, dict):
        return phase.mixture.get(task, 1.0)
    capped = min(size, phase.mixing_cap or size)
    if phase.mixing == "uniform":
        return 1.0
    return float(capped) ** (1.0 / phase.mixing_temperature if phase.mixing == "temperature" else 1.0)
