"""How likely a model finds a text after another, of any length, in constant memory.

T tokens, V vocabulary.
"""

import torch
from torch import Tensor

from .backbone import Backbone, BackboneState


Heard = tuple[Tensor, BackboneState]  # logits (1, V) for the next token, and the state


@torch.inference_mode()
def hear(backbone: Backbone, tokens: Tensor, chunk: int = 1024) -> Heard:
    """What tokens (1, T) leave behind; T is 1 or more."""
    state = None
    for part in tokens.split(chunk, dim=1):
        logits, state = backbone(part, state)
    return logits[:, -1], state


@torch.inference_mode()
def likelihood(
    backbone: Backbone, tokens: Tensor, heard: Heard, chunk: int = 1024
) -> tuple[float, bool]:
    """Log-likelihood, in nats, of tokens (1, T), and whether each is the likeliest."""
    nats, greedy = 0.0, True
    before, state = heard
    for part in tokens.split(chunk, dim=1) if tokens.numel() else ():
        logits, state = backbone(part, state)
        guesses = torch.cat((before[:, None], logits[:, :-1]), dim=1)  # (1, T, V)
        before = logits[:, -1]
        said = guesses.log_softmax(-1).gather(-1, part[..., None])
        nats += said.double().sum().item()
        greedy = greedy and bool((guesses.argmax(-1) == part).all())
    return nats, greedy
