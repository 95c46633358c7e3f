"""Saves and loads the training state of a model whose size is felt, and tells this process's memory at each, in MB.

Each figure is how far the peak rose above what was resident before. One engine after another, since starting a process
costs more than most of it.
"""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_run import ARCHITECTURE, make_plan, make_request, run_loop, run_worker

from xlt_scale.checkpoint.background import BackgroundWriter
from xlt_scale.checkpoint.training_state import StagedState, load_training_state, open_together, state_checksums
from xlt_scale.engines.build import build_engine
from xlt_scale.engines.interface import Engine, EngineRequest
from xlt_scale.engines.world import World
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.weights import FreshWeights


def rise(action: Callable[[], None]) -> float:
    gc.collect()
    # Sets the high-water mark to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    action()
    return _status("VmHWM") - before


def _status(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


class Saved:
    """An engine, and the folder that its states are saved in."""

    def __init__(self, engine: Engine, request: EngineRequest, folder: Path) -> None:
        self.engine, self.request, self.folder = engine, request, folder
        self._background = BackgroundWriter(request.world)
        self._staged: StagedState | None = None

    def save(self) -> None:
        StagedState(self.engine, self.request.parameters, copy=False).write(self.request.world, self.folder, {})

    def load(self) -> None:
        reader = open_together(self.request.world, self.folder)
        load_training_state(self.engine, reader, self.request.parameters)
        reader.close()

    def save_while_training(self) -> None:
        staged = StagedState(self.engine, self.request.parameters, copy=True)

        def write(world: World) -> None:
            staged.write(world, self.folder, {})

        self._background.start(write)
        self.train()
        outcome = self._background.wait()
        assert outcome is not None and not outcome.problem, outcome

    def train(self) -> None:
        run_loop(self.engine, self.request, num_steps=1)

    def checksums(self) -> dict[str, int]:
        keys = [f"{kind}/{name}" for kind in ("param", "exp_avg", "exp_avg_sq") for name in self.request.parameters]
        return state_checksums(self.engine, keys)


def work(world: World, job: dict[str, Any]) -> dict[str, Any]:
    return {name: measure(world, name, job) for name in job["engines"]}


def measure(world: World, engine_name: str, job: dict[str, Any]) -> dict[str, Any]:
    heads = [HeadSpec("pairs", "classification", 3)]
    plan = make_plan(ARCHITECTURE | job["architecture"])
    request = make_request(world, {"name": engine_name}, {"mixture": {"pairs": 1.0}}, plan, heads)
    engine = build_engine(request)
    engine.load_parameters(FreshWeights(request.parameters, 1))
    saved = Saved(engine, request, Path(job["folder"]))
    # The first step allocates what stays.
    saved.train()
    rises: dict[str, Any] = {"save": rise(saved.save)}
    expected = saved.checksums()
    rises["train"] = rise(saved.train)
    rises["changed"] = saved.checksums() != expected
    rises["load"] = rise(saved.load)
    rises["arrived"] = saved.checksums() == expected
    rises["save_while_training"] = rise(saved.save_while_training)
    ranges = StagedState(engine, request.parameters, copy=False).ranges
    rises["shard"] = 4 * sum(stop - start for start, stop in ranges.values()) / 2**20
    engine.destroy()
    return rises


if __name__ == "__main__":
    run_worker(work)
