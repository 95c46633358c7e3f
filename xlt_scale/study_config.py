"""Study options, declared once: sizes, arms, targets and seeds make a grid of phases.

A study is one TOML file (docs/studies.md). What its runs have in common stands under `[run]`, with the keys of a run
file; phases are written with the keys of a run file's phases.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, model_validator

from xlt_scale.config import Count, Options, PhaseOptions, Positive
from xlt_scale.config_files import apply_setting, read_toml, validate
from xlt_scale.errors import UserError, nearest

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
# Below 1000, so that 1000 * intermediate seed + target seed names a pair.
Seed = Annotated[int, Field(gt=0, lt=1000)]
PhaseTable = dict[str, Any]

SET_BY_THE_STUDY = ("name", "parent", "seed", "baseline", "weights")
"""Keys of a run file's phase that a study fills in itself."""


class SeedOptions(Options):
    """Seeds are nested: every intermediate seed is followed by every target seed, each pair with a seed of its own."""

    intermediate: list[Seed] = Field([1, 2, 3], min_length=1, description="of the intermediate phases")
    target: list[Seed] = Field([1, 2], min_length=1, description="of the target phases, after each of those")

    @model_validator(mode="after")
    def _is_without_repeats(self) -> "SeedOptions":
        for name, seeds in (("intermediate", self.intermediate), ("target", self.target)):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"seeds.{name} = {seeds} names a seed twice: repeated runs are no further evidence")
        return self

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [(intermediate, target) for intermediate in self.intermediate for target in self.target]


class SizeOptions(Options):
    """A model size: a rung of the ladder, a checkpoint, or an architecture that is trained from scratch."""

    name: Name
    model: dict[str, Any] = Field(
        default_factory=dict, description="keys of a run's [model]; default: the published model of the size `name`"
    )
    checkpoint: str = Field(
        "", description="folder of a finished phase that everything starts from; `model` says its architecture"
    )
    engine: dict[str, Any] = Field(default_factory=dict, description="keys of a run's [engine] at this size")
    pretraining: PhaseTable = Field(default_factory=dict, description="keys of every pre-training phase at this size")
    intermediate: PhaseTable = Field(default_factory=dict, description="keys of every intermediate phase at this size")
    target: PhaseTable = Field(default_factory=dict, description="keys of every target phase at this size")
    seeds: SeedOptions | None = Field(None, description="in place of the study's; the same for all arms of the size")
    devices: Count = Field(0, description="devices of one run; 0 = the fewest that its training state fits on")


class ArmOptions(Options):
    """What is trained before the targets: nothing, a task, a mixture, or several phases one after another."""

    name: Name
    label: str = Field("", description="what tables call it; default: the name")
    group: str = Field("", description="arms that the question compares together; default: the type of its first task")
    phases: list[PhaseTable] = Field(
        default_factory=list,
        description="intermediate phases in their order, keys of a run's phases; [] = the baseline",
    )
    seeds: SeedOptions | None = Field(None, description="fewer seeds than the baseline has")


class TargetOptions(Options):
    """What is trained after each arm, and what is scored."""

    name: Name
    label: str = Field("", description="what tables call it; default: the name")
    group: str = Field("", description="targets averaged together; default: the type of the first scored task")
    phase: PhaseTable = Field(
        default_factory=dict, description="keys of a run's phase; without a task the encoder itself is scored"
    )
    evaluate: list[str] = Field(min_length=1, description="tasks that are scored")


class SearchOptions(Options):
    """A search of the target phases' learning rate, with the same budget for every arm, on the source language's dev
    set and on seeds that no gain is taken of.
    """

    learning_rates: list[Positive] = Field(default_factory=list, description="rates to try; [] = no search")
    seeds: list[Seed] = Field([901], min_length=1, description="target seeds of each trial")
    per: Literal["arm", "size"] = Field("arm", description="a rate for each size, target and arm; or shared by arms")


class ResourceOptions(Options):
    """What jobs may use, and what is assumed about the devices before anything has been measured."""

    retries: Count = Field(2, description="further attempts of a job that fails by itself")
    hours_per_job: Positive = Field(12.0, description="a job is given phases for about so many hours")
    devices_per_node: Count = Field(0, description="slurm: devices of a node; 0 = 8")
    max_jobs: Count = Field(0, description="slurm: batch jobs that run at a time; 0 = as many as the cluster lets run")
    jobs_per_device: Count = Field(0, description="small runs side by side on one device; 0 = what its memory holds")
    device_memory_gib: Annotated[float, Field(ge=0)] = Field(0.0, description="0 = this machine's; 80 without a GPU")
    teraflops_per_device: Annotated[float, Field(ge=0)] = Field(
        0.0, description="speed that costs are counted at; 0 = as the planner predicts (docs/planning.md)"
    )
    keep_encoders: Literal["while needed", "always"] = Field(
        "while needed", description="intermediate encoders: gone when every phase that starts from them is scored"
    )
    slurm: list[str] = Field(
        default_factory=list, description="further options for sbatch, as in '--account=NAME'; SBATCH_* yield to them"
    )


