"""Records of the phases that are done: from the pool's folders to the study's records."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.design import StudyGrid
from xlt_scale.scaling.grid.folder import StudyFolder, read_facts
from xlt_scale.scaling.records.outcome_store import Packed, headline_arrays, packed_outcomes, write_outcome_file
from xlt_scale.scaling.records.record_index import finished
from xlt_scale.scaling.records.recording import Recorder, answers
from xlt_scale.scaling.records.records import Record, read_record, write_record

logger = logging.getLogger(__name__)

Notify = Callable[[str], None]


def collect(
    folder: StudyFolder, grid: StudyGrid, phases: Iterable[str] | None = None, notify: Notify = logger.warning
) -> list[str]:
    """Write the record of every phase that is trained and scored as the grid asks, and has none yet.

    A record that lacks what the grid now asks for (a further scored task, another split) is made anew, or set aside in
    records/earlier/ until the phase is scored again.

    Outcomes come first and the record last: a record is whole with everything it names. Collectors may work at the same
    time; they write the same bytes.

    Args:
        phases: names of the phases to look at; default: all.
        notify: called with what was left out, once each.

    Returns:
        the names of the phases that were recorded.

    Raises:
        OSError: a record cannot be written.
    """
    names = None if phases is None else list(dict.fromkeys(phases))
    recorder, done, complete = Recorder(folder, grid), [], _complete(folder, grid, names)
    for name in grid.phases if names is None else names:
        planned = grid.phases.get(name)
        if planned is None or name in complete:
            continue
        facts = read_facts(folder.phase(name) / "phase.json")
        if not facts:
            _set_aside(folder, name, notify)
            continue
        scores = read_facts(folder.phase(name) / "scores.json") if planned.options.evaluate else {}
        problem = recorder.problem(planned, facts, scores)
        if problem:
            if "move the folder" in problem:
                notify(f"{folder.phase(name)}: {problem}")
            _set_aside(folder, name, notify)
            continue
        _write(folder, recorder.record(planned, facts, scores), notify)
        done.append(name)
    return done


def _complete(folder: StudyFolder, grid: StudyGrid, names: Collection[str] | None) -> set[str]:
    """Phases whose records have all that the grid asks for."""
    if names is None:
        return finished(folder, grid)
    found = set()
    for name in set(names) & folder.recorded() & grid.phases.keys():
        try:
            is_complete = answers(read_record(folder.record_file(name))["asked"], grid.phases[name])
        except UserError:
            # Said when the records are read. Nothing is overwritten that somebody may still want to look at.
            is_complete = True
        if is_complete:
            found.add(name)
    return found


def _set_aside(folder: StudyFolder, name: str, notify: Notify) -> None:
    """Take a record that the plan asks more of out of the way, so that the phase is carried out again."""
    place = folder.records / "earlier"
    for path in (folder.record_file(name), folder.outcome_file(name)):
        if path.is_file():
            place.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                path.replace(place / path.name)
                if path.suffix == ".json":
                    notify(f"{name}: the study asks for other scores than its record has; it was moved to {place}")


def _write(folder: StudyFolder, record: Record, notify: Notify) -> None:
    outcomes = _outcomes(folder.phase(record["phase"]), record, notify)
    if outcomes:
        path = folder.outcome_file(record["phase"])
        write_outcome_file(path, outcomes)
        record = {**record, "outcomes": path.name}
    write_record(folder.record_file(record["phase"]), record)


def _outcomes(phase: Path, record: Record, notify: Notify) -> dict[tuple[str, str], dict[str, Packed]]:
    """The outcomes behind the record's scores, packed; those that are missing or of another scoring are left out."""
    found = {}
    for task, languages in record["scores"].items():
        request = record["scorers"][task]
        for language, values in languages.items():
            if request["headline"] not in values:
                continue
            path = phase / "outcomes" / task / f"{request['split']}-{language}.safetensors"
            try:
                arrays = _read(path, request["scorer"])
                found[task, language] = packed_outcomes(arrays, request["headline"], values[request["headline"]])
            except (OSError, ValueError, SafetensorError) as error:
                why = "missing" if isinstance(error, FileNotFoundError) else str(error)
                notify(f"{path}: {why}; the record of {record['phase']} is without outcomes of {task} in {language}")
                continue
            if not headline_arrays(request["headline"], list(arrays)):
                notify(f"{task}: its outcomes do not allow to resample items; only seeds are, there")
    return found


def _read(path: Path, scorer: str) -> Mapping[str, Any]:
    with safe_open(path, framework="numpy") as file:
        made_by = (file.metadata() or {}).get("scorer")
        if made_by != scorer:
            raise ValueError(f"made by scorer {made_by}, the scores by {scorer}")
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dictionary)
