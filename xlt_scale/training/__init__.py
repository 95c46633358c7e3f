"""The training loop, optimiser groups, schedules, metrics and the phases of a run."""
