"""What the training loop asks of an engine. The loop does not know which one it has."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xlt_scale.config import EngineOptions, PhaseOptions
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.modeling.encoder import EncoderPlan
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import ParameterSpec
from xlt_scale.modeling.weights import WeightSource


@dataclass(frozen=True)
class EngineRequest:
    """Everything an engine is built from; the same on every rank.

    Attributes:
        parameters: every parameter by name (`describe_parameters`).
        precision: 'fp32', or 'bf16' compute with fp32 master weights.
    """

    world: World
    plan: EncoderPlan
    heads: Sequence[HeadSpec]
    parameters: Mapping[str, ParameterSpec]
    options: EngineOptions
    phase: PhaseOptions
    precision: str

    def is_trained(self, name: str) -> bool:
        """Whether the optimiser updates the parameter."""
        return not (self.phase.freeze_embeddings and self.parameters[name].is_embedding)


def named_groups(request: EngineRequest, parameters: Mapping[str, nn.Parameter]) -> list[dict[str, object]]:
    """Optimiser groups by name: weight decay on matrices, none on biases and norms. Frozen parameters are in none."""
    phase = request.phase
    groups: list[dict[str, object]] = []
    for name, decays in (("decay", True), ("no_decay", False)):
        members = [
            parameter
            for parameter_name, parameter in parameters.items()
            if request.is_trained(parameter_name) and request.parameters[parameter_name].decays == decays
        ]
        if members:
            groups.append({"name": name, "params": members, "weight_decay": phase.weight_decay if decays else 0.0})
    return groups


def adamw_arguments(phase: PhaseOptions) -> dict[str, object]:
    """AdamW (Loshchilov & Hutter 2019) as the phase wants it."""
    return {"lr": phase.learning_rate, "betas": phase.betas, "eps": phase.epsilon, "fused": True}


class Engine(ABC):
    """A model spread over the ranks, with its optimiser.

    Every method is called on every rank, in the same order; those marked collective communicate.
    """

    world: World

    @abstractmethod
    def forward(self, batch: MicroBatch, mode: str = "loss", layer: int | None = None) -> Tensor:
        """Run the model (`HeadedEncoder.forward`). Collective."""

    @abstractmethod
    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Accumulate gradients of a scalar; gradients are averaged over ranks. Collective.

        Args:
            is_last: this is the last micro-batch before `step`.
        """

    @abstractmethod
    def step(self, learning_rate: float) -> Tensor:
        """Clip, update trained parameters, clear gradients; the global gradient norm before clipping. Collective."""

    @abstractmethod
    def parameter_range(self, name: str) -> tuple[int, int]:
        """The range [start, stop) of the flattened parameter that this rank owns; empty ranges are possible."""

    @abstractmethod
    def read_parameter(self, name: str) -> Tensor:
        """This rank's range of the fp32 master parameter, a 1-D tensor; do not write into it."""

    def load_parameters(self, source: WeightSource) -> None:
        """Fill every parameter, each rank its own ranges. Collective.

        Raises:
            UserError: a range cannot be read, on whichever rank; all ranks raise.
        """
        problem = ""
        try:
            self._fill(source)
        except UserError as error:
            problem = str(error)
        problems = [text for text in self.world.gather(problem) if text]
        if problems:
            raise UserError(str(problems[0]))

    @abstractmethod
    def _fill(self, source: WeightSource) -> None:
        """This rank's part of `load_parameters`. Its collectives are the same whether or not a range can be read."""

    @abstractmethod
    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off."""

    @abstractmethod
    def destroy(self) -> None:
        """Free what the engine holds, so that the next phase's can be built."""

    def start_micro_batch(self, seed: int) -> None:
        """Seed dropout for one forward pass."""
        # Not torch.manual_seed: where CUDA is not initialised that queues a call, with its stack, for every step.
        seed &= (1 << 63) - 1
        torch.default_generator.manual_seed(seed)
        if self.world.device.type == "cuda":
            torch.cuda.manual_seed(seed)
