"""From a study's options to its grid: every phase, by a name that says what decides its result.

A phase's name is a hash of the options that decide it and of its parent's name, so that phases which several arms need
are one, and a changed option never meets an old result. It is computed without reading data; the hash in phase.json,
made when the phase runs, holds the data's fingerprint too.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xlt_scale.config import PhaseOptions, RunOptions, make_run
from xlt_scale.engines.deepspeed_config import quantised_communication
from xlt_scale.errors import UserError, nearest
from xlt_scale.micro import GENERATOR_VERSION
from xlt_scale.scaling.grid.folder import read_facts
from xlt_scale.scaling.grid.search import Choice, SearchCell
from xlt_scale.sizes import SIZES
from xlt_scale.study_config import ArmOptions, SizeOptions, StudyOptions, TargetOptions
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.spec import TaskSpec
from xlt_scale.training.identity import NUMERICS_VERSION, WITHOUT_INFLUENCE

Role = Literal["pretraining", "intermediate", "target", "search"]
EVERY_PAIR = (-1, -1)
"""The pair of a run without seeds: the baseline's encoder, scored as it is, is what every pair is compared with."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class PlannedPhase:
    """One phase of the grid.

    Attributes:
        name: its folder in the pool, '<what is trained>-<hash>'.
        parent: the planned phase it starts from; '' = the size's model.
        options: as a run file has them, with name, and parent by name.
        arm, target: where it stands in the grid; '' where it serves several.
        pair: intermediate and target seed; of an intermediate phase (seed, -1).
        learning_rate: of a search's trial; 0 otherwise.
        seed: that it is trained with.
    """

    name: str
    role: Role
    size: str
    parent: str
    options: PhaseOptions
    arm: str = ""
    target: str = ""
    pair: Pair = EVERY_PAIR
    learning_rate: float = 0.0

    @property
    def label(self) -> str:
        """Its place in the grid, for a person."""
        seeds = ".".join(str(seed) for seed in self.pair if seed >= 0)
        return " ".join(part for part in (self.size, self.arm, self.target or self.role, seeds) if part)

    @property
    def seed(self) -> int:
        assert self.options.seed is not None
        return self.options.seed


@dataclass(frozen=True)
class StudyGrid:
    """All phases of a study by name, parents before children.

    Attributes:
        runs: by size the options that its phases are run with; the phases in them are placeholders.
        waiting: how many target phases are not named yet, because a search has not chosen their learning rate.
        num_uses: how many places of the grid each phase serves.
    """

    study: StudyOptions
    phases: Mapping[str, PlannedPhase]
    runs: Mapping[str, RunOptions]
    waiting: int = 0
    num_uses: Mapping[str, int] = field(default_factory=dict)

    def children(self, name: str) -> list[PlannedPhase]:
        return [phase for phase in self.phases.values() if phase.parent == name]

    def ancestors(self, name: str) -> list[PlannedPhase]:
        """The phases above one, the first trained first."""
        found: list[PlannedPhase] = []
        parent = self.phases[name].parent
        while parent:
            found.insert(0, self.phases[parent])
            parent = self.phases[parent].parent
        return found


def design(study: StudyOptions, choices: Mapping[SearchCell, Choice] | None = None) -> StudyGrid:
    """The grid of a study.

    Args:
        choices: what the learning-rate search has chosen so far (search.py).

    Raises:
        UserError: an unknown task or size, an option that does not fit, two arms that are the same.
    """
    return _Designer(study, choices or {}).design()


