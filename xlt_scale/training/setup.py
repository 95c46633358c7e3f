"""Everything that is fixed before the first step, and every check that can be made before it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from xlt_scale.checkpoint.manifest import MANIFEST
from xlt_scale.cluster.ending import StoppedError
from xlt_scale.cluster.stop_request import StopRequest
from xlt_scale.config import PhaseOptions, RunOptions
from xlt_scale.data.prepare import DataPreparer, cache_folder, data_source, micro_world_folder
from xlt_scale.engines.build import resolve_precision
from xlt_scale.engines.deepspeed_config import quantised_communication
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.evaluation.scoring_plan import plan_scoring
from xlt_scale.modeling.encoder import EncoderPlan, plan_encoder
from xlt_scale.modeling.float8 import check_float8
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.modeling.pretrained import content_of_weight_files
from xlt_scale.modeling.tokenizer import load_tokenizer, trained_tokenizer
from xlt_scale.tasks.catalogue import find_task, load_catalogue
from xlt_scale.tasks.examples import TextExamples
from xlt_scale.tasks.loading import DataSource, available_languages, load_examples, with_labels
from xlt_scale.tasks.spec import Split, TaskSpec
from xlt_scale.training.environment import describe_environment, write_json
from xlt_scale.training.lineage import PHASE_FILE, training_checkpoint
from xlt_scale.training.masked_tokens import check_masking
from xlt_scale.training.metrics import Announce, announcer
from xlt_scale.training.run_lock import RunLock
from xlt_scale.training.stop_vote import wants_to_stop


@dataclass(frozen=True)
class RunSetup:
    """A run that passed its checks, the same on every rank.

    Attributes:
        resumed_phase: the phase that goes on from the checkpoint that `resume` names; '' when it names none.
        stop: whether this rank wants to stop.
    """

    options: RunOptions
    world: World
    folder: Path
    catalogue: dict[str, TaskSpec]
    plan: EncoderPlan
    preparer: DataPreparer
    precision: str
    announce: Announce
    lock: RunLock | None
    resumed_phase: str = ""
    stop: StopRequest = field(default_factory=StopRequest)

    def labels_of(self, head: str) -> list[str]:
        """What the classes of a head are called."""
        return next((list(spec.labels) for spec in self.catalogue.values() if spec.head == head and spec.labels), [])

    def heads(self, phase: PhaseOptions) -> list[HeadSpec]:
        """The heads that a phase trains, each once; of a phase that only scores, those of its parent."""
        if not phase.trains:
            return self._heads_of_parent(phase)
        heads: dict[str, HeadSpec] = {}
        for task in phase.tasks:
            spec = self.catalogue[task]
            pooling = self.plan.pooling if phase.pooling == "auto" else phase.pooling
            wanted = HeadSpec(spec.head, spec.kind, spec.num_classes, pooling)
            if heads.setdefault(spec.head, wanted) != wanted:
                raise UserError(f"phase {phase.name!r}: its tasks share the head {spec.head!r} but not the labels")
        return list(heads.values())

    def _heads_of_parent(self, phase: PhaseOptions) -> list[HeadSpec]:
        for other in self.options.phases:
            if phase.parent == other.name:
                return self.heads(other)
        if not phase.parent:
            return []
        checkpoint, _ = find_finished(Path(phase.parent), phase.name)
        known = [field.name for field in fields(HeadSpec)]
        found = read_json(checkpoint / MANIFEST).get("facts", {}).get("heads", [])
        return [HeadSpec(**{name: head[name] for name in known if name in head}) for head in found]

    def preparer_of(self, phase: PhaseOptions) -> DataPreparer:
        """What loads and tokenises a phase's data."""
        return replace(self.preparer, length=phase.max_length)

    def training_languages(self, phase: PhaseOptions, task: str) -> list[str]:
        """The languages that a phase trains a task in."""
        return self.preparer.training_languages(self.catalogue[task], phase.languages_of(task), phase.train_split)

    def phase_folder(self, name: str) -> Path:
        return self.folder / "phases" / name

    def scoring(self, phase: PhaseOptions, heads: Sequence[HeadSpec]) -> dict[str, tuple[Split, list[str]]]:
        """The split and languages of each task that the phase is scored on (`plan_scoring`)."""
        specs = [self.catalogue[name] for name in phase.evaluate]
        return plan_scoring(specs, phase, heads, self.preparer.source)


def check_before_launch(options: RunOptions) -> dict[str, TaskSpec]:
    """What can be checked in a second, before heavy imports and before ranks meet: tasks by name, and what phases do.

    Raises:
        UserError: an unknown task, or no output folder.
    """
    if not options.output:
        raise UserError("output is not set; add output = 'runs/NAME' to the run file, or --set output=runs/NAME")
    catalogue = load_catalogue(options.tasks)
    for phase in options.phases:
        for task in [*phase.tasks, *phase.evaluate]:
            find_task(catalogue, task)
        for task in phase.tasks:
            if not catalogue[task].is_trainable:
                raise UserError(f"phase {phase.name!r}: task {task!r} is scored, not trained; move it to evaluate")
    return catalogue


