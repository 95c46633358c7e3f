"""What happens between the steps of a phase: scores on the dev set, checkpoints, and the weights it ends with."""

import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xlt_scale.checkpoint.background import BackgroundWriter, Outcome
from xlt_scale.checkpoint.finding import RESULT
from xlt_scale.checkpoint.manifest import ADAPTERS_ONLY
from xlt_scale.checkpoint.store import Retention, find_problem, list_checkpoints, step_folder, step_of
from xlt_scale.checkpoint.training_state import StagedState, load_weights, open_together, save_weights
from xlt_scale.checkpoint.writer import remove_checkpoint, remove_remains
from xlt_scale.engines.interface import Engine
from xlt_scale.engines.world import World
from xlt_scale.errors import TrainingError
from xlt_scale.training.environment import software
from xlt_scale.training.job import PhaseJob
from xlt_scale.training.loop import Progress
from xlt_scale.training.merging import save_merged
from xlt_scale.training.metrics import MetricsWriter
from xlt_scale.training.scoring import evaluator

Best = dict[str, Any]
"""The best dev score so far: {'step', 'value'}."""


class PhaseKeeper:
    """The `Keeper` of one phase (loop.py).

    Args:
        best: from the checkpoint that the phase goes on from.
    """

    def __init__(self, job: PhaseJob, engine: Engine, metrics: MetricsWriter, best: Best | None = None) -> None:
        self._job, self._engine, self._metrics = job, engine, metrics
        self._options = job.setup.options.checkpoints
        self._checkpoints = job.folder / "checkpoints"
        self._background = BackgroundWriter(job.setup.world)
        self._best = best
        self._saved_best = best
        self._saving: dict[str, Any] = {}
        self._last_saved = time.monotonic()

    def evaluate(self, step: int) -> None:
        if self._job.selection is None:
            return
        chosen = self._job.selection
        spec = chosen.spec
        metric, value = evaluator(self._job, self._engine).headline(spec, chosen.language, chosen.examples, chosen.data)
        phase = self._job.phase
        self._metrics.write({"phase": phase.name, "step": step, f"dev_{metric}": value, "task": spec.name})
        self._job.setup.announce(f"phase {phase.name}  step {step}  dev {metric} {value:.1f} ({spec.name})")
        if self._best is None or value > self._best["value"]:
            self._best = {"step": step, "value": value}

    def saves_at(self, step: int) -> bool:
        if step == self._job.num_steps:
            return False
        is_best = self._job.phase.keep == "best" and self._best is not None and self._best["step"] == step
        return is_best or bool(self._options.every and step % self._options.every == 0)

    def is_overdue(self) -> bool:
        return bool(self._options.minutes) and time.monotonic() - self._last_saved > 60 * self._options.minutes

    def save(self, progress: Progress) -> None:
        began = time.perf_counter()
        self._report(self._background.wait())  # one at a time
        keeps_best = self._job.phase.keep == "best"
        # The best weights whose own save has failed are not to be found again.
        is_of_this_step = self._best is not None and self._best["step"] == progress.step
        best = self._best if is_of_this_step or not keeps_best else self._saved_best
        facts = describe_checkpoint(self._job, progress, best)
        if self._job.phase.adapter is not None:
            facts[ADAPTERS_ONLY] = self._job.parent.origin
        folder = step_folder(self._checkpoints, progress.step)
        copied = self._options.asynchronous
        staged = StagedState(self._engine, self._job.saved_parameters, copy=copied)
        self._saving = {"step": progress.step, "best": best, "gigabytes": 0.0}
        kept_best = best["step"] if best is not None and keeps_best else None

        def write(world: World) -> None:
            manifest = staged.write(world, folder, facts)
            if world.is_main:
                self._saving["gigabytes"] = manifest.num_bytes / 1e9
                self._remove_old_ones(kept_best)

        self._background.start(write)
        outcome = None if copied else self._background.wait()
        self._saving["stall_seconds"] = time.perf_counter() - began
        self._report(outcome)
        self._last_saved = time.monotonic()

    def finish_saving(self) -> str:
        """
        Raises:
            TrainingError: nothing could be saved; on every rank.
        """
        step, outcome = self._saving["step"], self._background.wait()
        self._report(outcome)
        if outcome is not None and outcome.problem:
            raise TrainingError(
                f"phase {self._job.phase.name!r} was to stop at step {step} and could not be saved: {outcome.problem}; "
                "mend that, and the same command goes on from the newest checkpoint there is"
            )
        return f"phase {self._job.phase.name} is saved at step {step}, the same command goes on from there"

    def poll(self) -> None:
        self._report(self._background.poll())

    def result(self, progress: Progress) -> Path:
        """Save the weights that the phase ends with, and leave the engine with them; collective.

        Args:
            progress: after the last step.

        Raises:
            UserError: they cannot be saved, or the best ones cannot be read.
        """
        job = self._job
        self._report(self._background.wait())
        facts = describe_checkpoint(job, progress, self._best)
        if job.phase.keep == "best" and self._best is not None and self._best["step"] != job.num_steps:
            best = job.setup.world.share(lambda: self._saved_best)
            if best != self._best:
                job.setup.announce(
                    f"phase {job.phase.name}: the best weights, of step {self._best['step']}, could not be saved"
                )
            if best is not None:
                reader = open_together(job.setup.world, step_folder(self._checkpoints, best["step"]))
                load_weights(self._engine, reader, job.saved_parameters)
                reader.close()
                facts |= {key: reader.manifest.facts[key] for key in ("step", "position", "progress")}
        folder = job.folder / RESULT
        if job.phase.adapter is None:
            save_weights(self._engine, job.parameters, folder, facts)
        else:
            save_merged(job, self._engine, folder, facts)
        return folder

    def close(self, seconds: float = 60.0) -> None:
        """Give a write under way time to end: what training has failed for need not concern it."""
        # A rank that is gone is what training has failed for.
        with contextlib.suppress(RuntimeError):
            self._report(self._background.wait(seconds))

    def _remove_old_ones(self, best: int | None) -> None:
        whole = [step_of(folder) for folder in list_checkpoints(self._checkpoints) if not find_problem(folder)]
        for step in Retention(self._options.keep_last, self._options.keep_every).removable(whole, best):
            try:
                remove_checkpoint(step_folder(self._checkpoints, step))
            except OSError as error:
                self._saving["note"] = f"step-{step:08d} cannot be removed ({error.strerror})"

    def _report(self, outcome: Outcome | None) -> None:
        """Tell how a save ended; called by the training thread alone."""
        if outcome is None:
            return
        name, saving = self._job.phase.name, self._saving
        row = {"phase": name, "step": saving["step"], "write_seconds": outcome.seconds}
        row["stall_seconds"] = saving.get("stall_seconds", 0.0)
        if outcome.problem:
            self._metrics.write(row | {"checkpoint_failed": outcome.problem})
            self._job.setup.announce(f"phase {name}: not saved, training goes on: {outcome.problem}")
            return
        self._saved_best = saving["best"]
        if "note" in saving:
            self._job.setup.announce(f"phase {name}: {saving['note']}")
        self._metrics.write(row | {"checkpoint": f"step-{saving['step']:08d}", "gigabytes": saving["gigabytes"]})


