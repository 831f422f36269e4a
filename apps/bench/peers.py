"""The peers of the inner loop: other forms of the same function, and other mixers.

Each `..._run` prepares a Run from Inputs: the call is timed, its preparation is not.
The dense decoder keeps a sum of gradients, where `ttt_decode_` keeps open rows.

B batch, T tokens, H heads, D head dim, M mini-batch size, N whole mini-batches, T = N M, C tokens
of a KV cache.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tttvideo.kernels import State, autograd_loop, inner
from tttvideo.kernels.dual.piece import read, scaled_gradient
from tttvideo.kernels.state import pairs
from tttvideo.measures.speed import Run
from tttvideo.measures.torch_private import attention_kernel

from .cases import Inputs


def plain_run(inputs: Inputs, whole: Callable = autograd_loop.whole) -> Run:
    def call() -> Tensor:
        full = inputs.weights[0].dtype
        tokens = (x.to(full) for x in inputs.tokens)
        y, _ = whole(*tokens, inputs.token_scale, *inputs.norm, State(inputs.weights))
        return y.to(inputs.q.dtype)

    return Run(call, inputs.leaves())


def compiled_run(inputs: Inputs) -> Run:
    """The plain loop by torch.compile, a mini-batch at a time.

    The whole loop as one graph takes minutes to compile for 16 mini-batches; 2,048 tokens have 128.
    """
    torch.compiler.reset()  # after other sizes it would compile for any size
    write_one, read_all = (
        torch.compile(part, dynamic=False) for part in (autograd_loop.write_mini_batch, read)
    )
    return plain_run(inputs, partial(autograd_loop.whole, write=write_one, read=read_all))


class RoundedProducts(TorchFunctionMode):
    """Matmuls round their operands to a lower precision: PyTorch's own form in bfloat16.

    All else, including sums of products, stays in float32, as in the kernels.
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.matmul, torch.Tensor.__matmul__):
            args = tuple(x.to(self.dtype) for x in args)
            return function(*args).float()
        return function(*args, **(kwargs or {}))


def rounded_run(inputs: Inputs) -> Run:
    run = plain_run(inputs)

    def call() -> Tensor:
        with RoundedProducts(inputs.q.dtype):
            return run.call()

    return Run(call, run.leaves)


def attention_run(inputs: Inputs) -> Run:
    """Causal softmax attention, with the kernel that PyTorch chooses."""

    def call() -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in inputs.tokens[:3])
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    return Run(call, inputs.leaves("q", "k", "v"))


def attention_backends(like: Tensor) -> str:
    """The kernels that PyTorch chooses for attention_run and cached_run."""
    x = like.new_empty(1, 1, 1024, like.shape[-1])
    whole = attention_kernel(x, x, x, is_causal=True)
    return f"{whole}, in decoding {attention_kernel(x[:, :, :1], x, x)}"


def attention_truth(inputs: Inputs) -> Run:
    def call() -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in inputs.tokens[:3])
        scores = q @ k.mT / q.shape[-1] ** 0.5
        later = torch.ones_like(scores, dtype=torch.bool).triu(1)
        return (scores.masked_fill(later, -torch.inf).softmax(-1) @ v).transpose(1, 2)

    return Run(call, inputs.leaves("q", "k", "v"))


