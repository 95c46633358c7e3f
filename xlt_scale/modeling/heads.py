"""Heads of the task formats. All read real tokens in one row, whether the encoder ran unpadded or padded.

Each head has two duties: the summed loss over the targets of a micro-batch, and predictions. The loop divides the sum
by the number of targets of the whole global batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, mse_loss, normalize

from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.modeling.vocabulary_loss import VocabularyProjection
from xlt_scale.tasks.spec import TaskKind


@dataclass(frozen=True)
class HeadSpec:
    """What a head must know to be built: its name, format, and number of classes.

    Attributes:
        pooling: what stands for a sequence: its 'first' or 'last' token, or the 'mean' of all (`EncoderPlan.pooling`
            where a phase does not say).
    """

    name: str
    kind: TaskKind
    num_labels: int = 0
    pooling: str = "first"


def owners_of_tokens(batch: MicroBatch) -> Tensor:
    """The number of the sequence that each token of the row belongs to, int64 [T]."""
    sequences = torch.arange(len(batch.lengths), device=batch.boundaries.device)
    # With the size given, a GPU need not be asked for it.
    return torch.repeat_interleave(sequences, batch.boundaries.diff(), output_size=batch.num_tokens)


def mean_of_sequences(hidden: Tensor, batch: MicroBatch) -> Tensor:
    """Mean over each sequence's tokens, special tokens included: [T, hidden size] -> [sequences, hidden size].

    Summed in fp32: in bf16 the sum of a hundred tokens would lose most of each.
    """
    sums = torch.zeros(len(batch.lengths), hidden.shape[-1], device=hidden.device)
    sums = sums.index_add(0, owners_of_tokens(batch), hidden.float())
    return (sums / batch.boundaries.diff()[:, None]).to(hidden.dtype)


def pooled(hidden: Tensor, batch: MicroBatch, pooling: str) -> Tensor:
    """What stands for each sequence: [T, hidden size] -> [sequences, hidden size]."""
    if pooling == "mean":
        return mean_of_sequences(hidden, batch)
    return hidden[batch.boundaries[1:] - 1 if pooling == "last" else batch.boundaries[:-1]]


class Head(nn.Module):
    """What all heads have: from scores [targets, classes] to the summed loss and to predictions."""

    def loss(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """From hidden states [T, hidden size] to the summed loss: a scalar."""
        return self.loss_sum(self(hidden, batch), batch)

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
        states = torch.tanh(self.dense(self.dropout(pooled(hidden, batch, self.pooling))))
        return self.out_proj(self.dropout(states))


class RegressionHead(ClassificationHead):
    """A sentence or sentence pair gets one number; squared error, as GLUE's similarity task is trained."""

    def loss_sum(self, scores: Tensor, batch: MicroBatch) -> Tensor:
        assert batch.labels is not None
        return mse_loss(scores[:, 0].float(), batch.labels.float(), reduction="sum")

    def predictions(self, scores: Tensor, batch: MicroBatch) -> Tensor:
        """The number of each example, fp32 [examples]."""
        return scores[:, 0].float()


