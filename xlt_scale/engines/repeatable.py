"""The setting under which a run gives the same bits each time: same machine kind, world size and token budget."""

import os

import torch


def use_repeatable_kernels() -> None:
    """Choose kernels that repeat; called on every rank before the first computation.

    MKL is told to take the same path whatever a tensor's alignment and the machine's load, cuBLAS to use one workspace,
    and PyTorch to refuse kernels that add in an order of their own. Variables that the user has set stay.
    """
    os.environ.setdefault(
        "MKL_CBWR", "AVX2,STRICT" if torch.backends.cpu.get_cpu_capability() != "DEFAULT" else "COMPATIBLE"
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
