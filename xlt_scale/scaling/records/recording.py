"""From the files of a finished phase to its record."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xlt_scale.config import ModelOptions, PhaseOptions
from xlt_scale.scaling.grid.design import PlannedPhase, StudyGrid, run_of_size
from xlt_scale.scaling.grid.folder import StudyFolder, read_facts
from xlt_scale.scaling.records.records import SCHEMA_VERSION, Record
from xlt_scale.scaling.records.same_data import same_data
from xlt_scale.scaling.records.study_tasks import (
    family_of_model,
    is_bidirectional_decoder,
    study_catalogue,
    trained_languages,
)
from xlt_scale.sizes.structure import structure_of
from xlt_scale.training.identity import WITHOUT_INFLUENCE

_IN_HYPER_PARAMETERS = WITHOUT_INFLUENCE - {"steps", "epochs"}
_OF_TRAINING = (
    "steps",
    "examples",
    "tokens",
    "flops",
    "seconds",
    "device_seconds",
    "memory_gib",
    "mfu",
    "engine",
    "precision",
    "attention",
    "quantised_communication",
    "float8",
    "num_trained_parameters",
    "adapter",
    "curve",
)
_HOW_SCORED = (
    "evaluate_languages",
    "evaluate_split",
    "evaluate_examples",
    "retrieval_depth",
    "retrieval_layers",
    "no_answer_threshold",
    "max_answer_tokens",
)


def how_scored(options: PhaseOptions) -> dict[str, Any]:
    """What a phase asks of its scoring, beside the tasks: a record that was asked for something else is another one."""
    return {name.removeprefix("evaluate_"): getattr(options, name) for name in _HOW_SCORED}


def answers(asked: Mapping[str, Any], planned: PlannedPhase) -> bool:
    """Whether a record that was asked for this (its field `asked`) has every score that the plan asks for, made in the
    way that it asks for.
    """
    if not planned.options.evaluate:
        return True
    how = {name: value for name, value in asked.items() if name != "tasks"}
    return set(planned.options.evaluate) <= set(asked["tasks"]) and how == how_scored(planned.options)


class Recorder:
    """Makes the records of one study's phases; keeps what several of them share."""

    def __init__(self, folder: StudyFolder, grid: StudyGrid) -> None:
        self._folder, self._grid = folder, grid
        self._catalogue = study_catalogue(grid.study)
        self._models = {size.name: run_of_size(grid.study, size).model for size in grid.study.sizes}
        self._facts: dict[str, dict[str, Any]] = {}

    def problem(self, planned: PlannedPhase, facts: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
        """Why the files in a phase's folder do not make a record yet, or ''."""
        if not facts:
            return "not trained"
        if facts.get("name") != planned.name or "training" not in facts:
            return f"phase.json is of {facts.get('name')!r}, another phase or an older program; move the folder away"
        differences = _differences(planned.options, facts["training"]["options"])
        if differences:
            return f"phase.json is of other options ({', '.join(differences)}); move the folder away"
        configuration = _configuration(facts)
        num_layers = configuration.get("num_hidden_layers") or configuration.get("num_layers", 0)  # as T5 calls them
        return self._unscored(planned.options, scores, num_layers)

    def record(self, planned: PlannedPhase, facts: Mapping[str, Any], scores: Mapping[str, Any]) -> Record:
        """The record of a phase that has no `problem`."""
        training, options = facts["training"], planned.options
        ancestors = self._grid.ancestors(planned.name)
        intermediate = [phase for phase in [*ancestors, planned] if phase.role == "intermediate"]
        arm_tasks = list(dict.fromkeys(task for phase in intermediate for task in phase.options.tasks))
        trained = options.tasks if planned.role in ("target", "search") else []
        kept = {task: dict(scores["scores"][task]) for task in options.evaluate}
        environment = training.get("environment", {})
        return {
            "schema": SCHEMA_VERSION,
            "study": self._grid.study.name,
            "phase": planned.name,
            "hash": facts["hash"],
            "role": planned.role,
            "size": _size(planned.size, self._models[planned.size], training, _configuration(facts)),
            "arm": {
                "name": planned.arm,
                "tasks": arm_tasks,
                "languages": self._languages(intermediate),
                "phases": [phase.name for phase in intermediate],
            },
            "target": {
                "name": planned.target,
                "trained": "+".join(options.main_tasks) if trained else "",
                "tasks": list(options.evaluate),
                "languages": self._languages([planned]) if trained else [],
            },
            "seeds": {"intermediate": planned.pair[0], "target": planned.pair[1], "trained_with": planned.seed},
            "hyper_parameters": {
                **{name: value for name, value in training["options"].items() if name not in _IN_HYPER_PARAMETERS},
                "num_steps": facts["num_steps"],
            },
            "search": self._search(planned),
            "parents": [self._facts_of(phase.name).get("hash", "") for phase in ancestors],
            "same_data": same_data(arm_tasks, trained, options.evaluate, self._catalogue) if planned.target else {},
            "checkpoint_rule": options.keep,
            "asked": {"tasks": sorted(options.evaluate), **how_scored(options)},
            "scores": kept,
            "scorers": {task: scores["request"]["tasks"][task] for task in kept},
            "chance": _chance(kept),
            "predictions": self._relative(planned, "predictions") if kept else "",
            "outcomes": "",
            "training": _training(training, environment),
            "software": {
                name: environment.get(name, "") for name in ("git_revision", "versions", "python", "device", "host")
            },
            "recorded_at": environment.get("time", ""),
        }

    def _unscored(self, options: PhaseOptions, scores: Mapping[str, Any], num_layers: int) -> str:
        """What is asked for and not in scores.json, or ''."""
        requests = scores.get("request", {}).get("tasks", {})
        for task in options.evaluate:
            there = scores.get("scores", {}).get(task)
            if there is None or task not in requests:
                return f"not scored on {task}"
            if not _is_as_asked(options, requests[task], num_layers):
                return f"scored on {task} in another way than is asked for"
            # Languages that a task has no files of are left out by the run itself.
            missing = [code for code in requests[task]["languages"] if code not in there]
            known = self._catalogue[task].languages
            missing += [code for code in options.evaluate_languages if code in known and code not in there]
            if missing:
                return f"not scored on {task} in {missing[0]}"
        return ""

    def _search(self, planned: PlannedPhase) -> dict[str, Any]:
        """How the learning rate came about."""
        search = self._grid.study.search
        if planned.role not in ("target", "search") or not planned.options.trains or not search.learning_rates:
            return {}
        return {
            "learning_rates": list(search.learning_rates),
            "trials": len(search.learning_rates) * len(search.seeds),
            "per": search.per,
            "is_trial": planned.role == "search",
        }

    def _languages(self, phases: Sequence[PlannedPhase]) -> list[str]:
        """The languages that phases were trained in, by their phase.json; as far as the options tell without it."""
        found: dict[str, None] = {}
        for phase in phases:
            data = self._facts_of(phase.name).get("data", {})
            codes = [code for languages in data.values() for code in languages]
            found |= dict.fromkeys(codes or trained_languages(phase.options, self._catalogue))
        return list(found)

    def _facts_of(self, name: str) -> dict[str, Any]:
        if name not in self._facts:
            facts = read_facts(self._folder.phase(name) / "phase.json")
            if not facts:
                return {}
            self._facts[name] = {key: facts.get(key) for key in ("hash", "data") if facts.get(key)}
        return self._facts[name]

    def _relative(self, planned: PlannedPhase, name: str) -> str:
        return Path(os.path.relpath(self._folder.phase(planned.name) / name, self._folder.root)).as_posix()


def _differences(planned: PhaseOptions, options: Mapping[str, Any]) -> list[str]:
    """Options that decide a phase's result and are not those of the plan."""
    wanted = planned.model_dump(mode="json", exclude=set(_IN_HYPER_PARAMETERS) - {"seed"})
    if not planned.trains:
        return []
    found = [name for name, value in wanted.items() if options.get(name, value) != value]
    # Where no adapter is wanted the options do not name it, nor do those of phases without one.
    has_other = options.get("adapter") != wanted.get("adapter")
    return [*found, "adapter"] if has_other and "adapter" not in found else found


def _is_as_asked(options: PhaseOptions, request: Mapping[str, Any], num_layers: int) -> bool:
    wanted: dict[str, Any] = {"max_examples": options.evaluate_examples}
    if options.evaluate_split != "auto":
        wanted["split"] = options.evaluate_split
    for name, key in (
        ("layers", "retrieval_layers"),
        ("no_answer_threshold", "no_answer_threshold"),
        ("max_answer_tokens", "max_answer_tokens"),
    ):
        if name in request:
            wanted[name] = getattr(options, key)
    if "layer" in request and num_layers:
        wanted["layer"] = round(options.retrieval_depth * num_layers)
    return all(request.get(name, value) == value for name, value in wanted.items())


def _configuration(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the encoder, as Hugging Face has it."""
    found: Mapping[str, Any] = facts.get("identity", {}).get("model", {})
    return found


def _size(
    name: str, model: ModelOptions, training: Mapping[str, Any], configuration: Mapping[str, Any]
) -> dict[str, Any]:
    model_type = training["model_type"]
    return {
        "name": name,
        "family": family_of_model(model, model_type),
        "model_type": model_type,
        "num_parameters": training["num_parameters"],
        "num_non_embedding_parameters": training["num_non_embedding_parameters"],
        "is_pre_norm": structure_of(model_type, configuration).is_pre_norm,
        "is_bidirectional_decoder": is_bidirectional_decoder(configuration),
    }


def _chance(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    found = {
        task: {code: values["chance"] for code, values in languages.items() if "chance" in values}
        for task, languages in scores.items()
    }
    return {task: languages for task, languages in found.items() if languages}


def _training(training: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    on_gpu = _is_gpu(training, environment)
    # A process on CPUs has as many processors as threads.
    devices = training.get("device_seconds", 0.0) * (1 if on_gpu else max(1, environment.get("threads", 1)))
    return {
        **{name: training.get(name) for name in _OF_TRAINING},
        "gpu_hours": devices / 3600,
        "unit": "GPU hours" if on_gpu else "processor hours",
        "world_size": environment.get("world_size"),
    }


def _is_gpu(training: Mapping[str, Any], environment: Mapping[str, Any]) -> bool:
    kind = environment.get("device_type") or training.get("device_type")
    if kind:
        return kind != "cpu"
    # Older facts have the device's name alone.
    return training.get("mfu") is not None or str(environment.get("device", "")).startswith(("NVIDIA", "AMD Instinct"))
