"""Generation: what is known once, in chunks, then one token after the other.

B batch, T tokens, P tokens per frame, V vocabulary.
"""

import math
import secrets
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .backbone import Backbone, BackboneState


Choose = Callable[[Tensor], Tensor]
Heard = tuple[Tensor, BackboneState]  # logits (B, V) for the next token, and the state


@torch.inference_mode()
def prefill(backbone: Backbone, tokens: Tensor, chunk: int = 1024) -> Heard:
    """Read tokens (B, T) in constant memory."""
    state = None
    for part in tokens.split(chunk, dim=1):
        logits, state = backbone(part, state)
    return logits[:, -1], state


@torch.inference_mode()
def score(backbone: Backbone, tokens: Tensor, heard: Heard | None = None) -> tuple[Tensor, Heard]:
    """Bits (B, T) that each token cost given all before it, and what was heard with them.

    `heard` is what came before; without it the first token costs log2 of the vocabulary.
    """
    before, state = heard or (tokens.new_zeros(len(tokens), backbone.config.vocab_size), None)
    logits, state = backbone(tokens, state)
    guesses = torch.cat((before[:, None].to(logits), logits[:, :-1]), dim=1)
    nats = F.cross_entropy(guesses.mT, tokens, reduction="none")
    return nats / math.log(2), (logits[:, -1], state)


@torch.inference_mode()
def decode(
    backbone: Backbone, heard: Heard, count: int, choose: Choose
) -> Iterator[tuple[Tensor, Heard]]:
    """Go on for `count` tokens: each (B,), and what was heard with it."""
    logits, state = heard
    for _ in range(count):
        token = choose(logits)
        logits, state = backbone(token[:, None], state)
        logits = logits[:, -1]
        yield token, (logits, state)


def decode_frames(backbone: Backbone, heard: Heard, count: int, choose: Choose) -> Iterator[Tensor]:
    """Go on for `count` frames: the tokens (B, P) of each."""
    rows, columns = backbone.config.grid
    for _ in range(count):
        said = list(decode(backbone, heard, rows * columns, choose))
        heard = said[-1][1]
        yield torch.stack([token for token, _ in said], dim=1)


def chooser(
    temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int | None = None
) -> Choose:
    """A function from logits (B, V) to tokens (B,).

    temperature 0 takes the likeliest; top_k keeps the k likeliest (0: all); top_p keeps the fewest
    tokens that hold that much probability. Raises ValueError for values outside these meanings.
    """
    if not temperature >= 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature {temperature}, top-k {top_k}, top-p {top_p}: temperature and top-k must "
            "be 0 or more, top-p above 0 and at most 1"
        )
    generators: dict[torch.device, torch.Generator] = {}

    def generator(device: torch.device) -> torch.Generator:
        if device not in generators:
            fresh = secrets.randbits(63) if seed is None else seed
            generators[device] = torch.Generator(device).manual_seed(fresh)
        return generators[device]

    def choose(logits: Tensor) -> Tensor:
        if temperature == 0:
            return logits.argmax(-1)
        ranked, order = (logits / temperature).sort(descending=True)
        probabilities = ranked.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # probability of all likelier tokens
        dropped = before >= top_p
        if top_k:
            dropped[:, top_k:] = True
        kept = probabilities.masked_fill(dropped, 0)
        rank = torch.multinomial(kept, 1, generator=generator(logits.device))
        return order.gather(-1, rank)[:, 0]

    return choose
