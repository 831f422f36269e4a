"""What tests ask of states: their tensors, and whether two are the same."""

import torch

from tttvideo.states import structure, tree_map


def leaves(state):
    found = []
    tree_map(found.append, state)
    return found


def assert_same_state(a, b, tolerance=1e-9):
    """All of it: kinds, dtypes, places and other integers too. Tolerance 0 is to the bit."""
    assert structure(a) == structure(b)
    for one, other in zip(leaves(a), leaves(b), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
