"""Micro-batches out of tokenised data, and the thread that makes them ahead of time."""

import threading
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from xlt_scale.data.assembly import Masking, Prefetcher, assemble
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.data.tokenizing import tokenize
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.examples import TextExamples as Examples
from xlt_scale.tasks.spec import TaskSpec

CATALOGUE = load_catalogue()
SEQUENCES = [[0, 10, 11, 2], [0, 20, 2], [0, 30, 31, 32, 33, 2]]


def data_of(sequences: list[list[int]], labels: list[int] | None = None, types: bool = False) -> TokenizedData:
    ids = np.array([i for sequence in sequences for i in sequence], dtype=np.int32)
    return TokenizedData.from_arrays(
        ids,
        (ids % 2).astype(np.uint8) if types else None,
        np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])]),
        None if labels is None else np.array(labels),
    )


def rows_of(batch: MicroBatch) -> list[list[int]]:
    ends = np.cumsum([0, *batch.lengths])
    return [batch.input_ids[start:end].tolist() for start, end in pairwise(ends)]


@pytest.fixture
def nli() -> TaskSpec:
    return CATALOGUE["snli"]


# Classification


def test_a_micro_batch_is_its_examples_one_after_another(nli: TaskSpec) -> None:
    batch = assemble(nli, data_of(SEQUENCES, [0, 1, 2]), np.array([2, 0]))
    assert batch.input_ids.tolist() == [0, 30, 31, 32, 33, 2, 0, 10, 11, 2]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert batch.lengths == [6, 4]
    assert batch.labels is not None and batch.labels.tolist() == [2, 0]
    assert batch.example_numbers.tolist() == [2, 0]
    assert (batch.head, batch.kind) == ("nli", "classification")
    assert batch.input_ids.dtype == batch.positions.dtype == batch.labels.dtype == torch.int64


def test_an_example_may_come_twice(nli: TaskSpec) -> None:
    assert rows_of(assemble(nli, data_of(SEQUENCES), np.array([1, 1]))) == [SEQUENCES[1], SEQUENCES[1]]


def test_token_types_follow_their_tokens(nli: TaskSpec) -> None:
    batch = assemble(nli, data_of(SEQUENCES, types=True), np.array([2, 1]))
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [i % 2 for i in batch.input_ids.tolist()]


def test_tokens_and_targets_are_counted(nli: TaskSpec) -> None:
    batch = assemble(nli, data_of(SEQUENCES, [0, 1, 2]), np.array([2, 0]))
    assert (batch.weight, batch.num_tokens, batch.num_real_tokens, batch.num_targets) == (1.0, 10, 10, 2)


def test_a_spare_micro_batch_is_the_shortest_example_and_counts_nothing(nli: TaskSpec) -> None:
    batch = assemble(nli, data_of(SEQUENCES, [0, 1, 2]), np.empty(0, dtype=np.int64))
    assert rows_of(batch) == [SEQUENCES[1]]
    assert (batch.weight, batch.num_real_tokens, batch.num_targets) == (0.0, 0, 0)


def test_data_without_labels_give_batches_without(nli: TaskSpec) -> None:
    batch = assemble(nli, data_of(SEQUENCES), np.array([0]))
    assert (batch.labels, batch.num_targets) == (None, 0)


def test_the_data_stay_as_they_are(nli: TaskSpec) -> None:
    data = data_of(SEQUENCES, [0, 1, 2])
    batch = assemble(nli, data, np.array([0]))
    batch.input_ids += 1
    assert data.input_ids[:4].tolist() == SEQUENCES[0]


# Other formats


@pytest.fixture
def choice() -> TaskSpec:
    return CATALOGUE["snli"].model_copy(update={"kind": "multiple_choice"})


def grouped_data() -> TokenizedData:
    """Two examples: sequences 0 and 1, and sequence 2."""
    data = data_of(SEQUENCES)
    return TokenizedData.from_arrays(
        data.input_ids, None, data.offsets, np.array([1, 0]), groups=np.array([0, 2, 3], dtype=np.int64)
    )


