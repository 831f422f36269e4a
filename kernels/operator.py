"""Operators that torch.compile does not look into: registration with torch.library, and autograd.

A backend has three functions, `inputs` being q, k, v, eta, token_scale, norm_weight, norm_bias and
`memory` log_keep, weights, start:

    forward(*inputs, *memory, token_ranges, causal, save) -> results
    like(*inputs, *memory, token_ranges, causal, save) -> results, empty, of the right shapes
    backward(grads, *inputs, *memory, results, token_ranges, causal) -> gradients of inputs, then
        of log_keep, of weights and of start

log_keep and start: the forget gate, or None and no tensor.
results: y, the weights after, open rows, and, if `save`, the tensors that backward needs.
causal: whether a token reads what is written up to it, or after the step of its mini-batch.
token_ranges: (S, 2) int32, first token and last plus one of S sequences packed into one row, or
    None. The dual form takes None only.
grads: gradients of y, of the weights after and of the open rows; backward gets results without y.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


INPUTS = "q", "k", "v", "eta", "token_scale", "norm_weight", "norm_bias"
ARGUMENTS = (
    ", ".join(f"Tensor {name}" for name in INPUTS)
    + ", Tensor? log_keep, Tensor[] weights, Tensor[] start"
)


def operator(
    name: str, forward: Callable, like: Callable, backward: Callable, open_rows: int
) -> torch.library.CustomOpDef:
    """torch.ops.tttvideo.NAME, with the arguments of `forward`, differentiable once.

    open_rows: how many of the results are open rows.
    """
    run = torch.library.custom_op(
        f"tttvideo::{name}",
        forward,
        mutates_args=(),
        schema=f"({ARGUMENTS}, Tensor? token_ranges, bool causal, bool save) -> Tensor[]",
    )
    run_backward = torch.library.custom_op(
        f"tttvideo::{name}_backward",
        backward,
        mutates_args=(),
        schema=f"(Tensor[] grads, {ARGUMENTS}, Tensor[] results, Tensor? token_ranges, bool causal)"
        " -> Tensor[]",
    )

    def setup_context(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
        *operands, log_keep, weights, start, ctx.token_ranges, ctx.causal, _ = inputs
        ctx.sizes = len(operands), int(log_keep is not None), len(weights), len(start)
        ctx.set_materialize_grads(False)  # those of saved tensors would be as large as these
        gate = () if log_keep is None else (log_keep,)
        ctx.save_for_backward(*operands, *gate, *weights, *start, *output[1:])

    def differentiate(ctx: Any, grads: Sequence[Tensor | None]) -> tuple:
        # without this a second derivative could vanish where the gradients are constants
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the fast forms differentiate whole mini-batches once; use backend='reference' "
                "where create_graph=True is needed"
            )
        inputs, gate, weights, start, results = parts(ctx.saved_tensors, ctx.sizes)
        log_keep = gate[0] if gate else None
        primals = inputs[0], *results[: len(weights) + open_rows]
        given = [
            torch.zeros_like(x) if grad is None else grad
            for x, grad in zip(primals, grads[: len(primals)], strict=True)
        ]
        with torch.autocast(given[0].device.type, enabled=False):
            found = run_backward(
                given, *inputs, log_keep, weights, start, results, ctx.token_ranges, ctx.causal
            )
        inputs, gate, weights, start, _ = parts(found, ctx.sizes)
        return *inputs, gate[0] if gate else None, weights, start, None, None, None

    run.register_fake(like)
    run_backward.register_fake(like_inputs)
    run.register_autograd(differentiate, setup_context=setup_context)
    return run


def like_inputs(grads: list[Tensor], *operands: Any) -> list[Tensor]:
    """Empty gradients of inputs and memory, which stand before results."""
    *inputs, log_keep, weights, start, _, _, _ = operands
    gate = () if log_keep is None else (log_keep,)
    return [x.new_empty(x.shape) for x in (*inputs, *gate, *weights, *start)]


def parts(tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[list[Tensor]]:
    """The tensors cut into lists of these sizes, and the rest."""
    ends = [0, *itertools.accumulate(sizes), len(tensors)]
    return [list(tensors[i:j]) for i, j in itertools.pairwise(ends)]


def needs_backward(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
