"""What is trained, and how it is laid out over devices: the two things that a plan is about."""

from dataclasses import dataclass
from typing import Literal

from xlt_scale.config import EngineOptions


@dataclass(frozen=True)
class Shape:
    """An encoder's dimensions, whatever its family.

    Attributes:
        num_embedding_parameters: word, position and token-type tables.
        num_parameters: all of the encoder.
        num_heads: of attention.
        vocab_size: rows of the word table.
        pre_norm: normalises before each block and once at the end (XLM-R XL and XXL), not after each block.
        gated: the feed-forward block has a third matrix (decoders like Llama).
        causal: a token attends to those before it only.
        num_key_value_heads: where several query heads share one; 0 = as many as `num_heads`.
        model_type: Hugging Face's name of the family; '' = one with XLM-R's layers, or as the flags above say.
        head_size: width of a head, where heads together are not as wide as the hidden size.
        sliding_window: tokens to either side that layers with local attention see; 0 = all.
        is_rms_normed: its norms have no biases, as Llama's, and its matrices neither.
    """

    name: str
    num_parameters: int
    num_embedding_parameters: int
    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    pre_norm: bool = False
    gated: bool = False
    causal: bool = False
    num_key_value_heads: int = 0
    model_type: str = ""
    head_size: int = 0
    sliding_window: int = 0
    is_rms_normed: bool = False

    @property
    def has_biases(self) -> bool:
        """Whether matrices have biases: not in decoders, nor where norms are Llama's."""
        return not (self.causal or self.is_rms_normed)

    @property
    def query_size(self) -> int:
        """Width of a token's queries, all heads together."""
        return self.num_heads * self.head_size or self.hidden_size

    @property
    def key_value_size(self) -> int:
        """Width of a token's keys, and of its values."""
        return self.query_size * (self.num_key_value_heads or self.num_heads) // self.num_heads

    @property
    def num_non_embedding_parameters(self) -> int:
        return self.num_parameters - self.num_embedding_parameters

    @property
    def num_parameters_per_layer(self) -> int:
        return self.num_non_embedding_parameters // self.num_layers


@dataclass(frozen=True)
class Lengths:
    """Tokens of the examples that are trained.

    Attributes:
        mean: real tokens of an example.
        mean_square: mean of their squares (attention).
        longest: an example's tokens at most.
        padding: tokens in padded batches per real token; 1.0 where batches are not padded.
    """

    mean: float
    mean_square: float
    longest: int
    padding: float = 1.0


@dataclass(frozen=True)
class Workload:
    """One phase's training.

    Attributes:
        batch_size: examples of a step, over all devices.
        precision: 'bf16' compute with fp32 masters, 'bf16_stochastic' without them, or 'fp32'.
        unpadded: batches are real tokens only.
        trained_share: parameters that the optimiser steps, of all: 1.0, less with frozen embeddings or adapters.
        masked_share: tokens that masked language modelling predicts; 0.0 for other tasks.
        four_bit: the layers' frozen matrices lie in NF4, whole on every device; nobody gathers them.
        sliced_loss: scores over the vocabulary exist for a slice at a time (`modeling/vocabulary_loss.py`).
    """

    shape: Shape
    lengths: Lengths
    batch_size: int
    precision: Literal["fp32", "bf16", "bf16_stochastic"] = "bf16"
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    unpadded: bool = True
    dropout: float = 0.1
    trained_share: float = 1.0
    trains_embeddings: bool = True
    masked_share: float = 0.0
    four_bit: bool = False
    sliced_loss: bool = True

    @property
    def without_masters(self) -> bool:
        """Whether the optimiser steps the bf16 weights themselves."""
        return self.precision == "bf16_stochastic"

    @property
    def trained_share_of_layers(self) -> float:
        """Of the layers' weights: all, or with adapters next to none."""
        trained = self.trained_share * self.shape.num_parameters
        return 1.0 if trained >= 0.5 * self.shape.num_non_embedding_parameters else self.trained_share

    @property
    def gathered_per_layer(self) -> int:
        """Parameters of a layer that lie in shards and are gathered for it."""
        return 0 if self.four_bit else self.shape.num_parameters_per_layer


@dataclass(frozen=True)
class Layout:
    """How a workload is spread: the options of a run's `engine` table that a plan chooses, and its devices.

    Attributes:
        stock: as other programs do it: a single FSDP2 process gathers and reduces all the same, and DeepSpeed's hooks
            are at every module, where `engines/` has them at every layer.
        gradient_bytes: of ZeRO-3's gradient partition: 4 as in `ds_configs/`, 2 where DeepSpeed is left to itself.
    """

    engine: Literal["zero3", "fsdp2"]
    num_devices: int
    num_nodes: int = 1
    replicas: int = 1
    max_tokens_per_micro_batch: int = 8192
    activation_checkpointing: bool | Literal["selective"] = False
    checkpoint_every: int = 1
    compile: bool = False
    float8: bool = False
    offload: Literal["none", "optimizer", "paged"] = "none"
    keep_gathered: bool | Literal["auto"] = "auto"
    stock: bool = False
    gradient_bytes: int = 4

    @property
    def num_shards(self) -> int:
        """Devices that the states of one copy of the model are spread over."""
        return self.num_devices // self.replicas

    def engine_settings(self) -> dict[str, object]:
        """The keys of a run file's `engine` table that make this layout."""
        settings = {name: getattr(self, name) for name in EngineOptions.model_fields if hasattr(self, name)}
        settings["name"] = self.engine
        return settings
