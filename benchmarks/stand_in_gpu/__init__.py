"""A CUDA runtime without a GPU: PyTorch's own allocator, engines and compiler run, kernels do nothing.

It shows how much memory a step asks for, never how fast it is or what it computes.
"""