class StudyOptions(Options):
    """Everything that a study file says."""

    name: Name
    question: str = Field(min_length=1, description="one sentence; the report begins with its answer")
    kind: Literal["size", "compare", "rank", "alignment", "grid"] = Field(
        "size",
        description="size: how gains change with size; compare: how groups of arms differ; rank: which group is best; "
        "alignment: whether gains are larger where arm and target are of one group; grid: every arm on every target",
    )
    output: str = Field("", description="the study's folder; default runs/studies/NAME")
    pool: str = Field("", description="folder of phases, which several studies may share; default OUTPUT/phases")
    baseline: str = Field("none", description="the arm that gains are taken against")
    reference_size: str = Field("", description="where the fitted line has its intercept; default: the first size")
    run: dict[str, Any] = Field(
        default_factory=dict, description="what all runs have in common: tables of a run file but output and phases"
    )
    seeds: SeedOptions = Field(default_factory=SeedOptions)
    pretraining: list[PhaseTable] = Field(
        default_factory=list, description="phases before everything else, for sizes from scratch; one seed: run.seed"
    )
    intermediate: PhaseTable = Field(default_factory=dict, description="keys of every intermediate phase")
    target: PhaseTable = Field(default_factory=dict, description="keys of every target phase")
    sizes: list[SizeOptions] = Field(min_length=1)
    arms: list[ArmOptions] = Field(min_length=2)
    targets: list[TargetOptions] = Field(min_length=1)
    search: SearchOptions = Field(default_factory=SearchOptions)
    resources: ResourceOptions = Field(default_factory=ResourceOptions)

    @model_validator(mode="after")
    def _fits_together(self) -> "StudyOptions":
        for what, entries in (("sizes", self.sizes), ("arms", self.arms), ("targets", self.targets)):
            names = [entry.name for entry in entries]
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"{what} has {repeated[0]!r} twice: rename one")
        arms = {arm.name: arm for arm in self.arms}
        if self.baseline not in arms:
            raise ValueError(f"baseline = {self.baseline!r} is no arm; {nearest(self.baseline, arms)}")
        sizes = [size.name for size in self.sizes]
        if self.reference_size and self.reference_size not in sizes:
            raise ValueError(
                f"reference_size = {self.reference_size!r} is no size; {nearest(self.reference_size, sizes)}"
            )
        for key in ("output", "phases", "resume"):
            if key in self.run:
                raise ValueError(f"run.{key} is the study's own; remove it")
        rates = self.search.learning_rates
        if len(set(rates)) < len(rates):
            raise ValueError(f"search.learning_rates = {rates} names a rate twice: every rate has the same budget")
        for target in self.targets:
            if "evaluate" in target.phase:
                raise ValueError(f"targets.{target.name}.phase.evaluate: write it as the target's own evaluate")
        self._check_phase_tables()
        self._check_pairs()
        return self

    def _check_phase_tables(self) -> None:
        tables = [("pretraining", table) for table in self.pretraining]
        tables += [("intermediate", self.intermediate), ("target", self.target)]
        for size in self.sizes:
            for name in ("pretraining", "intermediate", "target"):
                tables.append((f"sizes.{size.name}.{name}", getattr(size, name)))
        tables += [(f"arms.{arm.name}.phases", table) for arm in self.arms for table in arm.phases]
        tables += [(f"targets.{target.name}.phase", target.phase) for target in self.targets]
        known = [name for name in PhaseOptions.model_fields if name not in SET_BY_THE_STUDY]
        for place, table in tables:
            for key in table:
                if key in SET_BY_THE_STUDY:
                    raise ValueError(f"{place}.{key} is set by the study; remove it")
                if key not in known:
                    raise ValueError(f"{place}: unknown key {key!r}; {nearest(key, known)}")

    def _check_pairs(self) -> None:
        """Every run of an arm needs a run of the baseline with the same seeds."""
        for size in self.sizes:
            of_baseline = set(self.pairs(size, self.arm(self.baseline)))
            for arm in self.arms:
                alone = [pair for pair in self.pairs(size, arm) if pair not in of_baseline]
                if alone:
                    raise ValueError(
                        f"arm {arm.name!r} has the seeds {alone[0]} (intermediate, target) at {size.name}, which the "
                        f"baseline {self.baseline!r} has not: gains are differences of runs with the same seeds; take "
                        "them from the baseline's list"
                    )

    def arm(self, name: str) -> ArmOptions:
        return next(arm for arm in self.arms if arm.name == name)

    def pairs(self, size: SizeOptions, arm: ArmOptions) -> list[tuple[int, int]]:
        """The pairs of intermediate and target seed of an arm at a size."""
        return (arm.seeds or size.seeds or self.seeds).pairs

    @property
    def folder(self) -> Path:
        return Path(self.output or f"runs/studies/{self.name}")

    @property
    def pool_folder(self) -> Path:
        return Path(self.pool) if self.pool else self.folder / "phases"

    def to_toml(self) -> str:
        """The resolved options as TOML, every default spelled out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def load_study(path: str | Path, settings: Sequence[str] = (), output: str = "") -> StudyOptions:
    """Read a study file and apply `key.path=value` settings on top (as `load_run` does).

    Args:
        output: overrides the file's.

    Raises:
        UserError: the file is missing or not TOML, a key is unknown, or a value does not fit.
    """
    place = Path(path)
    table = read_toml(place)
    if "phases" in table and "sizes" not in table:
        raise UserError(
            f"{place}: this is a run file; start it with launch/train.py, or write a study (docs/studies.md)"
        )
    for setting in settings:
        apply_setting(table, setting)
    if output:
        table["output"] = output
    options: StudyOptions = validate(StudyOptions, table, str(place))
    return options
