"""Operators that torch.compile sees whole: registration with torch.library, and their autograd.

A backend is a module with three functions and the number of open rows that it returns, ROWS, by
the number of fast weights:

    forward(operands, weights, spans, keep) -> results
    like(operands, weights, spans, keep) -> results, empty, of the right shapes and dtypes
    backward(grads, operands, weights, results, spans) -> gradients of operands, then of weights

operands: q, k, v, eta, token_scale, and gain and shift, the inner norm's weight and bias.
results: y, the weights after, the open rows, and, if `keep`, what backward wants besides.
spans: (S, 2) int32, first and last token plus one of S sequences packed into one, or None.
grads: gradients of y, of the weights after and of the open rows; to backward results have no y.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor


def operator(name: str, backend: ModuleType) -> torch.library.CustomOpDef:
    """torch.ops.tttvideo.NAME(operands, weights, spans, keep), differentiable once."""
    forward = torch.library.custom_op(
        f"tttvideo::{name}",
        backend.forward,
        mutates_args=(),
        schema="(Tensor[] operands, Tensor[] weights, Tensor? spans, bool keep) -> Tensor[]",
    )
    ascend = torch.library.custom_op(
        f"tttvideo::{name}_backward",
        backend.backward,
        mutates_args=(),
        schema="(Tensor[] grads, Tensor[] operands, Tensor[] weights, Tensor[] results, "
        "Tensor? spans) -> Tensor[]",
    )

    def like_inputs(
        grads: list[Tensor],
        operands: list[Tensor],
        weights: list[Tensor],
        results: list[Tensor],
        spans: Tensor | None,
    ) -> list[Tensor]:
        return [x.new_empty(x.shape) for x in (*operands, *weights)]

    def setup_context(ctx, inputs: tuple, output: list[Tensor]) -> None:
        operands, weights, ctx.spans, _ = inputs
        ctx.lengths = len(operands), len(weights)
        ctx.set_materialize_grads(False)  # those of kept tensors would be as large as these
        ctx.save_for_backward(*operands, *weights, *output[1:])

    def differentiate(ctx, grads: Sequence[Tensor | None]) -> tuple:
        # without this a second derivative could vanish where the gradients are constants
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the fast forms differentiate whole mini-batches once; use backend='reference' "
                "where create_graph=True is needed"
            )
        tensors, (n, m) = list(ctx.saved_tensors), ctx.lengths
        operands, weights, results = tensors[:n], tensors[n : n + m], tensors[n + m :]
        primals = operands[0], *results[: m + backend.ROWS[m]]
        grads = [
            torch.zeros_like(x) if grad is None else grad
            for x, grad in zip(primals, grads[: len(primals)], strict=True)
        ]
        with torch.autocast(grads[0].device.type, enabled=False):
            grads = ascend(grads, operands, weights, results, ctx.spans)
        return grads[:n], grads[n:], None, None

    forward.register_fake(backend.like)
    ascend.register_fake(like_inputs)
    forward.register_autograd(differentiate, setup_context=setup_context)
    return forward
