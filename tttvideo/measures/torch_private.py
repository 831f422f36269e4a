"""The private functions of torch that measurements need; tests call each of them."""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend


def gpu_sleep(cycles: int) -> None:
    """Keep the current CUDA stream busy for a number of clock cycles."""
    torch.cuda._sleep(cycles)


def attention_kernel(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False) -> str:
    """Name of the kernel that scaled_dot_product_attention takes for these inputs."""
    return SDPBackend(torch._fused_sdp_choice(q, k, v, is_causal=is_causal)).name
