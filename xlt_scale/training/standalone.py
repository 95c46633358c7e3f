"""A run that only scores a model, from the model alone: what launch/evaluate.py carries out."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xlt_scale.checkpoint.finding import find_checkpoint
from xlt_scale.checkpoint.huggingface_export import find_tokenizer, tokenizer_files
from xlt_scale.checkpoint.huggingface_import import import_huggingface
from xlt_scale.checkpoint.manifest import Manifest, read_manifest
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.config import RunOptions, make_run
from xlt_scale.data.build_once import build_folder_once
from xlt_scale.errors import UserError
from xlt_scale.modeling.pretrained import pretrained_folder
from xlt_scale.tasks.catalogue import find_task, load_catalogue
from xlt_scale.tasks.spec import TaskSpec

PHASE = "evaluate"


def evaluation_run(model: str, tasks: Sequence[str], output: Path, settings: Sequence[str] = ()) -> RunOptions:
    """The options of a run with one phase, which scores `model` on `tasks`; called on every rank.

    Args:
        model: a phase's or checkpoint's folder, a Hugging Face model's, or a hub name.
        output: the run's folder. What is made of the model for scoring is kept in it.
        settings: further options, as for `--set`; the phase is called 'evaluate'.

    Raises:
        UserError: the model cannot be found or read, or its head has other labels than a task.
    """
    if (Path(model) / "config.json").is_file() or not Path(model).is_dir():
        source = pretrained_folder(model, "")
        checkpoint = build_folder_once(output / "imported", lambda folder: import_huggingface(source, folder))
        described = source
    else:
        checkpoint = find_checkpoint(Path(model)).folder
        described = build_folder_once(output / "model", lambda folder: _describe_model(checkpoint, folder))
    manifest = read_manifest(checkpoint)
    catalogue = load_catalogue()
    table: dict[str, Any] = {
        "output": str(output),
        "model": {"name": str(described), "max_length": _max_length(manifest, described)},
        "tasks": {name: changes for name in tasks if (changes := _fit(find_task(catalogue, name), manifest, model))},
        "phases": [{"name": PHASE, "parent": str(checkpoint), "evaluate": list(tasks)}],
    }
    return make_run(table, settings, f"evaluation of {model}")


def _describe_model(checkpoint: Path, folder: Path) -> None:
    """A folder with the configuration and the tokenizer that a checkpoint was trained with."""
    reader = CheckpointReader(checkpoint)
    tokenizer = find_tokenizer(reader)
    config = reader.manifest.facts.get("model")
    reader.close()
    if not config:
        raise UserError(f"{checkpoint} does not say which model it is of; use a checkpoint that launch/train.py wrote")
    if tokenizer is None:
        raise UserError(
            f"{checkpoint} has no tokenizer beside it; put the run's tokenizer/ into the checkpoint's folder"
        )
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    for path in tokenizer_files(tokenizer):
        shutil.copy2(path, folder / path.name)


def _max_length(manifest: Manifest, described: Path) -> int:
    """The sequence length that the phase was trained with; 128 tokens, the benchmarks' own, where it is not known."""
    trained_with = manifest.facts.get("identity", {}).get("max_length")
    return int(trained_with or 128)


def _fit(spec: TaskSpec, manifest: Manifest, model: str) -> Mapping[str, Any]:
    """Fields of a task's declaration that fit it to the model's head: an imported head is called after its kind, and
    its classes may come in another order.
    """
    if not spec.is_trainable:
        return {}
    heads = {head["name"]: head for head in manifest.facts.get("heads", [])}
    head = heads.get(spec.head) or heads.get(spec.kind)
    if head is None:
        return {}  # refused when the run is set up, with the heads that there are
    changes: dict[str, Any] = {} if head["name"] == spec.head else {"head": head["name"]}
    labels = [str(label) for label in head.get("labels") or []]
    if labels and spec.labels and labels != spec.labels:
        by_lower_case = {label.lower(): label for label in spec.labels}
        named = [by_lower_case.get(label.lower(), "") for label in labels]
        if sorted(named) != sorted(spec.labels):
            raise UserError(
                f"{model}: its head {head['name']!r} knows the labels {', '.join(labels)}, task {spec.name!r} has "
                f"{', '.join(spec.labels)}; score it on a task with the same labels"
            )
        changes["labels"] = named
    return changes
