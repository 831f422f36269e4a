"""Cases of a benchmark: sizes, random inputs, and the least work of a computation.

B batch, T tokens, H heads, D head dim, E = 4 D inner hidden, M mini-batch size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tttvideo.kernels.inner import Norm
from tttvideo.measures.speed import BACKWARD, BOTH, FORWARD


TITLES = {"linear": "TTT-Linear", "mlp": "TTT-MLP"}
CONFIGS = Path(__file__).parents[2] / "configs"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Case:
    inner: str = "linear"
    batch: int = 1
    tokens: int = 2048
    heads: int = 12
    head_dim: int = 64
    mini_batch: int = 16
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def sizes(self) -> str:
        """All sizes except the tokens."""
        found = f"B{self.batch} H{self.heads} D{self.head_dim} M{self.mini_batch}"
        return found + (f" {self.dtype}" if self.dtype != "float32" else "")

    @property
    def shape(self) -> str:
        return f"{self.sizes} T{self.tokens}"

    @property
    def q_bytes(self) -> int:
        size = DTYPES[self.dtype].itemsize
        return self.batch * self.tokens * self.heads * self.head_dim * size

    def small(self) -> Case:
        """A smaller case of the same kernel, to be checked in float64."""
        tokens = min(self.tokens, 32 * self.mini_batch)
        return replace(self, batch=min(self.batch, 2), heads=min(self.heads, 4), tokens=tokens)


@dataclass(frozen=True)
class Inputs:
    """q, k, v (B, T, H, D); eta (B, T, H); token_scale (M,); norm (H, D) twice; fast weights."""

    q: Tensor
    k: Tensor
    v: Tensor
    eta: Tensor
    token_scale: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    weights: tuple[Tensor, ...]

    @property
    def tokens(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v, self.eta

    @property
    def norm(self) -> Norm:
        return self.norm_weight, self.norm_bias

    def leaves(self, *names: str) -> dict[str, Tensor]:
        """The tensors whose gradients are taken, by name; all unless named."""
        found = {name: x for name, x in vars(self).items() if name != "weights"}
        found |= {f"weights[{i}]": w for i, w in enumerate(self.weights)}
        return {name: found[name] for name in names or found}

    def double(self) -> Inputs:
        """The same numbers in float64."""

        def exact(x: Tensor) -> Tensor:
            return x.detach().double().requires_grad_()

        tensors = {name: exact(x) for name, x in vars(self).items() if name != "weights"}
        return Inputs(**tensors, weights=tuple(map(exact, self.weights)))


def draw_inputs(case: Case, same_eta: bool = False) -> Inputs:
    """Inputs like those of a trained layer: rates of a few percent, q and k of unit features.

    same_eta: one learning rate for all writers.
    """
    generator = torch.Generator(case.device).manual_seed(0)
    B, T, H, D, M = case.batch, case.tokens, case.heads, case.head_dim, case.mini_batch

    def normal(*shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        x = torch.randn(*shape, generator=generator, device=case.device)
        return x.mul_(scale).add_(mean)

    q, k, v = (normal(B, T, H, D).to(DTYPES[case.dtype]) for _ in "qkv")
    rate = {"linear": 1.0, "mlp": 0.1}[case.inner] / D
    eta = torch.full((B, T, H), rate / 2, device=case.device)
    if not same_eta:
        eta = rate * normal(B, T, H).sigmoid_()
    token_scale = 1 / torch.arange(1, M + 1, device=case.device)
    norm_weight, norm_bias = normal(H, D, scale=0.1, mean=1.0), normal(H, D, scale=0.1)
    widths = (D, D) if case.inner == "linear" else (D, 4 * D, D)
    weights = [
        normal(B, H, rows, after, scale=0.02)
        for before, after in zip(widths[:-1], widths[1:], strict=True)
        for rows in (before, 1)
    ]
    inputs = Inputs(q, k, v, eta, token_scale, norm_weight, norm_bias, tuple(weights))
    for leaf in inputs.leaves().values():
        leaf.requires_grad_()
    return inputs


def load_config(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def load_backbone(size: str) -> dict[str, Any]:
    """The backbone of text_tiny, or of one of the paper's models, from its config."""
    return load_config(f"text_{size}")["model"]["init_args"]["backbone"]


def least_work(case: Case, direction: str) -> tuple[float, float]:
    """The least floating point operations and bytes of whole mini-batches, the state on the chip.

    Counted for the design of kernels/: backward takes the steps S from memory, forward leaves them
    there. A product of a row with the state is 2 D^2 (MLP: two layers of 2 D E), one inside a
    mini-batch 2 M D.
    """
    D, M, size = case.head_dim, case.mini_batch, DTYPES[case.dtype].itemsize
    big, small = (2 * D * D, 2 * M * D) if case.inner == "linear" else (8 * D * D, 10 * M * D)
    count, steps = ((3, 9), D) if case.inner == "linear" else ((7, 21), 5 * D)
    keep = size * steps if direction != FORWARD else 0
    flop = {FORWARD: count[0] * big + 2 * small, BACKWARD: count[1] * big + 6 * small}
    moved = {FORWARD: 4 * D * size + 4, BACKWARD: 7 * D * size + 8 + keep}
    flop[BOTH] = flop[FORWARD] + flop[BACKWARD]
    moved[BOTH] = moved[FORWARD] + moved[BACKWARD] + keep
    rows = case.batch * case.tokens * case.heads
    return rows * flop[direction], rows * moved[direction]


def attention_work(case: Case, direction: str) -> tuple[float, float]:
    """Of causal attention: two products of T^2 D / 2 forward, five backward."""
    D, size = case.head_dim, DTYPES[case.dtype].itemsize
    rows = case.batch * case.tokens * case.heads
    products = {FORWARD: 2, BACKWARD: 5, BOTH: 7}[direction]
    tensors = {FORWARD: 4, BACKWARD: 8, BOTH: 12}[direction]
    return rows * products * case.tokens * D, rows * tensors * D * size


def decode_bytes(case: Case) -> float:
    """The least bytes that a token moves when steps wait for the end of a mini-batch.

    The operands of products and half of the open rows are read and a row is written. Once in M
    tokens float32 weights are written; where operands are copies of lower precision, the
    weights are read too and the copies written.
    """
    D, M, size = case.head_dim, case.mini_batch, DTYPES[case.dtype].itemsize
    matrix, features = (D * D, 2 * D) if case.inner == "linear" else (8 * D * D, 10 * D)
    rows = ((M - 1) / 2 + 1) * features
    fold = (4 + 4 + size if size < 4 else 4) * matrix / M
    return case.batch * case.heads * (size * (matrix + rows + 4 * D) + fold)
