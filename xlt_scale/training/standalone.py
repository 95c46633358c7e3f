"""A run that only scores a model, from the model alone: what launch/evaluate.py carries out."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from xlt_scale.checkpoint.finding import find_checkpoint
from xlt_scale.checkpoint.huggingface_export import find_tokenizer, find_weights, tokenizer_files
from xlt_scale.checkpoint.huggingface_import import import_huggingface
from xlt_scale.checkpoint.manifest import Manifest, read_manifest
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.config import RunOptions, make_run
from xlt_scale.config_files import apply_setting
from xlt_scale.data.build_once import build_folder_once
from xlt_scale.errors import UserError
from xlt_scale.modeling.pretrained import content_of_weight_files, pretrained_folder
from xlt_scale.tasks.catalogue import find_task, load_catalogue
from xlt_scale.tasks.spec import TaskSpec

PHASE = "evaluate"


def evaluation_run(
    model: str,
    tasks: Sequence[str],
    output: Path,
    settings: Sequence[str] = (),
    run_file: Mapping[str, Any] | None = None,
) -> RunOptions:
    """The options of a run with one phase, which scores `model` on `tasks`; called on every rank.

    Args:
        model: a phase's or checkpoint's folder, a Hugging Face model's, or a hub name.
        output: the run's folder. What is made of the model for scoring is kept in it.
        settings: further options, as for `--set`; the phase is called 'evaluate'.
        run_file: the tables of a run file: its [tasks], [data] and [engine] hold here too.

    Raises:
        UserError: the model cannot be found or read, a task is unknown, or the model's heads do not fit it.
    """
    table: dict[str, Any] = {name: (run_file or {})[name] for name in _SHARED_TABLES if name in (run_file or {})}
    for setting in settings:
        if setting.startswith("tasks."):
            apply_setting(table, setting)
    catalogue = load_catalogue(table.get("tasks"))
    specs = [find_task(catalogue, name) for name in tasks]
    _make_folder(output)
    given: dict[str, Any] = {"model": {}}
    for setting in settings:
        if setting.startswith("model."):
            apply_setting(given, setting)
    revision, needs_tokenizer = str(given["model"].get("revision", "")), "tokenizer" not in given["model"]
    checkpoint, described = _find_model(model, output, revision, needs_tokenizer)
    manifest = read_manifest(checkpoint)
    declared = {name: dict(fields) for name, fields in table.get("tasks", {}).items()}
    for spec in specs:
        if changes := _fit(spec, manifest, model):
            declared[spec.name] = declared.get(spec.name, {}) | changes
    identity = manifest.facts.get("identity", {})
    phase = {"name": PHASE, "parent": str(checkpoint.absolute()), "evaluate": list(dict.fromkeys(tasks))}
    table |= {
        "output": str(output),
        # 128 tokens are the benchmarks' own, where it is not known what the phase was trained with.
        "model": {"name": str(described), "max_length": int(identity.get("max_length") or 128)},
        "tasks": declared,
        "phases": [phase | {"max_length": int(identity.get("phase", {}).get("max_length") or 0)}],
    }
    return make_run(table, [text for text in settings if not text.startswith("tasks.")], f"evaluation of {model}")


_SHARED_TABLES = ("tasks", "data", "engine")


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output} cannot be made: {error.strerror or error}; choose another folder") from None


def _find_model(model: str, output: Path, revision: str, needs_tokenizer: bool) -> tuple[Path, Path]:
    """The checkpoint, and a Hugging Face folder that says what model it is of, with its tokenizer.

    What has to be made for that is named after its content: another model in the same output gets its own.
    """
    path = Path(model)
    if (path / "config.json").is_file() or not path.is_dir():
        source = pretrained_folder(model, revision)
        digest = hashlib.blake2b(content_of_weight_files(source).encode(), digest_size=8)
        digest.update((source / "config.json").read_bytes() if (source / "config.json").is_file() else b"")
        folder = output / "models" / f"imported-{digest.hexdigest()}"
        return build_folder_once(folder, lambda place: import_huggingface(source, place)), source
    # Of a finished phase its result: with keep = 'best' it is no longer the newest of its checkpoints.
    checkpoint = find_weights(path) if (path / "phase.json").is_file() else find_checkpoint(path).folder
    with closing(CheckpointReader(checkpoint)) as reader:
        config, tokenizer = reader.manifest.facts.get("model"), find_tokenizer(reader)
    if not config:
        raise UserError(f"{checkpoint} does not say which model it is of; use a checkpoint that launch/train.py wrote")
    if tokenizer is None and needs_tokenizer:
        raise UserError(
            f"{checkpoint} has no tokenizer beside it; put the run's tokenizer/ into that folder, or give "
            "--set model.tokenizer=NAME"
        )
    files = tokenizer_files(tokenizer) if tokenizer else []
    text = json.dumps(config, indent=1, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8)
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    folder = output / "models" / f"described-{digest.hexdigest()}"
    return checkpoint, build_folder_once(folder, lambda place: _describe_model(place, text, files))


def _describe_model(folder: Path, config: str, tokenizer: Sequence[Path]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config, encoding="utf-8")
    for path in tokenizer:
        shutil.copy2(path, folder / path.name)


def _fit(spec: TaskSpec, manifest: Manifest, model: str) -> dict[str, Any]:
    """Fields of a task's declaration that fit it to the model's head: an imported head is called after its kind, and
    its classes may come in another order.

    Raises:
        UserError: no head of the model's is of that kind, with those classes.
    """
    if not spec.is_trainable or spec.metric == "loss":
        return {}  # the latter is refused when the run is set up
    heads = {head["name"]: head for head in manifest.facts.get("heads", [])}
    head = heads.get(spec.head) or heads.get(spec.kind)
    if head is None or head["kind"] != spec.kind:
        there = ", ".join(f"{name} ({entry['kind']})" for name, entry in heads.items()) or "none"
        raise UserError(
            f"{model} has no head {spec.head!r} ({spec.kind}) to score task {spec.name!r} with, its heads: {there}; "
            "train one with launch/train.py, or score retrieval tasks, which need none"
        )
    changes: dict[str, Any] = {} if head["name"] == spec.head else {"head": head["name"]}
    labels = [str(label) for label in head.get("labels") or []]
    if not spec.labels:
        return changes | ({"labels": labels} if labels and spec.kind == "tagging" else {})
    if not labels and head["num_labels"] == spec.num_classes:
        _say(f"{model} does not name its classes; task {spec.name} takes them as {', '.join(spec.labels)}")
    if not labels or labels == spec.labels or spec.kind == "multiple_choice":
        return changes  # another number of classes is refused when the run is set up
    by_lower_case = {word.lower(): label for word, label in _spellings(spec).items()}
    named = [by_lower_case.get(label.lower(), "") for label in labels]
    if sorted(named) != sorted(spec.labels):
        raise UserError(
            f"{model}: its head {head['name']!r} knows the labels {', '.join(labels)}, task {spec.name!r} has "
            f"{', '.join(spec.labels)}; score it on a task with the same labels, or declare how they are spelt with "
            f"--set tasks.{spec.name}.label_aliases.SPELLING=LABEL"
        )
    return changes | ({"labels": named} if named != spec.labels else {})


def _spellings(spec: TaskSpec) -> dict[str, str]:
    return {**spec.label_aliases, **{label: label for label in spec.labels}}


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)
