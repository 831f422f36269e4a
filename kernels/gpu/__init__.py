"""The inner loop as Triton kernels, for CUDA GPUs. Importing a file of this room imports triton."""