def tagged_data() -> TokenizedData:
    data = data_of(SEQUENCES)
    labels = np.array([-100, 4, 5, -100, -100, 6, -100, -100, 7, -100, 8, -100, -100], dtype=np.int16)
    return TokenizedData.from_arrays(data.input_ids, None, data.offsets, None, token_labels=labels)


def test_an_example_that_is_a_group_brings_all_its_sequences(choice: TaskSpec) -> None:
    batch = assemble(choice, grouped_data(), np.array([1, 0]))
    assert rows_of(batch) == [SEQUENCES[2], SEQUENCES[0], SEQUENCES[1]]
    assert batch.group_sizes == [1, 2]
    assert batch.positions.tolist() == [*range(6), *range(4), *range(3)]
    assert batch.labels is not None and batch.labels.tolist() == [0, 1]
    assert (batch.num_targets, batch.example_numbers.tolist()) == (2, [1, 0])


def test_single_sequences_are_no_groups(nli: TaskSpec) -> None:
    assert assemble(nli, data_of(SEQUENCES, [0, 1, 2]), np.array([0])).group_sizes is None


def test_targets_of_tagging_are_the_labelled_tokens_in_the_order_of_the_batch(nli: TaskSpec) -> None:
    spec = nli.model_copy(update={"kind": "tagging"})
    batch = assemble(spec, tagged_data(), np.array([2, 0]))
    assert batch.labels is not None and batch.label_positions is not None
    assert batch.labels.tolist() == [7, 8, 4, 5]
    assert batch.input_ids[batch.label_positions].tolist() == [30, 32, 10, 11]
    assert batch.labels.dtype == batch.label_positions.dtype == torch.int64


def test_spans_are_two_numbers_for_each_window(nli: TaskSpec) -> None:
    data = data_of(SEQUENCES)
    labels = np.array([[1, 2], [0, 0], [2, 4]])
    data = TokenizedData.from_arrays(data.input_ids, None, data.offsets, labels)
    batch = assemble(nli.model_copy(update={"kind": "span"}), data, np.array([2, 1]))
    assert batch.labels is not None and batch.labels.tolist() == [[2, 4], [0, 0]]
    assert batch.num_targets == 2


@pytest.mark.parametrize("labels", [[0, 1, 5], [0.0, 1.5, 5.0]])
def test_regression_has_real_numbers_however_they_are_written(nli: TaskSpec, labels: list[Any]) -> None:
    batch = assemble(nli.model_copy(update={"kind": "regression"}), data_of(SEQUENCES, labels), np.array([2, 1]))
    assert batch.labels is not None and batch.labels.dtype == torch.float32
    assert batch.labels.tolist() == [labels[2], labels[1]]


def test_a_spare_micro_batch_of_groups_is_a_whole_group(choice: TaskSpec) -> None:
    batch = assemble(choice, grouped_data(), np.empty(0, dtype=np.int64))
    assert rows_of(batch) == [SEQUENCES[2]]
    assert (batch.group_sizes, batch.weight, batch.num_targets) == ([1], 0.0, 0)
    assert batch.labels is not None and batch.labels.tolist() == [0]


def test_a_spare_micro_batch_of_tagging_has_a_target_for_the_head_but_none_for_the_loss(nli: TaskSpec) -> None:
    batch = assemble(nli.model_copy(update={"kind": "tagging"}), tagged_data(), np.empty(0, dtype=np.int64))
    assert batch.label_positions is not None and batch.label_positions.tolist() == [1]
    assert (batch.weight, batch.num_targets) == (0.0, 0)


# Masked language modelling


@pytest.fixture
def text(tokenizer: Any) -> TokenizedData:
    words = "the old man reads a long letter near the window and nobody knows why"
    return tokenize(Examples([words[i % 20 :] for i in range(200)]), tokenizer, 64)