class _Designer:
    def __init__(self, study: StudyOptions, choices: Mapping[SearchCell, Choice]) -> None:
        self._study, self._choices = study, choices
        self._runs = {size.name: run_of_size(study, size) for size in study.sizes}
        self._phases: dict[str, PlannedPhase] = {}
        self._num_uses: dict[str, int] = {}
        self._waiting = 0
        # Thousands of phases differ in their seeds alone.
        self._known_options: dict[str, tuple[PhaseOptions, str]] = {}
        self._run_facts = {size.name: _run_facts(self._runs[size.name], size.checkpoint) for size in study.sizes}
        self._catalogues = {name: load_catalogue(run.tasks) for name, run in self._runs.items()}

    def design(self) -> StudyGrid:
        for size in self._study.sizes:
            encoders: dict[tuple[str, int], str] = {}
            base = self._pretraining(size)
            for arm in self._study.arms:
                for pair in self._study.pairs(size, arm):
                    encoder = self._intermediate(size, arm, pair[0], base)
                    first = encoders.setdefault((encoder, pair[0]), arm.name)
                    if first != arm.name:
                        raise UserError(f"arms {first!r} and {arm.name!r} train the same; remove one of them")
                    for target in self._study.targets:
                        self._target(size, arm, target, pair, encoder)
        for size in self._study.sizes:
            self._search(size)
        return StudyGrid(self._study, self._phases, self._runs, self._waiting, self._num_uses)

    def _pretraining(self, size: SizeOptions) -> str:
        parent = ""
        if self._runs[size.name].model.name or size.checkpoint:
            return parent
        for table in self._study.pretraining:
            options = {**table, **size.pretraining, "seed": self._runs[size.name].seed}
            parent = self._add("pretraining", size, parent, options)
        return parent

    def _intermediate(self, size: SizeOptions, arm: ArmOptions, seed: int, parent: str) -> str:
        for table in arm.phases:
            if not _trains(table):
                raise UserError(f"arm {arm.name!r}: a phase without task or mixture trains nothing; give it one")
            options = {**self._study.intermediate, **size.intermediate, **table, "seed": seed}
            parent = self._add("intermediate", size, parent, options, arm=arm.name, pair=(seed, -1))
        return parent

    def _target(self, size: SizeOptions, arm: ArmOptions, target: TargetOptions, pair: Pair, encoder: str) -> None:
        options = {**self._study.target, **size.target, **target.phase, "evaluate": target.evaluate}
        if not _trains(options):
            # Nothing is trained: the encoder itself is scored, once for all target seeds.
            kept = {name: value for name, value in options.items() if name in WITHOUT_INFLUENCE - {"preset"}}
            pair = (pair[0], -1) if arm.phases else EVERY_PAIR
            kept |= {"seed": max(pair[0], 0), "weights": "drop"}
            self._add("target", size, encoder, kept, arm=arm.name, target=target.name, pair=pair)
            return
        if self._study.search.learning_rates:
            chosen = self._choices.get(self._search_cell(size, arm, target))
            if chosen is None:
                self._waiting += 1
                return
            options["learning_rate"] = chosen.learning_rate
        options |= {"seed": 1000 * pair[0] + pair[1], "weights": "drop"}
        self._add("target", size, encoder, options, arm=arm.name, target=target.name, pair=pair)

    def _search_cell(self, size: SizeOptions, arm: ArmOptions, target: TargetOptions) -> SearchCell:
        return SearchCell(size.name, "" if self._study.search.per == "size" else arm.name, target.name)

    def _search(self, size: SizeOptions) -> None:
        """The trials: every arm's first intermediate seed, the search's own target seeds, scored on dev sets."""
        search, catalogue = self._study.search, self._catalogues[size.name]
        for arm in self._study.arms:
            for target in self._study.targets:
                options = {**self._study.target, **size.target, **target.phase}
                if not _trains(options) or not search.learning_rates:
                    continue
                first = self._study.pairs(size, arm)[0][0]
                encoder = self._intermediate(size, arm, first, self._pretraining(size))
                trained = options.get("task") or sorted(options["mixture"])[0]
                source = catalogue[trained].source_language if trained in catalogue else ""
                for rate in search.learning_rates:
                    for seed in search.seeds:
                        trial = {**options, "learning_rate": rate, "seed": 1_000_000 + seed, "weights": "drop"}
                        trial |= {"evaluate": [trained], "evaluate_split": "dev", "evaluate_languages": [source]}
                        self._add(
                            "search",
                            size,
                            encoder,
                            trial,
                            arm=arm.name,
                            target=target.name,
                            pair=(first, seed),
                            learning_rate=rate,
                        )

    def _options(self, size: SizeOptions, table: Mapping[str, Any], place: str, name: str) -> tuple[PhaseOptions, str]:
        """The options of a phase, and what of them and of its run decides its result, but for the seed."""
        key = json.dumps([size.name, {**table, "seed": None}], sort_keys=True, default=str)
        if key not in self._known_options:
            options = _phase_options(self._runs[size.name], {"name": name, **table}, place)
            catalogue = self._catalogues[size.name]
            check_tasks(options, catalogue, place)
            is_generated = self._runs[size.name].model.tokenizer == "micro" or any(
                catalogue[task].generator == "micro" for task in options.tasks or options.evaluate
            )
            facts = [self._run_facts[size.name], _decisive(options), str(GENERATOR_VERSION if is_generated else "")]
            facts.append(json.dumps(_overrides(options, self._runs[size.name].tasks), sort_keys=True))
            self._known_options[key] = options, "\n".join(facts)
        return self._known_options[key]

    def _add(
        self,
        role: Role,
        size: SizeOptions,
        parent: str,
        table: Mapping[str, Any],
        *,
        arm: str = "",
        target: str = "",
        pair: Pair = EVERY_PAIR,
        learning_rate: float = 0.0,
    ) -> str:
        place = " ".join(part for part in (self._study.name, size.name, arm, target, role) if part)
        options, decisive = self._options(size, table, place, target or arm or role)
        # A phase without training has no use for a seed: the encoder of an arm is scored once.
        seed = table["seed"] if options.trains else None
        label = "-".join(options.tasks) if options.trains else "scores"
        text = f"{decisive}\n{seed}\n{parent}"
        name = f"{label[:40]}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
        origin = parent or (str(Path(size.checkpoint).absolute()) if size.checkpoint else "")
        options = options.model_copy(update={"name": name, "parent": origin, "seed": table["seed"]})
        known = self._phases.get(name)
        if known is None:
            self._phases[name] = PlannedPhase(name, role, size.name, parent, options, arm, target, pair, learning_rate)
        elif known.size != size.name:
            raise UserError(
                f"study {self._study.name!r}: sizes {known.size!r} and {size.name!r} are the same model; remove one"
            )
        elif known.role in ("target", "search") and (known.arm, known.target, known.pair) != (arm, target, pair):
            raise UserError(
                f"{place}: it trains the same as target {known.target!r} of arm {known.arm!r}; make them one target "
                "that has both in evaluate"
            )
        self._num_uses[name] = self._num_uses.get(name, 0) + 1
        return name


