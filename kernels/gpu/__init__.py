"""The inner loop as Triton kernels, for CUDA GPUs. Its files import triton."""
