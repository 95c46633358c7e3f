"""The labelled sets: nine intermediate tasks and five target tasks, balanced by construction.

A label can only be told from what the words mean: segments have the same lengths, the same number of shared and of
function tokens, and words of the same classes in every class of a task (tests hold word-blind classifiers to chance).
"""

import random
from collections.abc import Hashable

from xlt_scale.micro.choice_tasks import CHOICE_TASKS
from xlt_scale.micro.items import Item, LabelledTask
from xlt_scale.micro.question_tasks import QUESTION_TASKS
from xlt_scale.micro.sentence_tasks import SENTENCE_TASKS
from xlt_scale.micro.sentences import Split
from xlt_scale.micro.tagging_tasks import TAGGING_TASKS

# Far more than any split needs, so that a count which the world cannot fill ends in an error, not in a long wait.
_MOST_TRIES = 200_000

TASKS: tuple[LabelledTask, ...] = (*SENTENCE_TASKS, *QUESTION_TASKS, *TAGGING_TASKS, *CHOICE_TASKS)


def sample_items(task: LabelledTask, split: Split, world_seed: int) -> list[Item]:
    """The items of a split: equally many of each label, no meaning drawn twice, in a random order."""
    rng = random.Random(f"{world_seed}/{task.name}/{split}")
    items: list[Item] = []
    seen: set[Hashable] = set()
    for _ in range(_MOST_TRIES):
        if len(items) == task.counts[split]:
            rng.shuffle(items)
            return items
        group = task.sampler(rng, world_seed, split)
        if group is None:
            continue
        meanings = {item.meaning for item in group}
        if not meanings & seen:
            seen |= meanings
            items += group
    raise ValueError(f"{task.name}: the world has fewer than {task.counts[split]} {split} items: lower the count")
