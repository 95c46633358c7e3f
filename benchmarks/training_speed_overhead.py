"""What our loop and engine cost over a loop that is written by hand in bare PyTorch, step by step in one process.

Both train the same model on the same micro-batches: our loop ends a step, the bare loop does the same one, and so on.
So whatever slows the machine down slows both. The bare loop finds its micro-batches ready made. Processor time is given
beside wall time: on a machine that does other work as well it is the steadier one.
"""

import time
from typing import Any

import numpy as np
import torch
from torch import nn
from training_speed_cases import Case
from training_speed_clock import quartiles
from training_speed_lengths import make_data
from training_speed_ours import (
    CLIPPING,
    LEARNING_RATE,
    WEIGHT_DECAY,
    DrawnWeights,
    build,
    make_request,
    make_training,
    micro_batches_of,
)
from training_speed_stock import MasterWeights

from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.interface import EngineRequest
from xlt_scale.engines.world import join_world
from xlt_scale.training.loop import train


class BareLoop:
    """Forward, backward, clip, AdamW: nothing else. In bf16 with fp32 masters, as both engines have them."""

    def __init__(self, request: EngineRequest, seed: int) -> None:
        device = request.world.device
        self._device = device
        with torch.device(device):
            self._model = request.build_model()
        self._model.tie()
        source = DrawnWeights(request.parameters, seed)
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                source.read_into(parameter.view(-1), name, 0)
        self._masters = None
        if request.precision == "bf16":
            self._model.to(torch.bfloat16)
            self._masters = MasterWeights(self._model)
        self._stepped: nn.Module = self._masters.module if self._masters else self._model
        parameters = list(self._stepped.parameters())
        matrices = [parameter for parameter in parameters if parameter.dim() > 1]
        others = [parameter for parameter in parameters if parameter.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)
        self._model.train()

    def step(self, micro_batches: list[MicroBatch]) -> None:
        num_targets = sum(batch.num_targets for batch in micro_batches)
        for batch in micro_batches:
            loss = self._model(batch.to(self._device)) / num_targets
            loss.backward()
            if self._masters:
                self._masters.take_gradients()
        nn.utils.clip_grad_norm_(self._stepped.parameters(), CLIPPING)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._masters:
            self._masters.give_weights()


def measure(case: Case) -> dict[str, Any]:
    """Seconds of each step of both loops, and by how much ours take longer: median, and a 95 % interval of it."""
    world = join_world(case.device)
    request = make_request(case, world)
    engine = build(request, case.seed)
    bare = BareLoop(request, case.seed)
    num_steps = case.warmup + case.steps
    data = make_data(case, num_steps * case.batch)
    ready = [micro_batches_of(case, data, step) for step in range(num_steps)]
    ours, theirs = _Times(), _Times()
    ours.begin()

    def step_ended() -> None:
        _wait(world.device)
        ours.end()
        theirs.begin()
        bare.step(ready[len(theirs.wall)])
        _wait(world.device)
        theirs.end()
        ours.begin()

    training, _ = make_training(engine, request, case, data, num_steps, step_ended)
    train(training)
    overheads = {
        name: _overhead(np.array(mine[case.warmup :]), np.array(its[case.warmup :]))
        for name, mine, its in (("wall", ours.wall, theirs.wall), ("processor", ours.processor, theirs.processor))
    }
    return overheads | {"tokens": int(data.lengths.sum()) // num_steps, "pairs": case.steps}


class _Times:
    """Wall and processor seconds of step after step."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    def begin(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def end(self) -> None:
        self.wall.append(time.perf_counter() - self._began[0])
        self.processor.append(time.process_time() - self._began[1])


def _overhead(mine: np.ndarray, its: np.ndarray) -> dict[str, Any]:
    ratios = mine / its - 1
    return {
        "ours_seconds": quartiles(mine.tolist()),
        "bare_seconds": quartiles(its.tolist()),
        "overhead": float(np.median(ratios)),
        "interval": _interval_of_median(ratios),
        "milliseconds": float(np.median(mine - its) * 1e3),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _interval_of_median(values: np.ndarray, num_draws: int = 2_000) -> tuple[float, float]:
    """The bootstrap's 95 % interval."""
    drawn = np.random.default_rng(0).choice(values, (num_draws, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)