def fla_run(inputs: Inputs, name: str) -> Run:
    """fla's TTT-Linear, `chunk_ttt_linear` or `fused_chunk_ttt_linear`.

    Its eta belongs to the reader, and the last one also scales the step, so it can express only an
    eta that is the same for all writers. Its output adds z in place of q.
    """
    import fla.ops.ttt

    operator = getattr(fla.ops.ttt, name)
    B, T, H, D = inputs.q.shape
    scale = inputs.token_scale.detach().repeat(T // len(inputs.token_scale))
    eta = (inputs.eta.detach() * scale[:, None])[..., None].to(inputs.q.dtype).requires_grad_()
    W, b = inputs.weights

    def call() -> Tensor:
        q, k, v = inputs.tokens[:3]
        M = len(inputs.token_scale)
        options = {"scale": 1.0, "chunk_size": M, "initial_state": W, "initial_state_bias": b}
        return operator(q, k, v, *inputs.norm, eta, **options)[0]

    return Run(call, inputs.leaves("q", "k", "v"))


def fla_truth(inputs: Inputs) -> Run:
    def call() -> Tensor:
        q, k, v, eta = inputs.tokens
        shared = inputs.token_scale, *inputs.norm
        (W, b), (X, S), *_ = autograd_loop.loop(k, v, eta, *shared, State(inputs.weights))
        q = autograd_loop.by_mini_batch(q, len(inputs.token_scale))
        norm = autograd_loop.by_head(*inputs.norm, len(inputs.q))
        z = q @ W + b - inputs.token_scale[:, None] * (torch.tril(q @ X.mT + 1) @ S)
        y = z + inner.layer_norm(z, norm)
        return rearrange(y, "n (b h) m d -> b (n m) h d", b=len(inputs.q))

    return Run(call, inputs.leaves("q", "k", "v"))


def mamba_run(inputs: Inputs) -> Run:
    """The scan of a Mamba-2 layer with as many heads, and a state as large as TTT-Linear's."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    A = -torch.ones(inputs.q.shape[2], device=inputs.q.device)

    def call() -> Tensor:
        q, k, v, eta = inputs.tokens
        return mamba_chunk_scan_combined(v, eta, A, k, q, chunk_size=256)

    return Run(call, inputs.leaves("q", "k", "v", "eta"))


def mamba_truth(inputs: Inputs) -> Run:
    """y_t = sum_{s<=t} (q_t k_s) exp(-sum_{s<r<=t} eta_r) eta_s v_s, by a matrix T x T."""

    def call() -> Tensor:
        q, k, v, eta = (x.transpose(1, 2) for x in (*inputs.tokens[:3], inputs.eta[..., None]))
        passed = eta.cumsum(-2)
        decay = torch.tril((passed.mT - passed).exp())
        return ((q @ k.mT * decay) @ (eta * v)).transpose(1, 2)

    return Run(call, inputs.leaves("q", "k", "v", "eta"))


def dense_decode_run(inputs: Inputs) -> Run:
    """A token at a time through W - token_scale * (sum of gradients), from no open rows on."""
    norm = inputs.norm_weight[:, None], inputs.norm_bias[:, None]
    scale, full = inputs.token_scale.tolist(), inputs.weights[0].dtype
    sums = [torch.zeros_like(w) for w in inputs.weights]

    def call() -> Tensor:
        weights, ys = list(inputs.weights), []
        for t in range(inputs.q.shape[1]):
            place = t % len(scale)
            q, k, v = (x[:, t, :, None].to(full) for x in inputs.tokens[:3])  # (B, H, 1, D)
            eta = inputs.eta[:, t, :, None, None]
            z, z_read = inner.affine(torch.cat((k, q), dim=-2), weights).split(1, dim=-2)
            written = scaled_gradient(k, z, v, eta, weights, norm)
            for (dW, db), X, S in zip(pairs(sums), *written, strict=True):
                dW.flatten(0, 1).baddbmm_(X.mT.flatten(0, 1), S.flatten(0, 1), beta=int(place > 0))
                db.add_(S) if place else db.copy_(S)
            z_read = dense_read(q, z_read, weights, sums, scale[place])
            ys.append(q + inner.layer_norm(z_read, norm))
            if place == len(scale) - 1:
                weights = [w.sub(s, alpha=scale[-1]) for w, s in zip(weights, sums, strict=True)]
        return torch.cat(ys, dim=2).transpose(1, 2).to(inputs.q.dtype)

    return Run(call, {})


def dense_read(
    x: Tensor, z: Tensor, weights: Sequence[Tensor], sums: Sequence[Tensor], scale: float
) -> Tensor:
    """F(x) through W - scale dW; z = affine(x, weights)."""
    for layer, ((W, b), (dW, db)) in enumerate(zip(pairs(weights), pairs(sums), strict=True)):
        if layer:
            x = inner.gelu(z)
            z = x @ W + b
        z = z - scale * (x @ dW + db)
    return z


def cached_run(inputs: Inputs, keys: Tensor, values: Tensor) -> Run:
    """Attention, a token at a time, over a KV cache (B, H, C, D) that is there already."""

    def call() -> Tensor:
        ys = [
            F.scaled_dot_product_attention(q[:, :, None], keys, values) for q in inputs.q.unbind(1)
        ]
        return torch.cat(ys, dim=2).transpose(1, 2)

    return Run(call, {})


def cached_truth(inputs: Inputs, keys: Tensor, values: Tensor) -> Run:
    def call() -> Tensor:
        q = inputs.q.transpose(1, 2)
        scores = q @ keys.to(q).mT / q.shape[-1] ** 0.5
        return (scores.softmax(-1) @ values.to(q)).transpose(1, 2)

    return Run(call, {})
