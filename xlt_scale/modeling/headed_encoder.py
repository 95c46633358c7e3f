"""One encoder with the heads of the tasks that are trained on it."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xlt_scale.config import AdapterOptions
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.modeling.adapters import add_adapters, plain_name
from xlt_scale.modeling.attention import sequence_arguments
from xlt_scale.modeling.encoder import EncoderPlan, build_encoder
from xlt_scale.modeling.family import encoder_dimensions
from xlt_scale.modeling.heads import (
    HEADS,
    HeadSpec,
    MaskedLanguageModelingHead,
    NextTokenHead,
    mean_of_sequences,
    owners_of_tokens,
)


class HeadedEncoder(nn.Module):
    """A Hugging Face encoder, unmodified, and one head per head name.

    Built without useful weights: an engine places its parameters and fills them (`Engine.load_parameters`).

    Args:
        adapter: what is put beside the encoder's linear layers (adapters.py).
        dtype: of the forward pass; only layers with 4-bit weights ask for it, and without it there are none.
    """

    def __init__(
        self,
        plan: EncoderPlan,
        heads: Sequence[HeadSpec],
        adapter: AdapterOptions | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.encoder = build_encoder(plan)
        if adapter is not None:
            add_adapters(self.encoder, adapter, dtype)
        self.heads = nn.ModuleDict({spec.name: _build_head(spec, plan) for spec in heads})
        self.tie()

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter by the name that it has without adapters; theirs by `plain_name`."""
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            yield plain_name(name), parameter

    def tie(self) -> None:
        """Let those parameters be one that the encoder shares inside, and the masked-language-modelling head the word
        embeddings where the configuration ties them. Idempotent; to be repeated after whatever replaces parameters.
        """
        self.encoder.tie_weights()
        if not getattr(self.plan.config, "tie_word_embeddings", True):
            return
        for head in self.heads.values():
            if isinstance(head, MaskedLanguageModelingHead | NextTokenHead):
                head.decoder.weight = self.encoder.get_input_embeddings().weight

    def forward(self, batch: MicroBatch, mode: str = "loss", layers: Sequence[int] = ()) -> Tensor:
        """Run one micro-batch.

        Args:
            mode: 'loss' gives the summed loss over the batch's targets (a scalar, times the batch's weight);
                'scores' what the head computes before loss and prediction; 'predictions' what it predicts; 'embedding'
                the mean over tokens of each sequence after so many layers, fp32 [sequences, number of `layers`, hidden
                size].
        """
        if mode == "embedding":
            states = self._encode(batch, output_hidden_states=True).hidden_states
            means = [mean_of_sequences(self._real_tokens(states[layer], batch).float(), batch) for layer in layers]
            return torch.stack(means, dim=1)
        hidden = self._real_tokens(self._encode(batch).last_hidden_state, batch)
        head: Any = self.heads[batch.head]
        if mode == "predictions":
            return head.predictions(head(hidden, batch), batch)
        result = head(hidden, batch) if mode == "scores" else head.loss(hidden, batch) * batch.weight
        for name, other in self.heads.items():
            if name != batch.head:
                # A zero gradient for the heads that this step does not train: ranks must reduce the same gradients in
                # the same order, and both engines must see the same update.
                result = result + 0.0 * other(hidden[:1], _first_token(batch, name)).sum()
        return result

    def _encode(self, batch: MicroBatch, **options: Any) -> Any:
        if not self.plan.unpadded:
            return self.encoder(**self._padded_inputs(batch), **options)
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids[None],
            "position_ids": batch.positions[None] + self.plan.first_position,
        }
        if batch.token_type_ids is not None:
            inputs["token_type_ids"] = batch.token_type_ids[None]
        return self.encoder(**inputs, **sequence_arguments(batch.lengths, batch.boundaries), **options)

    def _padded_inputs(self, batch: MicroBatch) -> dict[str, Tensor]:
        rows, columns = self._places(batch)
        shape = (len(batch.lengths), max(batch.lengths))
        mask = batch.input_ids.new_zeros(shape)
        mask[rows, columns] = 1
        input_ids = batch.input_ids.new_full(shape, self.plan.config.pad_token_id or 0)
        input_ids[rows, columns] = batch.input_ids
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        if batch.token_type_ids is not None:
            inputs["token_type_ids"] = batch.input_ids.new_zeros(shape)
            inputs["token_type_ids"][rows, columns] = batch.token_type_ids
        return inputs

    def _real_tokens(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """[1, T, hidden size] or [sequences, longest, hidden size] -> [T, hidden size]."""
        return hidden.squeeze(0) if self.plan.unpadded else hidden[self._places(batch)]

    def _places(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Row and column of each real token in the padded batch."""
        return owners_of_tokens(batch), batch.positions


def _first_token(batch: MicroBatch, head: str) -> MicroBatch:
    """A batch of one token, enough to run any head."""
    return MicroBatch(
        head=head,
        kind=batch.kind,
        input_ids=batch.input_ids[:1],
        positions=batch.positions[:1],
        lengths=[1],
        label_positions=torch.zeros(1, dtype=torch.long, device=batch.input_ids.device),
        group_sizes=[1],
        boundaries=torch.arange(2, dtype=torch.int32, device=batch.input_ids.device),
    )


def _build_head(spec: HeadSpec, plan: EncoderPlan) -> nn.Module:
    if spec.kind == "masked_language_modeling":
        return _build_vocabulary_head(plan)
    dropout = _first_set(plan, ("classifier_dropout", "hidden_dropout_prob"), 0.0)
    return HEADS[spec.kind](spec, plan.hidden_size, dropout)


def _build_vocabulary_head(plan: EncoderPlan) -> nn.Module:
    """What predicts tokens: a decoder's own output matrix, else RoBERTa's head."""
    if plan.is_decoder:
        return NextTokenHead(plan.hidden_size, plan.vocab_size, _first_set(plan, ("final_logit_softcapping",), 0.0))
    epsilon = _first_set(plan, ("layer_norm_eps", "norm_eps", "rms_norm_eps"), 1e-5)
    # Where they are narrower than the encoder (ALBERT, ELECTRA) or wider (RemBERT).
    width = getattr(plan.config, "output_embedding_size", None) or getattr(plan.config, "embedding_size", None)
    return MaskedLanguageModelingHead(plan.hidden_size, plan.vocab_size, epsilon, width)


def _first_set(plan: EncoderPlan, names: Sequence[str], default: float) -> float:
    """The first of these fields that the configuration sets; families call them by different names."""
    values = [getattr(encoder_dimensions(plan.config), name, None) for name in names]
    return next((float(value) for value in values if value is not None), default)
