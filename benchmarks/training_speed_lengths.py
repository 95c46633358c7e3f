"""Random examples with the lengths of inference or of question answering, and the stock stacks' batches of them."""

from dataclasses import dataclass

import numpy as np
import torch
from training_speed_cases import Case

from xlt_scale.data.tokens import TokenizedData

NLI_MEDIAN = 38
NUM_LABELS = 3
_SHORTEST = 8
_FIRST_WORD = 5  # below lie the special tokens


def lengths_of(case: Case, count: int) -> np.ndarray:
    """Tokens of each example, int64 [count].

    NLI: log-normal with median 38, cut at 128. The spread of the logarithm, 0.42, is that of the characters of premise
    and hypothesis together in XNLI's development set (0.40 to 0.43 in seven languages), which the tokenizer hardly
    changes; the mean is then 41.5. QA: windows of 384, all full. Even: 40 each, for counting operations.
    """
    if case.lengths != "nli":
        return np.full(count, case.max_length if case.lengths == "qa" else 40, dtype=np.int64)
    random = np.random.default_rng((case.seed, count))
    drawn = np.exp(random.normal(np.log(NLI_MEDIAN), case.spread, count))
    return np.clip(drawn.round(), _SHORTEST, case.max_length).astype(np.int64)


def make_data(case: Case, count: int) -> TokenizedData:
    """So many classified sequences of random tokens."""
    lengths = lengths_of(case, count)
    random = np.random.default_rng((case.seed, 1))
    tokens = random.integers(_FIRST_WORD, case.shape.vocab_size, lengths.sum(), dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens[offsets[:-1]], tokens[offsets[1:] - 1] = 0, 2
    return TokenizedData.from_arrays(tokens, None, offsets, random.integers(0, NUM_LABELS, count))


@dataclass(frozen=True)
class Amount:
    """How much one step computes: real tokens, the sum of squared lengths, and tokens as they stand in its batches."""

    tokens: int
    squared_lengths: int
    computed_tokens: int

    @classmethod
    def of(cls, lengths: np.ndarray, computed_tokens: int) -> "Amount":
        return cls(int(lengths.sum()), int((lengths.astype(np.int64) ** 2).sum()), computed_tokens)


@dataclass(frozen=True)
class PaddedStep:
    """One optimiser step of a stock stack: its micro-batches as the model's arguments."""

    micro_batches: list[dict[str, torch.Tensor]]
    amount: Amount


def example_order(case: Case, lengths: np.ndarray, num_steps: int) -> np.ndarray:
    """Example numbers [num_steps, batch] in the order that Hugging Face's Trainer would give them."""
    generator = torch.Generator().manual_seed(case.seed)
    if case.batching == "grouped":
        from transformers.trainer_pt_utils import get_length_grouped_indices

        order = np.array(get_length_grouped_indices(lengths.tolist(), case.batch, generator=generator))
    else:
        order = torch.randperm(len(lengths), generator=generator).numpy()
    wanted = num_steps * case.batch
    # Spread over the whole order: its first batches are the longest ones.
    batches = order[: len(order) // case.batch * case.batch].reshape(-1, case.batch)
    chosen = np.random.default_rng(case.seed).permutation(len(batches))
    return batches[np.resize(chosen, wanted // case.batch)]


def pad(data: TokenizedData, numbers: np.ndarray, longest: int) -> dict[str, torch.Tensor]:
    """These examples padded to `longest`, as the arguments of a Hugging Face classifier."""
    input_ids = np.ones((len(numbers), longest), dtype=np.int64)
    mask = np.zeros((len(numbers), longest), dtype=np.int64)
    for row, number in enumerate(numbers):
        sequence = data.input_ids[data.offsets[number] : data.offsets[number + 1]]
        input_ids[row, : len(sequence)], mask[row, : len(sequence)] = sequence, 1
    assert data.labels is not None
    arrays = {"input_ids": input_ids, "attention_mask": mask, "labels": data.labels[numbers]}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def padded_steps(case: Case, data: TokenizedData, num_steps: int) -> list[PaddedStep]:
    """The steps of a stock stack, ready made, so that it never waits for data."""
    lengths = data.lengths.astype(np.int64)
    steps = []
    for numbers in example_order(case, lengths, num_steps):
        micro_batches = []
        for start in range(0, case.batch, case.micro_batch):
            part = numbers[start : start + case.micro_batch]
            longest = int(lengths[part].max()) if case.batching == "grouped" else case.max_length
            micro_batches.append(pad(data, part, longest))
        computed = sum(batch["input_ids"].numel() for batch in micro_batches)
        steps.append(PaddedStep(micro_batches, Amount.of(lengths[numbers], computed)))
    return steps
