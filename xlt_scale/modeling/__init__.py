"""Hugging Face encoders, run unpadded, with the heads of our task formats."""

import logging

# `transformers` imports torchao wherever it is installed, and each process would tell of kernels for other machines.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