def remove_training_checkpoints(phase_folder: Path, keep_every: int) -> None:
    """Remove what was for going on within a phase that is finished now, and what interrupted saves have left of it, but
    for the checkpoints of every `keep_every`-th step. Called on rank 0.
    """
    checkpoints = phase_folder / "checkpoints"
    for path in list_checkpoints(checkpoints):
        if not keep_every or step_of(path) % keep_every:
            # One that may not be removed is in nobody's way.
            with contextlib.suppress(OSError):
                remove_checkpoint(path)
    for folder in (phase_folder, checkpoints):
        remove_remains(folder)


def describe_checkpoint(job: PhaseJob, progress: Progress, best: Best | None) -> dict[str, Any]:
    """What a manifest says beside its tensors (docs/checkpoints.md)."""
    setup, phase = job.setup, job.phase
    heads = [vars(head) | {"labels": job.setup.labels_of(head.name)} for head in job.heads]
    return {
        "phase": phase.name,
        "hash": job.hash,
        "identity": job.identity,
        "step": progress.step,
        "num_steps": job.num_steps,
        "position": {
            task: {"steps": steps, "epoch": steps * phase.batch_size / len(job.streams[task].data)}
            for task, steps in progress.steps_of_tasks.items()
        },
        "progress": {
            "examples": progress.step * phase.batch_size,
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            "device_seconds": progress.device_seconds,
            "flops": progress.flops,
        },
        "best": best,
        "schedule": {"name": phase.schedule, "warmup": phase.warmup, "learning_rate": phase.learning_rate},
        "seed": job.seed,
        "model": setup.plan.config.to_dict(),
        "heads": heads,
        "tokenizer": setup.options.model.tokenizer or setup.options.model.name,
        "engine": setup.options.engine.name,
        "world_size": setup.world.size,
        "precision": setup.precision,
        "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **software(),
    }