def run_of_size(study: StudyOptions, size: SizeOptions) -> RunOptions:
    """The options of the size's runs, with a placeholder for the phases.

    Raises:
        UserError: a key that does not fit, or a size that has neither a published model nor an architecture.
    """
    table = json.loads(json.dumps(study.run))
    for name in ("model", "engine"):
        table[name] = {**table.get(name, {}), **getattr(size, name)}
    model = table["model"]
    if not (model.get("name") or model.get("size") or model.get("architecture")):
        if size.name not in SIZES:
            raise UserError(
                f"study {study.name!r}: size {size.name!r} is no size of the ladder; give sizes.model.name, a "
                "checkpoint or hub name, or sizes.model.size / architecture and [[pretraining]] phases"
            )
        known = SIZES[size.name]
        model["name" if known.hub_name else "size"] = known.hub_name or size.name
    if size.checkpoint:
        _check_checkpoint(study, size, model)
    elif not model.get("name") and not study.pretraining:
        raise UserError(
            f"study {study.name!r}: size {size.name!r} starts from scratch; add [[pretraining]] phases, or give "
            "sizes.model.name, a checkpoint"
        )
    table |= {"output": "set-by-the-study", "phases": [{"name": "placeholder", "evaluate": ["set-by-the-study"]}]}
    return make_run(table, [], f"study {study.name!r}, size {size.name!r}")


def _check_checkpoint(study: StudyOptions, size: SizeOptions, model: Mapping[str, Any]) -> None:
    place = f"study {study.name!r}, size {size.name!r}"
    if model.get("name"):
        raise UserError(f"{place}: give checkpoint with model.size or model.architecture, or model.name, not both")
    folder = Path(size.checkpoint)
    if not any((folder / name).is_file() for name in ("phase.json", "manifest.json")):
        raise UserError(
            f"{place}: checkpoint = {size.checkpoint!r} is no finished phase; run that one first, or mend the path"
        )


def check_tasks(options: PhaseOptions, catalogue: Mapping[str, TaskSpec], place: str) -> None:
    """The phase's tasks are known, and trainable where they are trained.

    Raises:
        UserError: one is not.
    """
    for task in [*options.tasks, *options.evaluate]:
        if task not in catalogue:
            raise UserError(
                f"{place}: task {task!r} is unknown; {nearest(task, catalogue)} (`xlt-scale tasks` lists them)"
            )
    for task in options.evaluate if not options.trains else ():
        if catalogue[task].is_trainable:
            raise UserError(f"{place}: {task!r} needs a trained head; give the target a phase that trains one")
    for task in options.tasks:
        if not catalogue[task].is_trainable:
            raise UserError(f"{place}: task {task!r} is scored, not trained; move it to the target's evaluate")


def _trains(options: Mapping[str, Any]) -> bool:
    return bool(options.get("task") or options.get("mixture"))


def _phase_options(run: RunOptions, table: Mapping[str, Any], place: str) -> PhaseOptions:
    whole = run.model_dump(mode="json", exclude_none=True) | {"phases": [dict(table)]}
    return make_run(whole, [], place).phases[0]


def _run_facts(run: RunOptions, checkpoint: str) -> str:
    """What of a run's options, and of the checkpoint it starts from, decides the results of its phases."""
    facts = {
        "checkpoint": checkpoint and (read_facts(Path(checkpoint) / "phase.json").get("hash") or checkpoint),
        "numerics": NUMERICS_VERSION,
        "model": run.model.model_dump(mode="json"),
        "precision": run.engine.precision,
        "data": run.data.model_dump(mode="json", exclude={"cache"}),
    }
    quantised = quantised_communication(run.engine)
    if quantised:
        facts["quantised_communication"] = quantised
    if run.engine.float8:
        facts["float8"] = True
    return json.dumps(facts, sort_keys=True)


def _overrides(options: PhaseOptions, tasks: Mapping[str, Any]) -> dict[str, Any]:
    """What the run says of the phase's own tasks, and of their parts."""
    named = set(options.tasks or options.evaluate)
    named |= {part for task in named for part in tasks.get(task, {}).get("parts", [])}
    return {name: table for name, table in tasks.items() if name in named}


def _decisive(options: PhaseOptions) -> str:
    """What of a phase's options decides its result; of a phase that only scores, what it scores."""
    if not options.trains:
        return json.dumps({"evaluate": options.evaluate})
    left_out = set(WITHOUT_INFLUENCE) - {"steps", "epochs"}
    return json.dumps(options.model_dump(mode="json", exclude=left_out), sort_keys=True)
