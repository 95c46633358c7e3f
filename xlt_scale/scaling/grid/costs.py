"""What a study will roughly cost: devices, seconds and bytes, from shapes and counts before anything has run.

A rough figure on purpose: lengths are guessed by the kind of task and speed by the kind of device. As soon as phases of
a kind have run, their measured seconds take its place.
"""

import os
import shutil
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from xlt_scale.config import PhaseOptions, RunOptions
from xlt_scale.data.prepare import data_source
from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.design import PlannedPhase, StudyGrid
from xlt_scale.scaling.grid.jobs import Placement
from xlt_scale.scaling.grid.model_shape import ModelShape, model_shape
from xlt_scale.study_config import ResourceOptions
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.loading import DataSource, available_languages, load_examples
from xlt_scale.tasks.spec import TaskSpec

GIB = 2**30
# fp32 masters, two moments and a gradient, and bf16 weights beside them (Rajbhandari et al. 2020, section 3.1, has the
# count for mixed precision); 8-bit moments take two bytes in place of eight.
_BYTES_OF_STATE = {"adamw": 18, "adamw_8bit": 12}
_SHARE_FOR_STATE = 0.8
_ACTIVATIONS = 6 * GIB
_MOST_PER_DEVICE = 4
_UNKNOWN_EXAMPLES = 100_000
_SCORED_ITEMS = 2_000
_SECONDS_PER_PHASE = 1.0
# Tokens of an example, where the kind of task is all that is known; never more than the phase's maximum.
_TOKENS = {
    "masked_language_modeling": 128,
    "classification": 45,
    "regression": 45,
    "multiple_choice": 240,
    "span": 220,
    "tagging": 30,
    "dual_encoding": 160,
    "retrieval": 25,
    "bitext_mining": 25,
}
_MICRO_TOKENS = 14


@dataclass
class CostModel:
    """Rough costs of a grid's phases.

    Attributes:
        measured: seconds of phases that have run, by `kind_of`; taken where there are any.
        guesses: what had to be assumed, once each.
    """

    grid: StudyGrid
    measured: Mapping[str, list[float]] = field(default_factory=dict)
    guesses: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._counts: dict[tuple[str, str, str], int] = {}
        self._shapes = {size: model_shape(run.model) for size, run in self.grid.runs.items()}
        self._catalogues = {size: load_catalogue(run.tasks) for size, run in self.grid.runs.items()}
        for size, shape in self._shapes.items():
            if shape is None:
                self._guess(f"{size}: the model's shape is not known here; counted as free, on one device")

    def num_parameters(self) -> list[int]:
        """Of each size whose shape is known."""
        return [shape.num_parameters for shape in self._shapes.values() if shape is not None]

    def placements(self) -> dict[str, Placement]:
        """Devices and bytes of each size's runs.

        Raises:
            UserError: a batch has fewer examples than the size needs devices.
        """
        study = self.grid.study
        wanted = {size.name: size.devices for size in study.sizes}
        return {
            name: _placement(name, shape, wanted[name], self._optimizer(name), study.resources)
            for name, shape in self._shapes.items()
        }

    def seconds(self, phase: PlannedPhase, devices: int = 1) -> float:
        """Of training and scoring, by one process start that is already there."""
        known = self.measured.get(kind_of(phase))
        if known:
            return statistics.median(known)
        shape, run = self._shapes[phase.size], self.grid.runs[phase.size]
        if shape is None:
            return _SECONDS_PER_PHASE
        catalogue, options = self._catalogues[phase.size], phase.options
        trained = self._trained_tokens(run, catalogue, options)
        scored = sum(
            _SCORED_ITEMS
            * max(1, len(options.evaluate_languages) or len(catalogue[task].languages) or 8)
            * _tokens(catalogue[task], run, options)
            for task in options.evaluate
        )
        flops = shape.num_non_embedding_parameters * (6 * trained + 2 * scored)
        return flops / (devices * 1e12 * self.teraflops_per_device) + _SECONDS_PER_PHASE

    @property
    def teraflops_per_device(self) -> float:
        return self.grid.study.resources.teraflops_per_device or (300.0 if has_gpu() else 0.03)

    def all_seconds(self, placements: Mapping[str, Placement]) -> dict[str, float]:
        return {name: self.seconds(phase, placements[phase.size].devices) for name, phase in self.grid.phases.items()}

    def _optimizer(self, size: str) -> str:
        return next((phase.options.optimizer for phase in self.grid.phases.values() if phase.size == size), "adamw")

    def _trained_tokens(self, run: RunOptions, catalogue: Mapping[str, TaskSpec], options: PhaseOptions) -> float:
        if not options.trains:
            return 0.0
        shares = _shares(options)
        per_example = sum(share * _tokens(catalogue[task], run, options) for task, share in shares.items())
        if options.steps:
            return options.steps * options.batch_size * per_example
        num_examples = sum(
            self._num_examples(run, catalogue[task], language, options)
            for task in options.main_tasks
            for language in options.languages_of(task) or [catalogue[task].source_language]
        )
        return options.epochs * num_examples * per_example / (1.0 - sum(options.joint.values()))

    def _num_examples(self, run: RunOptions, spec: TaskSpec, language: str, options: PhaseOptions) -> int:
        key = (spec.name, language, options.train_split)
        if key not in self._counts:
            self._counts[key] = self._count(run, spec, language, options)
        return min(self._counts[key], options.max_examples or self._counts[key])

    def _count(self, run: RunOptions, spec: TaskSpec, language: str, options: PhaseOptions) -> int:
        try:
            source = _source(run.data.model_dump_json(), spec.generator == "micro")
            if not source.use_files or language not in available_languages(spec, options.train_split, source):
                raise UserError("no file")
            return len(load_examples(spec, options.train_split, language, DataSource(source.roots, True, False)))
        except (UserError, OSError):
            self._guess(f"{spec.name} {language}: not on this machine; counted as {_UNKNOWN_EXAMPLES:,} examples")
            return _UNKNOWN_EXAMPLES

    def _guess(self, text: str) -> None:
        if text not in self.guesses:
            self.guesses.append(text)


