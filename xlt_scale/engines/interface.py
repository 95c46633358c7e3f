"""What the training loop asks of an engine. The loop does not know which one it has."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from xlt_scale.config import EngineOptions, PhaseOptions
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.modeling.adapters import is_adapter
from xlt_scale.modeling.encoder import EncoderPlan
from xlt_scale.modeling.four_bit import FourBitLinear
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import ParameterSpec
from xlt_scale.modeling.weights import WeightSource


@dataclass(frozen=True)
class EngineRequest:
    """Everything an engine is built from; the same on every rank.

    Attributes:
        parameters: every parameter by name (`describe_parameters`).
        precision: 'fp32'; 'bf16' compute with fp32 master weights; or 'bf16_stochastic', without them: updates go into
            bf16 weights, rounded at random.
        only_scores: the weights come from a checkpoint and stay as they are.
        seed: of that rounding.
    """

    world: World
    plan: EncoderPlan
    heads: Sequence[HeadSpec]
    parameters: Mapping[str, ParameterSpec]
    options: EngineOptions
    phase: PhaseOptions
    precision: str
    only_scores: bool = False
    seed: int = 0

    @property
    def forward_dtype(self) -> torch.dtype:
        """What the forward pass computes in."""
        return torch.float32 if self.precision == "fp32" else torch.bfloat16

    @property
    def without_masters(self) -> bool:
        """Whether what is trained has no fp32 masters."""
        return self.precision == "bf16_stochastic"

    def has_no_master(self, name: str) -> bool:
        """Whether the optimiser updates the bf16 weight itself."""
        return self.without_masters and self.is_trained(name)

    def is_trained(self, name: str) -> bool:
        """Whether the optimiser updates the parameter."""
        if self.is_borrowed(name):
            return False
        return not (self.phase.freeze_embeddings and self.parameters[name].is_embedding)

    def is_borrowed(self, name: str) -> bool:
        """Whether the parameter stays that of the phase's parent, beside adapters: it is held in the precision of the
        forward pass, and no checkpoint has it.
        """
        return self.phase.adapter is not None and name.startswith("encoder.") and not is_adapter(name)

    def build_model(self) -> HeadedEncoder:
        """The model, in a context that decides where its parameters lie."""
        return HeadedEncoder(self.plan, self.heads, self.phase.adapter, self.forward_dtype)

    def has_small_moments(self, name: str) -> bool:
        """Whether the optimiser keeps the parameter's moments in 8 bits."""
        spec = self.parameters[name]
        return self.phase.optimizer == "adamw_8bit" and spec.decays and not spec.is_embedding


MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's states of a parameter, by their names in PyTorch."""

GroupSettings = dict[str, dict[str, Any]]
"""Hyper-parameters of each optimiser group by the group's name."""


