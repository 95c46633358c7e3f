"""What a run takes from outside: its model and its data, whether they lie here, and the disk it fills."""

from collections.abc import Iterator
from pathlib import Path

from xlt_scale.config import RunOptions
from xlt_scale.doctor.findings import Finding
from xlt_scale.errors import UserError
from xlt_scale.hub import PREFETCH, hub_cache, is_offline
from xlt_scale.tasks.catalogue import find_task, load_catalogue
from xlt_scale.tasks.hub import where_read
from xlt_scale.tasks.loading import DataSource, available_languages, find_origin, scored_split
from xlt_scale.tasks.sources import code_of
from xlt_scale.tasks.spec import Split, TaskSpec

# Weights and two moments, each stored as fp32 whatever a run keeps them in; a phase's result has the weights alone.
_BYTES_OF_STATE = 12
_BYTES_OF_RESULT = 4


def bytes_needed(options: RunOptions, num_parameters: int) -> int:
    """Free disk that the run needs: checkpoints that stay while another is written, and what phases end with."""
    trained = [phase for phase in options.phases if phase.trains]
    kept = sum(phase.weights == "keep" for phase in trained)
    if not trained:
        return 0
    return num_parameters * (_BYTES_OF_STATE * (options.checkpoints.keep_last + 1) + _BYTES_OF_RESULT * (kept + 1))


def check_run(options: RunOptions) -> list[Finding]:
    """Whether the run's model, tokenizer and data lie on this node; fetches nothing. Called by one process of each
    node.
    """
    return [_check_model(options), *_check_data(options)]


def _check_model(options: RunOptions) -> Finding:
    model = options.model
    wanted = {"model.name": model.name, "model.tokenizer": "" if model.tokenizer == "micro" else model.tokenizer}
    absent = []
    for key, name in wanted.items():
        if not name or Path(name).is_dir():
            continue
        revision = model.revision if key == "model.name" else ""
        files = ("config.json",) if key == "model.name" else ("tokenizer.json", "tokenizer_config.json")
        if not any(_is_cached(name, file, revision) for file in files):
            absent.append(f"{key} = {name!r}")
        elif key == "model.name" and not _has_weights(name, revision):
            absent.append(f"the weights of {key} = {name!r}")
    if absent:
        return _absent("model", " and ".join(absent), hub_cache())
    return Finding("model", "pass", "its files lie here" if any(wanted.values()) else "from scratch: needs no files")


def _is_cached(name: str, file: str, revision: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(name, file, revision=revision or None), str)
    except ValueError:
        # Neither a folder nor a name that the hub could have.
        return False


def _has_weights(name: str, revision: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision or None)
    folder = Path(str(found)).parent
    return any(path.exists() for pattern in ("*.safetensors", "pytorch_model*.bin") for path in folder.glob(pattern))


def _absent(check: str, what: str, place: str) -> Finding:
    if is_offline():
        return Finding(check, "fail", f"{what} is not in {place}, and HF_HUB_OFFLINE is set", PREFETCH)
    mend = f"{PREFETCH}, and export HF_HUB_OFFLINE=1"
    return Finding(check, "warn", f"{what} is not in {place}: it will be fetched at the start", mend)


def _check_data(options: RunOptions) -> list[Finding]:
    try:
        catalogue = load_catalogue(options.tasks)
        source = _source(options)
        missing, from_hub = [], []
        for spec, split, language in _items(options, catalogue, source):
            for part in spec.part_tasks or [spec]:
                try:
                    origin = find_origin(part, split, language, source)
                except UserError as error:
                    missing.append(str(error))
                    continue
                hub = origin.hub
                if hub and not Path(hub.dataset).exists() and where_read(hub, code_of(part, hub, language)) is None:
                    from_hub.append(hub.dataset)
    except UserError as error:
        return [Finding("data", "fail", str(error), "correct the run file")]
    findings = [Finding("data", "fail", line, PREFETCH) for line in dict.fromkeys(missing)]
    if from_hub:
        findings.append(_absent("data", f"hub dataset {', '.join(dict.fromkeys(from_hub))}", "the cache"))
    return findings or [Finding("data", "pass", "all files of its tasks lie here")]


def _source(options: RunOptions) -> DataSource:
    from xlt_scale.data.prepare import data_source

    # The micro world is generated where it is needed: nothing has to lie there.
    return data_source(options.data, uses_micro=False)


def _items(
    options: RunOptions, catalogue: dict[str, TaskSpec], source: DataSource
) -> Iterator[tuple[TaskSpec, Split, str]]:
    """Task, split and language of what phases train on and are scored on."""
    for phase in options.phases:
        for name in phase.tasks:
            spec = find_task(catalogue, name)
            if spec.generator:
                continue
            languages = phase.languages_of(name) or [spec.source_language]
            if spec.kind == "masked_language_modeling":
                languages = phase.languages_of(name) or available_languages(spec, phase.train_split, source)
            for language in languages:
                yield spec, phase.train_split, language
        for name in phase.evaluate:
            spec = find_task(catalogue, name)
            if spec.generator:
                continue
            split = scored_split(spec, source, phase.evaluate_split)
            for language in phase.evaluate_languages or available_languages(spec, split, source):
                yield spec, split, language
