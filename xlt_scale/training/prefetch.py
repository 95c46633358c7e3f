"""Everything that the jobs of a run will need, fetched and made on a machine with a network, by one process.

In this order, so that what is most likely to fail fails first: the models' files, compiled operations, then the data,
tokenised as the runs will look them up. Every step can be repeated: what is there is kept.
"""

import importlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlt_scale.config import PhaseOptions, RunOptions
from xlt_scale.errors import UserError, reason
from xlt_scale.hub import hub_cache
from xlt_scale.modeling.pretrained import pretrained_folder, tokenizer_folder
from xlt_scale.tasks.catalogue import find_task, load_catalogue
from xlt_scale.training.prefetched import Entry, Hashes, Mend, Prefetched, remove_changed, write_list
from xlt_scale.training.snapshots import snapshot_entry

if TYPE_CHECKING:  # the first step needs no torch
    from xlt_scale.training.data_pieces import Piece
    from xlt_scale.training.setup import RunSetup

Say = Callable[[str], None]

_OF_DATA = (
    *("languages", "task_languages", "train_split", "max_examples", "max_length", "evaluation_examples", "evaluate"),
    *("evaluate_languages", "evaluate_examples", "evaluate_split", "optimizer"),
)
"""Options of a phase that decide what has to be fetched for it, beside its tasks."""


def request_of(runs: Sequence[RunOptions]) -> Any:
    """What these runs need, as JSON holds it: the same as long as a prefetch for them stays good."""
    found = [
        {
            "model": run.model.model_dump(mode="json", exclude={"dropout", "attention"}),
            "engine": [run.engine.name, run.engine.device, run.engine.deepspeed_config],
            "data": run.data.model_dump(mode="json", exclude={"cache"}),
            "tasks": run.tasks,
            "phases": sorted({needs_of(phase) for phase in run.phases}),
        }
        for run in runs
    ]
    return json.loads(json.dumps(found))


def needs_of(phase: PhaseOptions) -> str:
    """What of a phase's options decides what has to be fetched for it."""
    chosen = {name: getattr(phase, name) for name in _OF_DATA}
    return json.dumps({"tasks": phase.tasks, **chosen}, sort_keys=True)


_PLACES = {
    "data.cache": {"tokens", "micro world"},
    "HF_HUB_CACHE (or HF_HOME)": {"model", "tokenizer"},
    "HF_DATASETS_CACHE (or HF_HOME)": {"data set"},
    "data.root (or XLT_SCALE_DATA)": {"files"},
}
"""What names a folder, and the kinds of things that are looked for there."""


def places_of(runs: Sequence[RunOptions]) -> dict[str, str]:
    """The folders that this environment and the runs name, whether anything is looked for there or not."""
    from huggingface_hub import constants

    data = runs[0].data
    folders = (
        Path(data.cache).expanduser() if data.cache else Path.home() / ".cache" / "xlt_scale",
        Path(hub_cache()),
        Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets")),
        Path(data.root or os.environ.get("XLT_SCALE_DATA", "")).expanduser(),
    )
    return {name: str(folder.absolute()) for name, folder in zip(_PLACES, folders, strict=True)}


def prefetch(runs: Sequence[RunOptions], folder: Path, say: Say) -> list[Entry]:
    """Fetch and make what these runs need, and write the list of it into `folder`.

    One process, no process group, no GPU; weights are fetched and not loaded.

    Args:
        runs: with all their phases; of a study a run per size.
        folder: the output folder of the run, or the study's.

    Raises:
        UserError: something cannot be had, is not what the hub says it is, or does not fit together.
    """
    for run in runs:
        _check_tasks(run)
    work = _Prefetch(folder, say)
    remove_changed(folder, work.hashes, say)
    for run in runs:
        work.fetch_models(run)
    for run in runs:
        work.build_operations(run)
        work.look_for_packages(run)
    for run in runs:
        work.prepare_data(run)
    entries = [*work.models.values(), *work.others.values(), *work.data_entries()]
    kinds = {entry.kind for entry in entries}
    needed = {name: place for name, place in places_of(runs).items() if _PLACES[name] & kinds}
    write_list(folder, Prefetched(request_of(runs), needed, entries))
    return entries


def _check_tasks(run: RunOptions) -> None:
    """Before gigabytes are fetched for a misspelt task."""
    catalogue = load_catalogue(run.tasks)
    for phase in run.phases:
        for task in [*phase.tasks, *phase.evaluate]:
            find_task(catalogue, task)


def _hub_names(run: RunOptions) -> list[tuple[str, str]]:
    """Names and revisions of the model and of the tokenizer, where that is another one."""
    names = [(run.model.name, run.model.revision)] if run.model.name else []
    own = run.model.tokenizer
    if own and own != run.model.name and own != "micro" and not own.startswith("train:"):
        names.append((own, ""))
    return names


