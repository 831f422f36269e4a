"""Tensors of states, equality of states, and runs of a layer or a model in pieces."""

import torch

from tttvideo.states import structure, tree_map


def leaves(state):
    found = []
    tree_map(found.append, state)
    return found


def assert_same_state(a, b, tolerance=1e-9):
    """Same classes, dtypes and integers; tensors within the tolerance, 0 for equal bits."""
    assert structure(a) == structure(b)
    for one, other in zip(leaves(a), leaves(b), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def run_in_pieces(model, x, cuts):
    """The output of all pieces of x (B, T, ...), joined, and the last state."""
    outputs, state = [], None
    for part in x.split(cuts, dim=1):
        y, state = model(part, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state