def set_up(options: RunOptions, catalogue: dict[str, TaskSpec], world: World) -> RunSetup:
    """Make the run's folder, choose the encoder's path, and check tasks against data; called on every rank.

    Raises:
        UserError: anything in the run that cannot work, before any training.
    """
    _check_engine(options, world)
    folder = Path(options.output)
    _make_folder(folder, world)
    lock = _take(folder, world)
    setup = RunSetup(
        options=options,
        world=world,
        folder=folder,
        **vars(read_inputs(options, catalogue)),
        precision=resolve_precision(options.engine.precision, world.device),
        announce=announcer(world.is_main, options.logging),
        lock=lock,
        resumed_phase=world.share(lambda: _resumed_phase(options)),
    )
    if options.engine.float8:
        check_float8(setup.precision, world.device, any(phase.adapter for phase in options.phases))
    for phase in options.phases:
        _check_phase(setup, phase)
    return setup


def _check_engine(options: RunOptions, world: World) -> None:
    """Ranks that lay the model out in different ways would wait for each other for ever; collective."""
    found = [str(engine) for engine in world.gather(options.engine.model_dump_json())]
    other = next((rank for rank, engine in enumerate(found) if engine != found[0]), 0)
    if other:
        first, second = (json.loads(found[rank]) for rank in (0, other))
        differences = ", ".join(
            f"{key} = {first[key]!r} and {second[key]!r}" for key in first if first[key] != second[key]
        )
        raise UserError(
            f"ranks 0 and {other} have different engine options ({differences}); give all nodes the same run "
            "file, and where their devices differ set these options in place of engine.auto"
        )


@dataclass(frozen=True)
class RunInputs:
    """What a run is made of before any process group: its tasks with their labels, its encoder's shape, its data."""

    catalogue: dict[str, TaskSpec]
    plan: EncoderPlan
    preparer: DataPreparer


def read_inputs(options: RunOptions, catalogue: dict[str, TaskSpec]) -> RunInputs:
    """Find the run's tasks, encoder and tokenizer; called on every rank, communicates nothing.

    Raises:
        UserError: one of them is not there, or they do not fit together.
    """
    names = {task for phase in options.phases for task in [*phase.tasks, *phase.evaluate]}
    uses_micro = options.model.tokenizer == "micro" or any(catalogue[name].generator == "micro" for name in names)
    source = data_source(options.data, uses_micro)
    # Some tags are only known from the data (CCG supertags).
    catalogue = catalogue | {name: with_labels(catalogue[name], source) for name in names}
    plan = plan_encoder(options.model)
    tokenizer = load_tokenizer(*_tokenizer_name(options, catalogue, source))
    # Gemma 3's smaller members share a tokenizer with those that see, which has a special token for images.
    beyond = range(plan.vocab_size, len(tokenizer))
    if not set(beyond) <= set(tokenizer.added_tokens_decoder):
        raise UserError(
            f"the tokenizer has {len(tokenizer)} entries, the model {plan.vocab_size}; "
            "set model.architecture.vocab_size or choose the model's own tokenizer"
        )
    preparer = DataPreparer(
        source,
        tokenizer,
        options.model.max_length,
        plan.has_token_types,
        cache_folder(options.data),
        max_positions=plan.num_positions,
    )
    return RunInputs(catalogue, plan, preparer)


def stop_between_steps(setup: RunSetup, what_is_left: str) -> None:
    """Stop here when a rank wants to; at places where nothing has to be saved. Collective.

    Raises:
        StoppedError: on every rank.
    """
    why = wants_to_stop(setup.world, setup.stop.why())
    if why:
        mark = setup.world.mark
        raise StoppedError(f"{why}; {what_is_left}", mark.phase, mark.step)


def record_start(setup: RunSetup) -> None:
    """Write what this start is made with into the run's folder; collective, rank 0 writes.

    environment.json tells of the last start that did anything, and under 'earlier_starts' of those before it.

    Raises:
        UserError: the folder cannot be written.
    """
    setup.world.share(lambda: _record_start(setup))


def _record_start(setup: RunSetup) -> None:
    options, plan, path = setup.options, setup.plan, setup.folder / "environment.json"
    (setup.folder / "run.toml").write_text(options.to_toml(), encoding="utf-8")
    setup.preparer.tokenizer.save_pretrained(setup.folder / "tokenizer")
    facts = {
        "engine": options.engine.name,
        "precision": setup.precision,
        "attention": "unpadded" if plan.unpadded else f"padded: {plan.why_padded}",
        "quantised_communication": quantised_communication(options.engine),
        "float8": options.engine.float8,
    }
    before = read_json(path)
    earlier = [*before.pop("earlier_starts", []), before] if before else []
    write_json(path, describe_environment(setup.world, **facts) | {"earlier_starts": earlier})


