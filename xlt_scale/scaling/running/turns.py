"""The turns of a batch job: it goes back into the queue as long as that gets it on, away from nodes lost twice."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xlt_scale.cluster.batch_history import TIMES_LOST_TO_BE_EXCLUDED
from xlt_scale.cluster.requeue import requeue
from xlt_scale.scaling.grid.folder import read_facts
from xlt_scale.scaling.records.atomic import write_atomically

_MOST_WITHOUT_PROGRESS = 5
_SECONDS_UNTIL_ENDED = 60.0


def take_another_turn(
    folder: Path, index: int, batch_job: str, endings: Sequence[dict[str, Any]], is_cancelled: bool
) -> None:
    """Have SLURM queue this batch job again, which ends this program. Returns when SLURM does not, when somebody has
    cancelled it, or when the last turns have got nowhere: then the control process decides.

    Args:
        folder: of the submission.
        endings: what the end files of this turn say.
    """
    path = folder / f"turns-{index}.json"
    facts = read_facts(path)
    lost = Counter(facts.get("lost", {}))
    lost.update({str(ending["lost_node"]) for ending in endings if ending.get("lost_node")})
    # Where the jobs were: a turn that ends where the one before has ended was of no use.
    place = sorted([str(ending.get("phase", "")), int(ending.get("step") or 0)] for ending in endings)
    in_vain = int(facts.get("in_vain", 0)) + 1 if place == facts.get("place") else 0
    table = {"lost": lost, "place": place, "in_vain": in_vain}
    write_atomically(path, (json.dumps(table) + "\n").encode())
    if not batch_job or is_cancelled or in_vain >= _MOST_WITHOUT_PROGRESS:
        return
    # Going back sends it to everything of this batch job, and what follows has to be done first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    excluded = sorted(node for node, times in lost.items() if times >= TIMES_LOST_TO_BE_EXCLUDED)
    after_loss = any(ending.get("lost_node") for ending in endings)
    lines = requeue(batch_job, excluded, os.environ, after_loss)
    for line in lines:
        print(line, flush=True)
    if lines[0].startswith("requeued"):
        time.sleep(_SECONDS_UNTIL_ENDED)
