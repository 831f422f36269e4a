"""One thread, since tensors are tiny; and without a GPU, Triton's interpreter runs the kernels."""

import os

import torch


torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before the first import of triton
