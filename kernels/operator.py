"""Operators that torch.compile does not look into: registration with torch.library, and autograd.

A backend has three functions, `inputs` being q, k, v, eta, token_scale, norm_weight, norm_bias:

    forward(*inputs, weights, token_ranges, save) -> results
    like(*inputs, weights, token_ranges, save) -> results, empty, of the right shapes and dtypes
    backward(grads, *inputs, weights, results, token_ranges) -> gradients of inputs, then of weights

results: y, the weights after, open rows, and, if `save`, the tensors that backward needs.
token_ranges: (S, 2) int32, first token and last plus one of S sequences packed into one row, or
    None. The dual form takes None only.
grads: gradients of y, of the weights after and of the open rows; backward gets results without y.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


INPUTS = "q", "k", "v", "eta", "token_scale", "norm_weight", "norm_bias"
ARGUMENTS = ", ".join(f"Tensor {name}" for name in INPUTS) + ", Tensor[] weights"


def operator(
    name: str, forward: Callable, like: Callable, backward: Callable, open_rows: int
) -> torch.library.CustomOpDef:
    """torch.ops.tttvideo.NAME(*inputs, weights, token_ranges, save), differentiable once.

    open_rows: how many of the results are open rows.
    """
    run = torch.library.custom_op(
        f"tttvideo::{name}",
        forward,
        mutates_args=(),
        schema=f"({ARGUMENTS}, Tensor? token_ranges, bool save) -> Tensor[]",
    )
    run_backward = torch.library.custom_op(
        f"tttvideo::{name}_backward",
        backward,
        mutates_args=(),
        schema=f"(Tensor[] grads, {ARGUMENTS}, Tensor[] results, Tensor? token_ranges) -> Tensor[]",
    )

    def setup_context(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
        *operands, weights, ctx.token_ranges, _ = inputs
        ctx.weights = len(weights)
        ctx.set_materialize_grads(False)  # those of saved tensors would be as large as these
        ctx.save_for_backward(*operands, *weights, *output[1:])

    def differentiate(ctx: Any, grads: Sequence[Tensor | None]) -> tuple:
        # without this a second derivative could vanish where the gradients are constants
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the fast forms differentiate whole mini-batches once; use backend='reference' "
                "where create_graph=True is needed"
            )
        tensors, n, end = list(ctx.saved_tensors), len(INPUTS), len(INPUTS) + ctx.weights
        inputs, weights, results = tensors[:n], tensors[n:end], tensors[end:]
        primals = inputs[0], *results[: ctx.weights + open_rows]
        given = [
            torch.zeros_like(x) if grad is None else grad
            for x, grad in zip(primals, grads[: len(primals)], strict=True)
        ]
        with torch.autocast(given[0].device.type, enabled=False):
            found = run_backward(given, *inputs, weights, results, ctx.token_ranges)
        return *found[:n], found[n:], None, None

    run.register_fake(like)
    run_backward.register_fake(like_inputs)
    run.register_autograd(differentiate, setup_context=setup_context)
    return run


def like_inputs(grads: list[Tensor], *operands: Any) -> list[Tensor]:
    """Empty gradients of inputs and weights, which stand before results and token_ranges."""
    *inputs, weights, _, _ = operands
    return [x.new_empty(x.shape) for x in (*inputs, *weights)]


def needs_backward(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