class StateSource(Protocol):
    """Where a training state comes from: tensors by key ('param/<name>', 'exp_avg/<name>', 'exp_avg_sq/<name>')."""

    def has(self, key: str) -> bool: ...

    def read(self, key: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor, fp32 on the CPU."""
        ...


@runtime_checkable
class FillingSource(StateSource, Protocol):
    """A source that needs no tensor between its own and the one that is filled."""

    def read_into(self, destination: Tensor, key: str, start: int) -> None:
        """Elements from `start` on of the flattened tensor, as many as the contiguous 1-D tensor holds; of any floating
        dtype and on any device.
        """
        ...


class Engine(ABC):
    """A model spread over the ranks, with its optimiser.

    Every method is called on every rank, in the same order; those marked collective communicate.
    """

    world: World
    _request: EngineRequest

    @property
    def optimizer_name(self) -> str:
        """The optimiser as the phase names it."""
        return self._request.phase.optimizer

    @abstractmethod
    def forward(self, batch: MicroBatch, mode: str = "loss", layers: Sequence[int] = ()) -> Tensor:
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
        """The range [start, stop) of the flattened parameter that this rank holds; empty ranges are possible."""

    @property
    def is_first_replica(self) -> bool:
        """Whether this rank is of the first of several groups that hold the same ranges (hybrid sharding)."""
        return True

    def is_trained(self, name: str) -> bool:
        """Whether the optimiser updates the parameter, and so has moments of it."""
        return self._request.is_trained(name)

    def quantises(self, key: str) -> bool:
        """Whether a tensor of the state is kept in fewer bits, so that what is written into it is read back rounded:
        moments in 8 bits, what is borrowed from a parent, and weights without fp32 masters.
        """
        kind, _, name = key.partition("/")
        if kind == "param":
            return self._request.is_borrowed(name) or self._request.has_no_master(name)
        return self._request.has_small_moments(name)

    @abstractmethod
    def four_bit_weights(self) -> Mapping[str, FourBitLinear]:
        """Layers with a 4-bit weight, which every rank holds whole, by the weight's name. They are no part of the
        state: their weights are borrowed from the phase's parent.
        """

    @abstractmethod
    def read_states(self, with_moments: bool) -> Iterator[tuple[str, Tensor]]:
        """This rank's ranges that are not empty, as (key, 1-D fp32 tensor): masters as 'param/<name>' and, of trained
        parameters, moments as 'exp_avg/<name>' and 'exp_avg_sq/<name>'; zeros before the first step. Without borrowed
        parameters.

        In the order that costs the engine least. Do not write into a tensor, nor keep it past the next one.
        """

    @abstractmethod
    def group_settings(self) -> GroupSettings:
        """Learning rate, weight decay, betas and epsilon of each optimiser group, as they are now."""

    num_steps: int
    """Optimiser steps that the states have seen (AdamW corrects its bias by it)."""

    def load_parameters(self, source: WeightSource) -> None:
        """Fill every parameter, each rank its own ranges; the optimiser's states are left alone. Collective.

        Raises:
            UserError: a range cannot be read, on whichever rank; all ranks raise.
        """
        self._fill_together(_ParametersOnly(source), with_moments=False)

    def load_states(self, source: StateSource, groups: GroupSettings, num_steps: int) -> None:
        """Go back to a training state: masters, moments, the step and the groups' hyper-parameters. Collective.

        Parameters that are trained here and were not when the state was saved get zero moments, as new ones have.

        Raises:
            UserError: a range cannot be read, on whichever rank, or the groups are others; all ranks raise.
        """
        found = self.group_settings()
        if groups.keys() != found.keys():
            raise UserError(
                f"the optimiser has groups {', '.join(sorted(found))}, the checkpoint {', '.join(sorted(groups))}; "
                "give the phase the options that the checkpoint was saved with"
            )
        self._fill_together(source, with_moments=True)
        self._set_optimizer(groups, num_steps)

    def _fill_together(self, source: StateSource, with_moments: bool) -> None:
        problem = ""
        try:
            self._fill(source, with_moments)
        except UserError as error:
            problem = str(error)
        problems = [text for text in self.world.gather(problem) if text]
        if problems:
            raise UserError(str(problems[0]))

    @abstractmethod
    def _fill(self, source: StateSource, with_moments: bool) -> None:
        """This rank's part of loading. Its collectives are the same whether or not a range can be read."""

    @abstractmethod
    def _set_optimizer(self, groups: GroupSettings, num_steps: int) -> None:
        """Set hyper-parameters and step counters."""

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


class _ParametersOnly:
    """A source of weights as a source of states."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source

    def has(self, key: str) -> bool:
        return key.startswith("param/") and self._source.has(key.removeprefix("param/"))

    def read(self, key: str, start: int, stop: int) -> Tensor:
        return self._source.read(key.removeprefix("param/"), start, stop)

    def read_into(self, destination: Tensor, key: str, start: int) -> None:
        self._source.read_into(destination, key.removeprefix("param/"), start)


def fill(destination: Tensor, source: StateSource, key: str, start: int) -> None:
    """Copy a range of a tensor into a 1-D view; zeros where the source has no such tensor."""
    if not source.has(key):
        destination.zero_()
        return
    if isinstance(source, FillingSource) and destination.is_contiguous():
        source.read_into(destination, key, start)
        return
    for low in range(0, destination.numel(), _PIECE):
        piece = destination[low : low + _PIECE]
        piece.copy_(source.read(key, start + low, start + low + piece.numel()))


_PIECE = 1 << 24