class MultipleChoiceHead(Head):
    """One sequence per choice, a score from what stands for it, softmax over the choices of an example."""

    def __init__(self, spec: HeadSpec, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.pooling = spec.pooling
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(hidden_size, 1)

    def forward(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """[T, hidden size] -> scores [examples, most choices], -inf behind an example's last choice."""
        scores = self.score(self.dropout(pooled(hidden, batch, self.pooling)))[:, 0]
        sizes = batch.group_sizes or [len(batch.lengths)]
        if min(sizes) == max(sizes):
            return scores.view(-1, sizes[0])
        rows = [row for row, size in enumerate(sizes) for _ in range(size)]
        columns = [column for size in sizes for column in range(size)]
        places = torch.tensor([rows, columns])
        if scores.is_cuda:
            # From pinned memory, so that the host does not wait for the copy.
            places = places.pin_memory().to(scores.device, non_blocking=True)
        dense = scores.new_full((len(sizes), max(sizes)), float("-inf"))
        return dense.index_put((places[0], places[1]), scores)


class SpanHead(Head):
    """Start and end scores for every token; softmax over the tokens of a sequence (Devlin et al. 2019, 4.2)."""

    def __init__(self, spec: HeadSpec, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.qa_outputs = nn.Linear(hidden_size, 2)

    def forward(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """[T, hidden size] -> start and end scores [T, 2]."""
        return self.qa_outputs(hidden)

    def loss_sum(self, scores: Tensor, batch: MicroBatch) -> Tensor:
        assert batch.labels is not None
        dense = scores.new_full((len(batch.lengths), max(batch.lengths), 2), float("-inf"))
        dense = dense.index_put((owners_of_tokens(batch), batch.positions), scores)
        start = cross_entropy(dense[..., 0].float(), batch.labels[:, 0], reduction="sum")
        end = cross_entropy(dense[..., 1].float(), batch.labels[:, 1], reduction="sum")
        return (start + end) / 2

    def predictions(self, scores: Tensor, batch: MicroBatch) -> Tensor:
        """The scores themselves, fp32 [T, 2]: the best answer of a question is chosen over all windows of its passage
        (evaluation/spans.py).
        """
        return scores.float()


class DualEncodingHead(Head):
    """Queries and candidates as unit vectors: dense and tanh on what stands for each, normalised, compared by dot
    product times a learned scale that begins at 100 (XTREME-R's retrieval baselines, third_party/bert.py).

    Its loss is over all pairs of a global batch, so it is not computed here (training/contrast.py).
    """

    INITIAL_SCALE = 100.0

    def __init__(self, spec: HeadSpec, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.pooling = spec.pooling
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.logit_scale = nn.Parameter(torch.ones(1))

    def forward(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """[T, hidden size] -> fp32 [sequences, hidden size + 1]: a unit vector, and behind it the scale.

        The scale goes along because outside of a head's forward pass a sharded parameter has no values.
        """
        vectors = torch.tanh(self.dense(pooled(hidden, batch, self.pooling)))
        vectors = normalize(vectors.float(), dim=-1)
        scale = (self.INITIAL_SCALE * self.logit_scale.float()).expand(len(vectors), 1)
        return torch.cat([vectors, scale], dim=-1)

    def predictions(self, scores: Tensor, batch: MicroBatch) -> Tensor:
        """The unit vectors, fp32 [sequences, hidden size]."""
        return scores[:, :-1]


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
        self.decoder = VocabularyProjection(embedding_size, vocab_size)

    def forward(self, hidden: Tensor, batch: MicroBatch, labels: Tensor | None = None) -> Tensor:
        """[T, hidden size] -> scores [targets, vocabulary]; with `labels` their summed loss."""
        return self.decoder(self.layer_norm(gelu(self.dense(hidden[batch.label_positions]))), labels)

    def loss(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """The summed loss, computed without all scores at once (`vocabulary_loss`)."""
        assert batch.labels is not None
        return self(hidden, batch, batch.labels)


class NextTokenHead(Head):
    """A decoder's own output matrix, at the places where tokens are predicted: what it was pre-trained with goes on.

    Args:
        softcap: scores s become softcap * tanh(s / softcap) (Gemma Team 2024, Gemma 2, section 2); 0 = as they are.
    """

    def __init__(self, hidden_size: int, vocab_size: int, softcap: float = 0.0) -> None:
        super().__init__()
        self.softcap = softcap
        self.decoder = VocabularyProjection(hidden_size, vocab_size, bias=False)

    def forward(self, hidden: Tensor, batch: MicroBatch, labels: Tensor | None = None) -> Tensor:
        """[T, hidden size] -> scores [targets, vocabulary]; with `labels` their summed loss."""
        states = hidden[batch.label_positions]
        if labels is not None and not self.softcap:
            return self.decoder(states, labels)
        scores = self.decoder(states)
        if self.softcap:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        return scores if labels is None else cross_entropy(scores.float(), labels, reduction="sum")

    def loss(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """The summed loss, computed without all scores at once where they are not capped (`vocabulary_loss`)."""
        assert batch.labels is not None
        return self(hidden, batch, batch.labels)


HEADS: dict[TaskKind, Callable[[HeadSpec, int, float], Head]] = {
    "classification": ClassificationHead,
    "regression": RegressionHead,
    "multiple_choice": MultipleChoiceHead,
    "span": SpanHead,
    "tagging": TaggingHead,
    "dual_encoding": DualEncodingHead,
}