def kind_of(phase: PlannedPhase) -> str:
    """Phases of one kind cost alike: the same size, trained tasks, steps and scored tasks."""
    options = phase.options
    parts = [phase.size, *options.tasks, "|", *sorted(options.evaluate), options.steps, options.epochs]
    return " ".join(str(part) for part in [*parts, options.max_examples, *options.languages])


def measured_seconds(grid: StudyGrid, seconds: Mapping[str, float]) -> dict[str, list[float]]:
    """Seconds of phases that have run (by name) as `CostModel.measured` wants them."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, value in seconds.items():
        if name in grid.phases:
            found[kind_of(grid.phases[name])].append(value)
    return found


def _placement(
    name: str, shape: ModelShape | None, devices: int, optimizer: str, resources: ResourceOptions
) -> Placement:
    if shape is None:
        return Placement(max(devices, 1), 1, 0, 0)
    # Weights are kept in fp32, a training checkpoint has two moments beside them.
    weights, checkpoint = 4 * shape.num_parameters, 12 * shape.num_parameters
    memory = (resources.device_memory_gib or _device_memory_gib()) * GIB
    state = _BYTES_OF_STATE[optimizer] * shape.num_parameters
    needed = max(1, -(-state // int(_SHARE_FOR_STATE * memory)))
    together = resources.jobs_per_device
    if not together:
        together = min(_MOST_PER_DEVICE, int(_SHARE_FOR_STATE * memory // (state + _ACTIVATIONS))) if has_gpu() else 1
    chosen = devices or needed
    return Placement(chosen, max(1, together) if chosen == 1 else 1, weights, checkpoint)


def _shares(options: PhaseOptions) -> dict[str, float]:
    joint = sum(options.joint.values())
    weights = options.mixture if isinstance(options.mixture, dict) else dict.fromkeys(options.mixture, 1.0)
    weights = weights or {options.task: 1.0}
    total = sum(weights.values())
    return {task: (1.0 - joint) * weight / total for task, weight in weights.items()} | options.joint


def _tokens(spec: TaskSpec, run: RunOptions, options: PhaseOptions) -> float:
    if spec.generator == "micro":
        return _MICRO_TOKENS
    longest = options.max_length or spec.max_length or run.model.max_length
    return min(_TOKENS[spec.kind], longest)


@cache
def _source(data_options: str, uses_micro: bool) -> DataSource:
    from xlt_scale.config import DataOptions

    return data_source(DataOptions.model_validate_json(data_options), uses_micro)


@cache
def _gpu_memory_mib() -> tuple[int, ...]:
    """Memory of each visible GPU, asked of the driver: importing torch for it would take seconds."""
    if shutil.which("nvidia-smi") is None or os.environ.get("DS_ACCELERATOR") == "cpu":
        return ()
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return tuple(int(line) for line in done.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def has_gpu() -> bool:
    return bool(_gpu_memory_mib())


def _device_memory_gib() -> float:
    return min(_gpu_memory_mib(), default=80 * 1024) / 1024