@dataclass
class _Prefetch:
    """The work, and what it has found so far, each thing once."""

    folder: Path
    say: Say
    hashes: Hashes = field(default_factory=Hashes)
    models: dict[tuple[str, str], Entry] = field(default_factory=dict)
    others: dict[str, Entry] = field(default_factory=dict)
    data: dict[tuple[str, str, str], "_Data"] = field(default_factory=dict)
    seen: set[tuple[Any, ...]] = field(default_factory=set)
    began: float = field(default_factory=time.time)

    def fetch_models(self, run: RunOptions) -> None:
        for name, revision in _hub_names(run):
            is_model = name == run.model.name
            kind = "model" if is_model else "tokenizer"
            if (name, revision) in self.models and self.models[name, revision].kind == "model":
                continue
            self.say(f"{kind} {name}{f' at {revision}' if revision else ''}")
            place = pretrained_folder(name, revision) if is_model else tokenizer_folder(name, revision)
            if is_model and not any(place.glob("*.safetensors")) and not any(place.glob("pytorch_model*.bin")):
                raise UserError(
                    f"model.name = {name!r}: {place} has no weights; name a repository or folder that has them"
                )
            entry = snapshot_entry(kind, name, revision, place, self.hashes)
            self.models[name, revision] = self._with_state(entry, "fetched")

    def build_operations(self, run: RunOptions) -> None:
        if run.engine.name != "zero3" or "operations" in self.others:
            return
        import torch

        if not torch.cuda.is_available():
            # DeepSpeed picks its accelerator when it is first imported.
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        from xlt_scale.engines.compiled_ops import build_compiled_ops, extensions_directory, get_op_builder, needed_ops

        swaps = _swaps_to_nvme(run)
        if run.engine.device == "cuda" and not torch.cuda.is_available():
            state = "none needed by ZeRO-3 on GPUs"
            if swaps:
                state = "not built here: on a GPU node, python -m xlt_scale.engines.compiled_ops AsyncIOBuilder"
            self.others["operations"] = Entry("operations", "of DeepSpeed for GPUs", "", {}, state=state)
            return
        names = (*needed_ops(), *(["AsyncIOBuilder"] if swaps else []))
        self.say(f"DeepSpeed's operations: {', '.join(names) or 'none needed'}")
        build_compiled_ops(names)
        directory = extensions_directory()
        built = [directory / builder.name / f"{builder.name}.so" for builder in map(get_op_builder, names)]
        files = self.hashes.of(path for path in built if path.is_file())
        device = "GPUs" if torch.cuda.is_available() else "processors; on GPUs ZeRO-3 needs none"
        if swaps and not torch.cuda.is_available():
            device = "processors; on a GPU node: python -m xlt_scale.engines.compiled_ops AsyncIOBuilder"
        entry = Entry("operations", f"of DeepSpeed for {device}", str(directory), files, mend="parent")
        self.others["operations"] = self._with_state(entry, "built")

    def look_for_packages(self, run: RunOptions) -> None:
        if all(phase.optimizer != "adamw_8bit" for phase in run.phases) or "bitsandbytes" in self.others:
            return
        try:
            package = importlib.import_module("bitsandbytes")
        except Exception as error:  # it fails in its own ways where its libraries are missing
            raise UserError(
                f"optimizer = 'adamw_8bit' needs bitsandbytes, which cannot be imported: {reason(error)}; "
                "pip install bitsandbytes"
            ) from None
        place = str(Path(package.__file__ or "").parent)
        self.others["bitsandbytes"] = Entry("package", "bitsandbytes", place, {}, package.__version__, state="imported")

    def prepare_data(self, run: RunOptions) -> None:
        from xlt_scale.training.data_pieces import identity_of, pieces_of

        setup = _setup(run)
        self._note_made(setup)
        pieces = dict.fromkeys(piece for phase in run.phases for piece in pieces_of(setup, phase))
        said = ""
        for piece in pieces:
            spec = setup.catalogue[piece.task]
            preparer = setup.preparer_of(_with_length(run.phases[0], piece.max_length))
            identity = identity_of(preparer, spec, piece)
            if identity in self.seen:
                continue
            self.seen.add(identity)
            what = f"data of {piece.task}, {piece.split}, for {piece.use}"
            if what != said:
                self.say(what)
            said = what
            self._prepare_piece(preparer, spec, piece)

    def _prepare_piece(self, preparer: Any, spec: Any, piece: "Piece") -> None:
        from xlt_scale.data.token_cache import files_noted
        from xlt_scale.training.data_pieces import origins_of, tokenize_piece

        with files_noted() as tokens:
            tokenize_piece(preparer, spec, piece)
        origins = origins_of(preparer, spec, piece)
        self._data("tokens", piece, "file").add(tokens, piece.language)
        if spec.generator != "micro":
            self._data("files", piece, "leave").add(origins.files, piece.language)
            of_hub = self._data("data set", piece, "parent")
            of_hub.add(origins.hub, piece.language)
            of_hub.commits.update(dict.fromkeys(origins.commits))
            of_hub.revisions.update(dict.fromkeys(origins.revisions))

    def _data(self, kind: str, piece: "Piece", mend: Mend) -> "_Data":
        # The tables of a hub data set have all its splits together.
        return self.data.setdefault((kind, piece.task, "" if kind == "data set" else piece.split), _Data(mend))

    def _note_made(self, setup: "RunSetup") -> None:
        """What was made on the way to the data: the micro benchmark's world, a tokenizer of the run's own text, and
        files of the hub that loading the configuration and the tokenizer added.
        """
        world = setup.preparer.source.roots.get("micro")
        if world is not None:
            self._whole("micro world", world.name, world)
        trained = Path(setup.preparer.tokenizer.name_or_path)
        if setup.options.model.tokenizer.startswith("train:"):
            self._whole("tokenizer", setup.options.model.tokenizer, trained)
        for (name, revision), entry in self.models.items():
            again = snapshot_entry(entry.kind, name, revision, Path(entry.where), self.hashes)
            self.models[name, revision] = self._with_state(again, "fetched")

    def _whole(self, kind: str, name: str, folder: Path) -> None:
        files = self.hashes.of(path for path in sorted(folder.rglob("*")) if path.is_file())
        entry = Entry(kind, name, str(folder.absolute()), files, mend="whole")
        self.others[f"{kind} {name}"] = self._with_state(entry, "made")

    def data_entries(self) -> Iterable[Entry]:
        """An entry per task and split: what was read, and its tokens."""
        for (kind, task, split), found in sorted(self.data.items()):
            if not found.paths:
                continue
            paths = list(found.paths)
            languages = [language for language in found.languages if language]
            where = os.path.commonpath([str(path.absolute().parent) for path in paths])
            entry = Entry(
                kind,
                " ".join(filter(None, (task, split, *languages))),
                where,
                self.hashes.of(paths),
                ", ".join(filter(None, found.revisions)),
                ", ".join(found.commits),
                mend=found.mend,
            )
            new = {"tokens": "tokenised", "data set": "fetched", "files": "in place"}[kind]
            yield self._with_state(entry, new)

    def _with_state(self, entry: Entry, new: str) -> Entry:
        """Whether any of its files is of this start."""
        is_new = any(os.stat(path).st_mtime >= self.began for path in entry.files)
        if entry.mend == "leave":
            return Entry(**{**vars(entry), "state": "in place"})
        return Entry(**{**vars(entry), "state": new if is_new else "in cache"})


