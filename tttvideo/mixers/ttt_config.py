"""The settings of the TTT layer, its name for people, and its operations per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tttvideo.kernels.baselines.linear_attention import CHUNK

from .mixer import Grid


@dataclass
class TTTConfig:
    inner: Literal["linear", "mlp"] = "linear"
    """Inner model: one matrix, or two with a GELU between and four times the hidden size."""
    mini_batch_size: int | None = None
    """Tokens that share one inner gradient step; null: one frame of a video, 16 tokens of text."""
    base_lr: float | None = None
    """Inner learning rate before the learned gate; null: 1.0 for linear, 0.1 for mlp."""
    backbone: Literal["mamba", "transformer"] = "mamba"
    """mamba: shared q/k with short convolutions, a gate, a convolution before; else none."""
    share_qk: bool | None = None
    """One projection for q and k, with a short convolution for each; null: as `backbone`."""
    gate: bool | None = None
    """Multiply the output with a GELU gate of the input; null: as `backbone`."""
    pre_conv: bool | None = None
    """A short convolution with its own residual before the layer; null: as `backbone`."""
    conv_kernel: int = 4
    """Taps of every short convolution."""
    rope_theta: float = 10000.0
    """Base of the rotary positions."""
    learn_start: bool = True
    """Learn W0, the fast weights before the first token, in the outer loop; else they are zero."""
    norm: bool = True
    """A LayerNorm and a residual in the inner model; without, f(x) = x W and the target is v."""
    learn_step: bool = True
    """Learn each token's step size: a gate times base_lr / head_dim where it writes, one over its
    place plus a shift where it reads. Else base_lr / (2 head_dim), the start of the gate, and 1:
    the paper's plain gradient descent."""
    carry: float | None = None
    """First value of the learned factor on the step that a mini-batch carries on; null: one over
    its size, as in the paper. A memory of single events needs more."""
    forget: bool = False
    """Multiply W - W0 after each mini-batch with a learned gate, so that memory lasts beyond the
    training window; false: the paper's layer."""
    first_decay: float = 1.0
    """Factor on the rates of decay of a new forget gate; below 1 it remembers longer."""
    causal: bool | None = None
    """A token reads what tokens up to it wrote; false: what its whole mini-batch wrote, for models
    of whole frames only; null: true in the backbone of tokens, false in the frame model."""
    blocks: int = 1
    """Rectangles of a frame with fast weights of their own, for more room; needs causal false."""
    address: Literal["content", "place"] = "content"
    """Make k and q of a token's content; or, in the frame model, of its place in the world now and
    of the same place in the next frame."""
    backend: Literal["auto", "triton", "dual", "reference"] = "auto"
    """Implementation of the inner loop."""

    def resolved(self, grid: Grid | None) -> ResolvedTTT:
        """Put a default in place of every null; ValueError for values that no layer can have."""
        values: dict[str, Any] = {
            "mini_batch_size": grid[0] * grid[1] // self.blocks if grid and self.blocks else 16,
            "base_lr": {"linear": 1.0, "mlp": 0.1}[self.inner],
            "causal": True,
            **dict.fromkeys(("share_qk", "gate", "pre_conv"), self.backbone == "mamba"),
        }
        values |= {name: value for name, value in vars(self).items() if value is not None}
        for name in ("mini_batch_size", "conv_kernel", "blocks"):
            if values[name] < 1:
                raise ValueError(f"ttt.{name} is {values[name]}; it must be 1 or more")
        if not self.first_decay > 0:
            raise ValueError(f"ttt.first_decay is {self.first_decay}; it must be above 0")
        if self.address == "place":
            values["share_qk"] = True
        self.check(values, grid)
        return ResolvedTTT(**values)

    def check(self, values: dict[str, Any], grid: Grid | None) -> None:
        """Raise ValueError for parts that exclude one another."""
        if self.carry is not None and not self.carry > 0:
            raise ValueError(f"ttt.carry is {self.carry}; it must be above 0")
        if self.carry is not None and not self.learn_step:
            raise ValueError(f"ttt.carry is {self.carry}, which needs ttt.learn_step true")
        for name, plain in (("forget", False), ("causal", True)):
            if not self.norm and values[name] != plain:
                raise ValueError(f"ttt.{name} {values[name]} needs ttt.norm true".lower())
        if self.blocks > 1:
            whole = grid and values["mini_batch_size"] * self.blocks == grid[0] * grid[1]
            if values["causal"] or not whole:
                raise ValueError(
                    f"ttt.blocks is {self.blocks}, which needs a frame model: ttt.causal false, a "
                    "grid, and a mini_batch_size of null"
                )
        elif grid and not values["causal"] and grid[0] * grid[1] % values["mini_batch_size"]:
            raise ValueError(
                f"ttt.mini_batch_size is {self.mini_batch_size}, which does not divide the "
                f"{grid[0] * grid[1]} tokens of a frame; with ttt.causal false a frame would read "
                "frames after it"
            )
        for name in ("norm", "learn_start"):
            if self.inner == "mlp" and not values[name]:
                raise ValueError(
                    f"ttt.{name} is false, which is for ttt.inner linear; an mlp "
                    + ("needs its norm" if name == "norm" else "that starts at zero stays there")
                )


@dataclass(kw_only=True)
class ResolvedTTT(TTTConfig):
    """TTTConfig without nulls, but for the carry's."""

    mini_batch_size: int
    base_lr: float
    share_qk: bool
    gate: bool
    pre_conv: bool
    causal: bool


def label(config: TTTConfig) -> str:
    """The paper's name; (T) stands for the Transformer backbone."""
    name = {"linear": "TTT-Linear", "mlp": "TTT-MLP"}[config.inner]
    return name if config.backbone == "mamba" else f"{name} (T)"


def flops(config: ResolvedTTT, width: int, heads: int, T: int) -> float:
    """Forward operations per token, in the dual form; D head dim, M mini-batch size."""
    C, D, M = width, width // heads, config.mini_batch_size
    place = config.address == "place"
    projections = 3 + (not config.share_qk or place) + config.gate  # q, v, out; k; gate
    convolutions = 2 * (config.share_qk and not place) + config.pre_conv
    steps = 2 * C * heads * (config.learn_step + config.forget)
    outside = 2 * C * C * projections + 2 * config.conv_kernel * C * convolutions + steps
    # per head and mini-batch: 2 M D^2 for every product with a weight or a step of one, 2 M^2 D for
    # every product of tokens with tokens; the hidden size of the MLP is 4 D
    squares, mixes = {"linear": (6, 4), "mlp": (56, 20)}[config.inner]
    mixes *= config.causal
    if not config.norm:  # a mini-batch is linear attention, by chunks
        squares, M = 8, min(CHUNK, M)
    return outside + heads * (squares * D * D + mixes * M * D)
