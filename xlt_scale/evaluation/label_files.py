"""Gold labels in XTREME's layout, beside a run's predictions, so that `xlt-scale score` needs nothing else."""

import json
from pathlib import Path
from typing import Any

from xlt_scale.evaluation.prediction_files import write_predictions
from xlt_scale.tasks.spec import TaskSpec


def write_labels(path: Path, spec: TaskSpec, labels: Any) -> None:
    """Write the labels that a task's scorer took, as `read_labels` reads them.

    Questions become a SQuAD file of the answers alone: contexts and questions stay in the published files.

    Raises:
        OSError: the file cannot be written.
    """
    if spec.kind != "span":
        write_predictions(path, spec.metric, labels)
        return
    questions = [
        {"id": name, "answers": [{"text": text} for text in texts], "is_impossible": not texts}
        for name, texts in labels.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"data": [{"paragraphs": [{"qas": questions}]}]}
    path.write_text(json.dumps(table, ensure_ascii=False) + "\n", encoding="utf-8")