@dataclass
class _Data:
    """What one task and split is read from, or became; dictionaries as ordered sets."""

    mend: Mend
    paths: dict[Path, None] = field(default_factory=dict)
    languages: dict[str, None] = field(default_factory=dict)
    commits: dict[str, None] = field(default_factory=dict)
    revisions: dict[str, None] = field(default_factory=dict)

    def add(self, paths: Iterable[Path], language: str) -> None:
        self.paths.update(dict.fromkeys(paths))
        self.languages[language] = None


def _setup(run: RunOptions) -> "RunSetup":
    """The run as its ranks will see it, for one process and without a folder of its own."""
    import torch

    from xlt_scale.engines.world import World
    from xlt_scale.training.metrics import announcer
    from xlt_scale.training.setup import RunSetup, check_before_launch, read_inputs

    catalogue = check_before_launch(run)
    return RunSetup(
        options=run,
        world=World(0, 1, 0, torch.device("cpu")),
        folder=Path(run.output),
        **vars(read_inputs(run, catalogue)),
        precision="fp32",
        announce=announcer(False, run.logging),
        lock=None,
    )


def _with_length(phase: PhaseOptions, max_length: int) -> PhaseOptions:
    return phase.model_copy(update={"max_length": max_length})


def _swaps_to_nvme(run: RunOptions) -> bool:
    path = run.engine.deepspeed_config
    if not path:
        return False
    try:
        zero = json.loads(Path(path).read_text(encoding="utf-8"))["zero_optimization"]
        return any(zero.get(name, {}).get("device") == "nvme" for name in ("offload_optimizer", "offload_param"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False  # what is wrong with the file, the run says
