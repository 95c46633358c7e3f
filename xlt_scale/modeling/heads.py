"""Heads of the task formats. All read real tokens in one row, whether the encoder ran unpadded or padded.

Each head has two duties: the summed loss over the targets of a micro-batch, and predictions. The loop divides the sum
by the number of targets of the whole global batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.tasks.spec import TaskKind


@dataclass(frozen=True)
class HeadSpec:
    """What a head must know to be built: its name, format, and number of classes."""

    name: str
    kind: TaskKind
    num_labels: int = 0
    pooling: str = "first"


def sequence_starts(batch: MicroBatch, device: torch.device) -> Tensor:
    """Row number of each sequence's first token, int64 [sequences]."""
    lengths = torch.tensor(batch.lengths)
    return (lengths.cumsum(0) - lengths).to(device, non_blocking=True)


def owners_of_tokens(batch: MicroBatch, device: torch.device) -> Tensor:
    """The number of the sequence that each token of the row belongs to, int64 [T]."""
    lengths = torch.tensor(batch.lengths, device=device)
    sequences = torch.arange(len(batch.lengths), device=device)
    # With the size given, a GPU need not be asked for it.
    return torch.repeat_interleave(sequences, lengths, output_size=batch.num_tokens)


def mean_of_sequences(hidden: Tensor, batch: MicroBatch) -> Tensor:
    """Mean over each sequence's tokens, special tokens included: [T, hidden size] -> [sequences, hidden size].

    Summed in fp32: in bf16 the sum of a hundred tokens would lose most of each.
    """
    sums = torch.zeros(len(batch.lengths), hidden.shape[-1], device=hidden.device)
    sums = sums.index_add(0, owners_of_tokens(batch, hidden.device), hidden.float())
    lengths = torch.tensor(batch.lengths, device=hidden.device)
    return (sums / lengths[:, None]).to(hidden.dtype)


class Head(nn.Module):
    """What all heads have: from scores [targets, classes] to the summed loss and to predictions."""

    def loss_sum(self, scores: Tensor, batch: MicroBatch) -> Tensor:
        """Cross-entropy in fp32, summed over the batch's targets: a scalar."""
        assert batch.labels is not None
        return cross_entropy(scores.float(), batch.labels, reduction="sum")

    def predictions(self, scores: Tensor, batch: MicroBatch) -> Tensor:
        """The class of each target, int64 [targets]."""
        return scores.argmax(-1)


class ClassificationHead(Head):
    """A sentence or sentence pair gets one class: dense, tanh, projection, as RoBERTa's (Liu et al. 2019)."""

    def __init__(self, spec: HeadSpec, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.pooling = spec.pooling
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(hidden_size, spec.num_labels)

    def forward(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """[T, hidden size] -> scores [examples, labels]."""
        if self.pooling == "mean":
            pooled = mean_of_sequences(hidden, batch)
        else:
            pooled = hidden[sequence_starts(batch, hidden.device)]
        pooled = torch.tanh(self.dense(self.dropout(pooled)))
        return self.out_proj(self.dropout(pooled))


class MultipleChoiceHead(Head):
    """One sequence per choice, a score from its first token, softmax over the choices of an example."""

    def __init__(self, spec: HeadSpec, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(hidden_size, 1)

    def forward(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """[T, hidden size] -> scores [examples, choices]."""
        first = hidden[sequence_starts(batch, hidden.device)]
        return self.score(self.dropout(first)).view(-1, batch.num_choices)


class SpanHead(Head):
    """Start and end scores for every token; softmax over the tokens of a sequence (Devlin et al. 2019, 4.2)."""

    def __init__(self, spec: HeadSpec, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.qa_outputs = nn.Linear(hidden_size, 2)

    def forward(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """[T, hidden size] -> start and end scores [sequences, longest, 2], -inf behind a sequence's end."""
        scores = self.qa_outputs(hidden)
        dense = scores.new_full((len(batch.lengths), max(batch.lengths), 2), float("-inf"))
        return dense.index_put((owners_of_tokens(batch, hidden.device), batch.positions), scores)

    def loss_sum(self, scores: Tensor, batch: MicroBatch) -> Tensor:
        assert batch.labels is not None
        start = cross_entropy(scores[..., 0].float(), batch.labels[:, 0], reduction="sum")
        end = cross_entropy(scores[..., 1].float(), batch.labels[:, 1], reduction="sum")
        return (start + end) / 2

    def predictions(self, scores: Tensor, batch: MicroBatch) -> Tensor:
        """The best span of each sequence, int64 [sequences, 2], its end not before its start."""
        pairs = scores[..., 0][:, :, None] + scores[..., 1][:, None, :]
        pairs = pairs.masked_fill(torch.ones_like(pairs, dtype=torch.bool).tril(-1), float("-inf"))
        best = pairs.flatten(1).argmax(-1)
        return torch.stack([best // scores.shape[1], best % scores.shape[1]], dim=-1)


class TaggingHead(Head):
    """A class for each labelled token (the first sub-word of a word)."""

    def __init__(self, spec: HeadSpec, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, spec.num_labels)

    def forward(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """[T, hidden size] -> scores [targets, labels]."""
        return self.classifier(self.dropout(hidden[batch.label_positions]))


class MaskedLanguageModelingHead(Head):
    """Dense, GELU, layer norm, and the word embeddings as output matrix (Liu et al. 2019), at masked positions only.

    With 250k words and 512 tokens a sequence, scores at all positions would be the largest tensor of the whole step.
    """

    def __init__(
        self, hidden_size: int, vocab_size: int, norm_epsilon: float, embedding_size: int | None = None
    ) -> None:
        """`embedding_size`: that of the word embeddings, where the encoder has narrower ones (ALBERT, ELECTRA)."""
        super().__init__()
        embedding_size = embedding_size or hidden_size
        self.dense = nn.Linear(hidden_size, embedding_size)
        self.layer_norm = nn.LayerNorm(embedding_size, eps=norm_epsilon)
        self.decoder = nn.Linear(embedding_size, vocab_size)

    def forward(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """[T, hidden size] -> scores [targets, vocabulary]."""
        return self.decoder(self.layer_norm(gelu(self.dense(hidden[batch.label_positions]))))


HEADS: dict[TaskKind, Callable[[HeadSpec, int, float], Head]] = {
    "classification": ClassificationHead,
    "multiple_choice": MultipleChoiceHead,
    "span": SpanHead,
    "tagging": TaggingHead,
}