def masked_rows(data: TokenizedData, masking: Masking, numbers: list[int], epoch: int = 0) -> dict[int, list[int]]:
    batch = assemble(CATALOGUE["mlm"], data, np.array(numbers), masking, epoch)
    return dict(zip(numbers, rows_of(batch), strict=True))


def test_masking_knows_the_special_tokens_of_the_tokenizer(tokenizer: Any) -> None:
    masking = Masking.for_tokenizer(tokenizer, 0.15, 1)
    assert np.flatnonzero(masking.special).tolist() == sorted(tokenizer.all_special_ids)
    assert masking.ordinary.tolist() == [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
    assert masking.mask_id == tokenizer.mask_token_id


def test_labels_are_the_tokens_under_the_label_positions(tokenizer: Any, text: TokenizedData) -> None:
    numbers = np.arange(50)
    batch = assemble(CATALOGUE["mlm"], text, numbers, Masking.for_tokenizer(tokenizer, 0.15, 1))
    unmasked = assemble(CATALOGUE["mlm"], text, numbers)
    assert batch.labels is not None and batch.label_positions is not None
    assert batch.labels.tolist() == unmasked.input_ids[batch.label_positions].tolist()
    changed = torch.nonzero(batch.input_ids != unmasked.input_ids).flatten().tolist()
    assert set(changed) <= set(batch.label_positions.tolist())
    assert batch.num_targets == len(batch.labels) > 0


def test_masks_are_the_same_whatever_the_micro_batch(tokenizer: Any, text: TokenizedData) -> None:
    masking = Masking.for_tokenizer(tokenizer, 0.15, 1)
    whole = masked_rows(text, masking, list(range(60)))
    for numbers in ([5], [59, 3, 20], list(range(30, 60))):
        assert masked_rows(text, masking, numbers) == {number: whole[number] for number in numbers}


def test_masks_are_new_in_each_epoch_and_with_each_key(tokenizer: Any, text: TokenizedData) -> None:
    one, other = (Masking.for_tokenizer(tokenizer, 0.15, key) for key in (1, 2))
    numbers = list(range(60))
    variants = [masked_rows(text, masking, numbers, epoch) for masking in (one, other) for epoch in (0, 1, 2)]
    assert all(a != b for i, a in enumerate(variants) for b in variants[:i])


def test_a_spare_micro_batch_has_no_targets(tokenizer: Any, text: TokenizedData) -> None:
    masking = Masking.for_tokenizer(tokenizer, 1.0, 1)
    batch = assemble(CATALOGUE["mlm"], text, np.empty(0, dtype=np.int64), masking)
    assert (batch.num_targets, batch.num_real_tokens) == (0, 0)


# The thread


def make_batches(step: int) -> list[MicroBatch]:
    return [assemble(CATALOGUE["snli"], data_of(SEQUENCES), np.array([step % 3]))]


def test_steps_come_in_order_and_end() -> None:
    with Prefetcher(make_batches, 2, 9) as batches:
        assert [int(batch.example_numbers[0]) for [batch] in batches] == [step % 3 for step in range(2, 9)]


def test_the_thread_stays_only_a_few_steps_ahead() -> None:
    made: list[int] = []

    def make(step: int) -> list[MicroBatch]:
        made.append(step)
        return []

    with Prefetcher(make, 0, 100, ahead=3) as batches:
        next(iter(batches))
        time.sleep(0.3)
        assert len(made) <= 1 + 3 + 1  # taken, waiting, and the one that finds no room


def test_an_exception_is_raised_where_the_batch_is_taken() -> None:
    def make(step: int) -> list[MicroBatch]:
        if step == 2:
            raise ValueError("broken example")
        return []

    taken = []
    with pytest.raises(ValueError, match="broken example"), Prefetcher(make, 0, 5) as batches:
        for batch in batches:
            taken.append(batch)
    assert len(taken) == 2


def test_leaving_early_ends_the_thread() -> None:
    with Prefetcher(make_batches, 0, 1000) as batches:
        for _ in batches:
            break
    assert [thread for thread in threading.enumerate() if thread.name == "batch-prefetch"] == []
