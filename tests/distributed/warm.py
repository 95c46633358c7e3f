"""What nearly every worker imports, imported once: ranks are forked from the process that has imported this module."""

import gc

gc.disable()

# Part of what DeepSpeed imports on its way, with all of the compiler.
import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: E402, F401
import torch.utils.cpp_extension  # noqa: E402, F401
from transformers import AlbertModel, ModernBertModel, T5Model, XLMRobertaModel, XLMRobertaXLModel  # noqa: E402, F401

import xlt_scale.engines.fsdp2  # noqa: E402
import xlt_scale.engines.replicated  # noqa: E402
import xlt_scale.engines.zero3  # noqa: E402
import xlt_scale.training.run  # noqa: E402, F401

gc.enable()
# Engines collect garbage when they end. What was imported stays, and need not be looked through again.
gc.freeze()
