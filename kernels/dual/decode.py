"""TTT-Linear and TTT-MLP for one token of each sequence, in place, as matmuls on any device.

The dual form with a late step, as in gpu/decode.py: the token at place p of its mini-batch reads

    z = x W + b - t_p sum_{j <= p} (x X_j + 1) S_j          (arXiv 2407.04620, section 2.5)

from the rows of the open mini-batch, layer by layer, and W is written once in M tokens.

B sequences, H heads, D head dim, M mini-batch size, R rows of the fullest mini-batch.
"""

import torch
from torch import Tensor

from tttvideo.kernels import inner
from tttvideo.kernels.slots import Slots
from tttvideo.kernels.state import pairs


def decode_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    slots: Slots,
    log_keep: Tensor | None = None,
) -> Tensor:
    """y (B, 1, H, D) of one token per sequence, in q's dtype; `slots` are updated.

    q, k, v: (B, 1, H, D); eta, log_keep: (B, 1, H); token_scale (M,); norm_weight and norm_bias
    (H, D).
    """
    dtype, exact = q.dtype, slots.weights[0].dtype
    norm = norm_weight[:, None], norm_bias[:, None]
    q, k, v, eta = (x.to(exact).transpose(1, 2) for x in (q, k, v, eta[..., None]))
    z, z_read = inner.affine(torch.cat((k, q), dim=-2), slots.weights).split(1, dim=-2)
    inputs, grads = inner.gradient(k, z, v, slots.weights, norm)
    places = slots.filled.tolist()
    R = max(places) + 1
    for (rows_X, rows_S), X, G in zip(pairs(slots.rows), inputs, grads, strict=True):
        put(rows_X, X, places)
        put(rows_S, eta * G, places)

    scale, unseen = token_scale[R - 1], None
    if min(places) < R - 1:
        place = slots.places[..., None, None].long()
        scale, unseen = token_scale[place], torch.arange(R, device=place.device) > place
    x = q
    layers = zip(pairs(slots.weights), pairs(slots.rows), strict=True)
    for layer, ((W, b), rows) in enumerate(layers):
        X, S = (row[:, :, :R].to(exact) for row in rows)
        if layer:
            x = inner.gelu(z_read)
            z_read = x @ W + b
        mix = (x @ X.mT).add_(1)
        if unseen is not None:
            mix, S = mix.masked_fill_(unseen, 0), S.masked_fill(unseen.mT, 0)
        z_read = z_read - scale * (mix @ S)
    count_(slots, token_scale, places, log_keep)
    return (q + inner.layer_norm(z_read, norm)).transpose(1, 2).to(dtype)


def put(rows: Tensor, x: Tensor, places: list[int]) -> None:
    """Write x (B, H, 1, features), the row of each sequence at its place."""
    if len(set(places)) == 1:
        rows[:, :, places[0]] = x[:, :, 0]
    else:
        rows[torch.arange(len(rows)), :, torch.tensor(places)] = x[:, :, 0]


def count_(slots: Slots, token_scale: Tensor, places: list[int], log_keep: Tensor | None) -> None:
    """Count the token; where that fills the mini-batch, W -= scale X^T S, b -= scale sum S, and
    both move towards the start that `slots` hold, if there is a forget gate.
    """
    slots.places.add_(1)
    full = [i for i, place in enumerate(places) if place == len(token_scale) - 1]
    if not full:
        return
    slots.places.remainder_(len(token_scale))
    scale = token_scale[-1].item()
    sequences = [slice(i, i + 1) for i in full]
    for i in [slice(None)] if len(full) == len(slots.places) else sequences:
        layers = zip(pairs(slots.weights), pairs(slots.rows), strict=True)
        for (W, b), (X, S) in layers:
            W, b, X, S = (x[i].flatten(0, 1) for x in (W, b, X.to(W.dtype), S.to(W.dtype)))
            W.baddbmm_(X.mT, S, alpha=-scale)
            b.sub_(S.sum(-2, keepdim=True), alpha=scale)
        if log_keep is not None:
            forgotten = inner.forget([w[i] for w in slots.weights], slots.start, log_keep[i, 0])
            for w, new in zip(slots.weights, forgotten, strict=True):
                w[i] = new
        for operand, W in zip(slots.operands, slots.weights[::2], strict=True):
            if operand is not W:
                operand[i] = W[i]
