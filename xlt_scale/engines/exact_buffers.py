"""Buffers keep the precision that the model's family gives them.

DeepSpeed casts a whole module to the forward precision, and what its `zero.Init` sees made. Rotary frequencies rounded
to bf16 turn a token at position 500 by up to a radian too far, and nothing crashes.
"""

import accelerate
import torch
from torch import nn
from transformers.initialization import no_init_weights

from xlt_scale.engines.interface import EngineRequest


def restore_buffers(model: nn.Module, request: EngineRequest) -> None:
    """Put the values that the model was built with into buffers that have lost bits, in their own precision.

    Does not communicate.
    """
    rounded = {
        name: buffer for name, buffer in model.named_buffers() if buffer.dtype in (torch.bfloat16, torch.float16)
    }
    if not rounded:
        return
    with accelerate.init_empty_weights(include_buffers=False), no_init_weights():
        exact = dict(request.build_model().named_buffers())
    for name, buffer in rounded.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        owner._buffers[name.rpartition(".")[2]] = exact[name].to(buffer.device)
