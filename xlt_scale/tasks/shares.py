"""A published split cut at random into disjoint shares."""

import numpy as np

from xlt_scale.errors import UserError
from xlt_scale.tasks.examples import ChoiceExamples, Examples, QuestionExamples, TaggedExamples, TextExamples
from xlt_scale.tasks.spec import Split, TaskSpec


def take_share(spec: TaskSpec, split: Split, examples: Examples) -> Examples:
    """The examples of a published split that are `split`'s share, in published order.

    Which they are depends on `split_seed` and the number of examples alone, on every platform. Examples with the same
    first text stay together, so that no share holds a passage, premise or sentence of another; of a parallel task,
    whose languages must be cut alike, rows are drawn one by one.

    Raises:
        UserError: examples of a kind that cannot be cut, or a share without examples.
    """
    size = len(examples)
    groups = np.arange(size) if spec.parallel else _groups(spec, examples)
    num_groups = int(groups.max()) + 1 if size else 0
    # The raw stream of Philox is the same with every NumPy; its permutations are not promised to be.
    draws = np.random.Philox(key=spec.split_seed).random_raw(num_groups)
    order = np.argsort(draws, kind="stable")
    sizes = np.bincount(groups, minlength=num_groups)[order]
    # A group belongs to the share in which its middle lies when all are laid out in the order drawn.
    middles = np.empty(num_groups)
    middles[order] = (np.cumsum(sizes) - sizes / 2) / max(size, 1)
    begin = 0.0
    for name, share in spec.split_shares.items():
        if name == split:
            chosen = np.flatnonzero(((middles >= begin) & (middles < begin + share))[groups])
            break
        begin += share
    if not len(chosen):
        raise UserError(f"task {spec.name!r}: split_shares leave no example for {split}; give it a larger share")
    return examples.take(chosen.tolist())


def _groups(spec: TaskSpec, examples: Examples) -> np.ndarray:
    """A number for each example, the same for those with the same first text."""
    match examples:
        case TextExamples():
            keys: list[object] = list(examples.texts)
        case ChoiceExamples() | QuestionExamples():
            keys = list(examples.contexts)
        case TaggedExamples():
            keys = [tuple(words) for words in examples.words]
        case _:
            raise UserError(f"task {spec.name!r}: split_shares cannot cut a {spec.kind} task; remove them")
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
