"""Builds engines for a model whose size is felt, fills them from published files, and tells this process's memory at
each stage, in MB. One engine after another, since starting a process costs more than most of it.

Peaks since 'before', but after 'destroyed', which is what is still there then.
"""

import gc
from pathlib import Path
from typing import Any

from small_run import ARCHITECTURE, make_plan, make_request, run_loop, run_worker

from xlt_scale.engines.build import build_engine
from xlt_scale.engines.world import World
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.weights import FirstOf, FreshWeights, PretrainedWeights


def peak() -> float:
    return _status("VmHWM")


def _status(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def work(world: World, job: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {name: measure(world, {"name": name}, job) for name in job["engines"]}


def measure(world: World, engine_options: dict[str, Any], job: dict[str, Any]) -> dict[str, float]:
    # A small model first: libraries are loaded, buffers allocated and compiled ops built by what is not measured.
    small = build_engine(make_request(world, engine_options))
    small.destroy()
    del small
    heads = [HeadSpec("pairs", "classification", 3)]
    plan = make_plan(ARCHITECTURE | job["architecture"])
    request = make_request(world, engine_options, {"mixture": {"pairs": 1.0}}, plan, heads)
    gc.collect()
    # Sets the high-water mark to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    stages = {"before": peak()}
    if engine_options["name"] == "zero3":
        import deepspeed

        initialize = deepspeed.initialize

        def noting(*arguments: Any, **named: Any) -> Any:
            stages["constructed"] = peak()
            return initialize(*arguments, **named)

        deepspeed.initialize = noting
    engine = build_engine(request)
    stages.setdefault("constructed", peak())
    published = PretrainedWeights(Path(job["published"]), request.parameters, plan.prefix)
    engine.load_parameters(FirstOf([published, FreshWeights(request.parameters, 1)]))
    stages["loaded"] = peak()
    run_loop(engine, request, num_steps=1)
    engine.destroy()
    del engine
    stages["destroyed"] = _status("VmRSS")
    stages["model"] = sum(4 * spec.numel for spec in request.parameters.values()) / 2**20
    stages["largest"] = max(4 * spec.numel for spec in request.parameters.values()) / 2**20
    return stages


if __name__ == "__main__":
    run_worker(work)
