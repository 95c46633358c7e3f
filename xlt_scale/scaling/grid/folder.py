"""The folder of a study: where everything lies, and what its files say has been done."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt_scale.study_config import StudyOptions


@dataclass(frozen=True)
class StudyFolder:
    """The files are the state: nothing else remembers what a study has done.

    ```
    study.toml            the resolved options of the last start
    events.jsonl          what runners did: job started, ended, failed
    phases/ (the pool)    <phase>/: result, checkpoints, phase.json, scores.json, predictions, outcomes (a run's phases)
    jobs/<job>/           job.toml, log.txt, run.toml, environment.json, metrics.jsonl; phases -> the pool
    records/<phase>.json  the record of a finished phase; <phase>.safetensors: its outcomes item by item
    index/                all records in few files; can be rebuilt
    report/               index.html, figures, tables
    ```
    """

    root: Path
    pool: Path

    @classmethod
    def of(cls, study: StudyOptions) -> "StudyFolder":
        return cls(study.folder, study.pool_folder)

    @property
    def study_file(self) -> Path:
        return self.root / "study.toml"

    @property
    def events_file(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def index(self) -> Path:
        return self.root / "index"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def phase(self, name: str) -> Path:
        return self.pool / name

    def record_file(self, phase: str) -> Path:
        return self.records / f"{phase}.json"

    def outcome_file(self, phase: str) -> Path:
        return self.records / f"{phase}.safetensors"

    def claim_file(self, phase: str) -> Path:
        """Locked by whoever works on a phase, whichever study wants it."""
        return self.pool / ".claims" / phase

    def recorded(self) -> set[str]:
        """Phases that have a record; one listing of a folder, no file is opened."""
        if not self.records.is_dir():
            return set()
        with os.scandir(self.records) as entries:
            names = [entry.name for entry in entries]
        return {name.removesuffix(".json") for name in names if name.endswith(".json") and name[0] != "."}

    def has_weights(self, phase: str) -> bool:
        """Whether other phases can start from it: it is trained, and its weights are there."""
        facts = read_facts(self.phase(phase) / "phase.json")
        named = facts.get("checkpoint")
        return named is not None and (self.phase(phase) / named / "manifest.json").is_file()


def read_facts(path: Path) -> dict[str, Any]:
    """A JSON object from a file; {} when it is absent or half-written."""
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}
