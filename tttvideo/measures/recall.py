"""Are answers recalled? Each of an answer's tokens is predicted from the true text before it.

B batch, T tokens, A answers.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tttvideo.backbone import Backbone


@torch.inference_mode()
def score_answers(
    backbone: Backbone, tokens: Tensor, answers: Tensor, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """Read `chunk` tokens at a time with the state carried on, so that memory stays constant.

    Arguments:
        tokens: (B, T) on the backbone's device; what fills a row up to T goes behind its text.
        answers: (B, T), the number 0 ... A - 1 of the answer that a token belongs to, else -1;
            every number occurs, in one row only, and never at a row's first token.
    Returns: exact (A,) bool, whether the likeliest token was the true one at all of an answer's
        tokens; bits (A,) float64, the mean cost of an answer's tokens.
    Raises: ValueError when `answers` does not fit the tokens or names none.
    """
    if answers.shape != tokens.shape or answers.max() < 0 or (answers[:, 0] >= 0).any():
        raise ValueError(
            f"answers are {tuple(answers.shape)} for tokens {tuple(tokens.shape)}; they must have "
            "the same shape, one answer or more, and none at a first token"
        )
    A = int(answers.max()) + 1
    exact = torch.ones(A, dtype=torch.bool, device=tokens.device)
    bits, counts = torch.zeros(2, A, dtype=torch.float64, device=tokens.device)
    state = None
    for start in range(0, tokens.shape[1] - 1, chunk):
        end = min(start + chunk, tokens.shape[1] - 1)
        hidden, state = backbone.features(tokens[:, start:end], state)
        number = answers[:, start + 1 : end + 1]
        here = number >= 0
        number, truth = number[here], tokens[:, start + 1 : end + 1][here]
        logits = backbone.head(hidden[here])
        exact[number[logits.argmax(-1) != truth]] = False
        cost = F.cross_entropy(logits.double(), truth, reduction="none") / math.log(2)
        bits.index_add_(0, number, cost)
        counts.index_add_(0, number, torch.ones_like(cost))
    return exact, bits / counts
