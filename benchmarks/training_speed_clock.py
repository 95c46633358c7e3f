"""Times of steps without waiting for the device, and a profile of one step after the measured ones."""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from training_speed_cases import Case
from training_speed_lengths import Amount
from training_speed_trace import read_profiler, start_profiler


class StepClock:
    """Is told of the end of every step; knows afterwards how long each took.

    On a GPU the ends are events on its stream: the host runs ahead as it does in real training. On a CPU the process's
    own processor time is kept beside wall time. With a trace, the step after the measured ones is profiled.
    """

    def __init__(self, case: Case, device: torch.device) -> None:
        self._device, self._case = device, case
        self._ends: list[Any] = []
        self._processor: list[float] = []
        self._profiler: Any = None
        self.anatomy: dict[str, Any] | None = None

    @property
    def num_steps(self) -> int:
        """Steps to run: warm-up, measured ones, and those of the trace."""
        return self._case.warmup + self._case.steps + (2 if self._case.trace else 0)

    def step_ended(self) -> None:
        done = len(self._ends) + 1
        self._processor.append(time.process_time())
        measured = self._case.warmup + self._case.steps
        if self._profiler is not None:
            self._finish_profile()
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._ends.append(event)
        else:
            self._ends.append(time.perf_counter())
        if self._case.trace and done == measured:
            self._synchronise()
            self._profiler = start_profiler(self._device)

    def processor_seconds(self) -> list[float]:
        """Of each measured step, over all threads of this process."""
        return [end - begin for begin, end in itertools.pairwise(self._processor[self._measured_ends])]

    @property
    def _measured_ends(self) -> slice:
        first = self._case.warmup - 1
        return slice(first, first + self._case.steps + 1)

    def seconds(self) -> list[float]:
        """Of each measured step."""
        self._synchronise()
        ends = self._ends[self._measured_ends]
        if self._device.type == "cuda":
            return [begin.elapsed_time(end) / 1e3 for begin, end in itertools.pairwise(ends)]
        return [end - begin for begin, end in itertools.pairwise(ends)]

    def _finish_profile(self) -> None:
        self._synchronise()
        self._profiler.stop()
        self.anatomy = read_profiler(self._profiler).as_json()
        self._profiler = None

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def summary(case: Case, clock: StepClock, amounts: list[Amount], **further: Any) -> dict[str, Any]:
    """What a case's process answers: speeds per measured step, and what the steps computed."""
    seconds = clock.seconds()
    measured = amounts[case.warmup : case.warmup + case.steps]
    return further | {
        "seconds": seconds,
        "processor_seconds": clock.processor_seconds(),
        "tokens": [amount.tokens for amount in measured],
        "squared_lengths": [amount.squared_lengths for amount in measured],
        "computed_tokens": [amount.computed_tokens for amount in measured],
        "anatomy": clock.anatomy,
    }


def timed_passes(case: Case, amount: Amount, run: Callable[[], object]) -> dict[str, Any]:
    """The same answer for evaluation, where a pass over a data set is a step; `run` waits until all is done."""
    times = []
    for _ in range(case.warmup + case.steps):
        wall, processor = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    measured = times[case.warmup :]
    return {
        "seconds": [wall for wall, _ in measured],
        "processor_seconds": [processor for _, processor in measured],
        "tokens": [amount.tokens] * case.steps,
        "squared_lengths": [amount.squared_lengths] * case.steps,
        "computed_tokens": [amount.computed_tokens] * case.steps,
    }


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, median, third