def _resumed_phase(options: RunOptions) -> str:
    if options.resume in ("auto", "never"):
        return ""
    _, manifest = training_checkpoint(Path(options.resume))
    trained = [phase.name for phase in options.phases if phase.trains]
    name = manifest.facts.get("phase")
    if name is None and len(trained) == 1:  # converted from another program's checkpoint
        return trained[0]
    if name not in trained:
        raise UserError(
            f"resume = {options.resume!r} is of a phase {name!r}, which this run does not train; "
            f"its phases are {', '.join(trained)}"
        )
    return name


def _check_phase(setup: RunSetup, phase: PhaseOptions) -> None:
    if phase.parent and phase.parent not in [other.name for other in setup.options.phases]:
        find_finished(Path(phase.parent), phase.name)
    setup.scoring(phase, setup.heads(phase))
    if phase.adapter is not None:
        try:
            describe_parameters(setup.plan, [], phase.adapter)
        except UserError as error:
            raise UserError(f"phase {phase.name!r}: {error}") from None
    check_masking(setup, phase)
    if phase.evaluate_every and selection_task(setup, phase) is None:
        tasks = ", ".join(phase.tasks)
        raise UserError(
            f"phase {phase.name!r}: evaluate_every is set, but {tasks} has no labelled dev split; remove it"
        )


def selection_task(setup: RunSetup, phase: PhaseOptions) -> TaskSpec | None:
    """The task whose source-language dev set chooses between checkpoints: the first trained one that has such a set."""
    for name in phase.tasks:
        spec = setup.catalogue[name]
        if spec.kind == "masked_language_modeling":
            continue
        if spec.source_language in available_languages(spec, "dev", setup.preparer.source):
            return spec
    return None


def _take(folder: Path, world: World) -> RunLock | None:
    """Rank 0's lock on the folder; collective."""
    lock: RunLock | None = None

    def take() -> None:
        nonlocal lock
        lock = RunLock(folder)

    world.share(take)
    return lock


def _make_folder(folder: Path, world: World) -> None:
    problem = ""
    if world.is_main:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".can-be-written"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            problem = error.strerror or str(error)
    problems = [text for text in world.gather(problem) if text]
    if problems:
        raise UserError(f"output = {str(folder)!r} cannot be written: {problems[0]}; choose another folder")


def _tokenizer_name(options: RunOptions, catalogue: dict[str, TaskSpec], source: DataSource) -> tuple[str, str]:
    name = options.model.tokenizer or options.model.name
    if name == "micro":
        return str(micro_world_folder(options.data) / "tokenizer"), ""
    kind, _, size = name.partition(":")
    if kind != "train":
        return name, options.model.revision if name == options.model.name else ""
    if not size.isdigit():
        raise UserError(f"model.tokenizer = {name!r}: write train:NUMBER, the number of entries")
    texts: list[str] = []
    for phase in options.phases:
        for task in phase.tasks:
            spec = catalogue[task]
            if spec.kind == "masked_language_modeling":
                languages = phase.languages_of(task) or available_languages(spec, "train", source)
                if not languages:
                    raise UserError(
                        f"model.tokenizer = {name!r} learns from the files of task {task!r}, and there are none; "
                        "set data.root or XLT_SCALE_DATA to the folder that holds them"
                    )
                for language in languages:
                    found = load_examples(spec, "train", language, source)
                    assert isinstance(found, TextExamples)
                    texts += found.texts
    if not texts:
        raise UserError(
            f"model.tokenizer = {name!r} learns from raw text, but no phase trains masked language modelling"
        )
    return str(trained_tokenizer(texts, int(size), cache_folder(options.data))), ""


def origin_name(options: RunOptions, pretrained: Path | None, seed: int) -> str:
    """What the first phase starts from, for its hash: fresh weights by seed, or pre-trained files by their content."""
    if pretrained is None:
        return f"fresh:{seed}"
    return f"pretrained:{content_of_weight_files(pretrained)}"


def find_finished(folder: Path, phase: str) -> tuple[Path, str]:
    """The checkpoint of a finished phase's folder, or of a checkpoint's own folder, and what to call it in a child's
    hash.

    Raises:
        UserError: the folder is neither.
    """
    facts = read_json(folder / PHASE_FILE)
    if facts and facts["checkpoint"] is None:
        raise UserError(
            f"phase {phase!r}: the weights of parent {str(folder)!r} were removed once it was scored "
            "(weights = 'drop'); run that phase again with weights = 'keep' in another folder"
        )
    if facts:
        return folder / facts["checkpoint"], f"phase:{facts['hash']}"
    if (folder / MANIFEST).is_file():
        facts = read_json(folder / MANIFEST).get("facts", {})
        return folder, f"phase:{facts.get('hash', folder)}:{facts.get('step')}"
    raise UserError(
        f"phase {phase!r}: parent {str(folder)!r} is no finished phase; run that one first, or mend the path"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that an earlier run wrote; {} when it is absent or broken."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return table if isinstance(table, dict) else {}
