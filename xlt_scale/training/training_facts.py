"""What the training of a phase cost and how it went: kept in phase.json, from where a study's records have it."""

import json
from pathlib import Path
from typing import Any

from xlt_scale.engines.deepspeed_config import quantised_communication
from xlt_scale.training.environment import describe_environment
from xlt_scale.training.job import PhaseJob
from xlt_scale.training.loop import Progress
from xlt_scale.training.throughput import peak_flops, peak_memory_gib

_MOST_POINTS = 60
"""Points of a learning curve that are kept; the whole is in metrics.jsonl."""


def training_facts(job: PhaseJob, progress: Progress) -> dict[str, Any]:
    """Steps, tokens, floating-point operations, time, memory, MFU, software and learning curve of a phase; collective.

    Times and counts are of all starts of the phase together, world size, hardware and software of the last one.
    `memory_gib` is the most that any rank has held in the last start. A phase without training has zeros.
    """
    setup, world = job.setup, job.setup.world
    peak = peak_flops(world.device)
    memory = max(held for held in world.gather(peak_memory_gib(world.device)) if isinstance(held, float))
    mfu = None
    if peak is not None and progress.device_seconds:
        mfu = progress.flops / (progress.device_seconds * peak)
    encoder = [spec for name, spec in job.result_parameters.items() if name.startswith("encoder.")]
    request = job.engine_request()
    return {
        "steps": progress.step,
        "examples": progress.step * job.phase.batch_size,
        "tokens": progress.tokens,
        "flops": progress.flops,
        "seconds": progress.seconds,
        "device_seconds": progress.device_seconds,
        "memory_gib": memory,
        "mfu": mfu,
        "engine": setup.options.engine.name,
        "precision": setup.precision,
        "attention": "unpadded" if setup.plan.unpadded else "padded",
        "quantised_communication": quantised_communication(setup.options.engine),
        "float8": setup.options.engine.float8,
        "num_parameters": sum(spec.numel for spec in encoder),
        "num_non_embedding_parameters": sum(spec.numel for spec in encoder if not spec.is_embedding),
        "num_trained_parameters": sum(spec.numel for name, spec in job.parameters.items() if request.is_trained(name)),
        "adapter": job.phase.adapter.label if job.phase.adapter else "",
        "model_type": setup.plan.config.model_type,
        "options": job.phase.model_dump(mode="json"),
        "environment": describe_environment(world, device_type=world.device.type),
        "curve": _curve(setup.folder / "metrics.jsonl", job.phase.name) if world.is_main else [],
    }


def _curve(metrics: Path, phase: str) -> list[dict[str, Any]]:
    """Step, loss and dev score of the phase's logged rows, evenly thinned; the first and the last row stay."""
    losses, scores = [], []
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else ():
        row = json.loads(line)
        if row.get("phase") != phase:
            continue
        dev = next((value for name, value in row.items() if name.startswith("dev_")), None)
        if "loss" in row:
            losses.append({"step": row["step"], "loss": row["loss"]})
        elif dev is not None:
            scores.append({"step": row["step"], "dev": dev})
    if len(losses) > _MOST_POINTS:
        last = len(losses) - 1
        losses = [losses[round(number * last / (_MOST_POINTS - 1))] for number in range(_MOST_POINTS)]
    return losses + scores
