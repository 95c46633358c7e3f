"""Learning-rate schedules as pure functions of the step."""

from math import cos, pi

from xlt_scale.config import PhaseOptions


def learning_rate_at(step: int, num_steps: int, phase: PhaseOptions) -> float:
    """The learning rate of optimiser step `step` (from 0): a linear rise over the warm-up, then the phase's schedule.

    The first step already learns, and 'linear' and 'cosine' reach 0 just after the last one.
    """
    warmup_steps = min(phase.warmup_steps, num_steps) or round(phase.warmup * num_steps)
    if step < warmup_steps:
        return phase.learning_rate * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    factor = {"constant": 1.0, "linear": 1.0 - progress, "cosine": (1.0 + cos(pi * progress)) / 2}[phase.schedule]
    return phase.learning_rate * factor
