"""Generation: prefill reads and scores tokens in chunks, decoding reads one by one.

B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tttvideo.backbone import Backbone, BackboneState
from tttvideo.kernels import Packed
from tttvideo.reading import CHUNK, read, score_hidden, score_logits
from tttvideo.states import stack, state_dataclass, tree_map

from .choose import Choose


@state_dataclass
class Prefix:
    """The result of reading: logits (B, V) for the next token, and the state."""

    logits: Tensor
    state: BackboneState


@torch.inference_mode()
def prefill(
    backbone: Backbone, tokens: Tensor, chunk: int = CHUNK, prefix: Prefix | None = None
) -> Prefix:
    """Read tokens (B, T) after `prefix`, in constant memory; ValueError where there are none."""
    state = prefix.state if prefix else None
    last = None
    for _, hidden, after in read(backbone, tokens, state, chunk):
        last, state = hidden[:, -1], after
    if last is None or state is None:
        raise ValueError(f"tokens are {tuple(tokens.shape)}; prefill reads 1 token or more")
    return Prefix(backbone.head(last), state)


@torch.inference_mode()
def score(
    backbone: Backbone, tokens: Tensor, prefix: Prefix | None = None, chunk: int = CHUNK
) -> tuple[Tensor, Tensor, Prefix]:
    """Read tokens (B, T) after `prefix`, and score each given all tokens before it.

    Without a prefix the first token costs log V.
    Returns: costs (B, T) in nats, float64; whether each token is the greedy choice (B, T); the
    prefix with these tokens.
    """
    prefix = prefix or start(backbone, len(tokens))
    scores = []
    for begin, hidden, state in read(backbone, tokens, prefix.state, chunk):
        part = tokens[:, begin : begin + hidden.shape[1]].to(hidden.device)
        first = [x[:, None] for x in score_logits(prefix.logits, part[:, 0])]
        scores += [first, score_hidden(backbone, hidden[:, :-1], part[:, 1:])]
        prefix = Prefix(backbone.head(hidden[:, -1]), state)
    nats, greedy = (torch.cat(parts, dim=1) for parts in zip(*scores, strict=True))
    return nats, greedy, prefix


def start(backbone: Backbone, batch: int) -> Prefix:
    """The prefix of no tokens: equal logits for every token."""
    state, device = backbone.init_state(batch), backbone.embedding.weight.device
    return Prefix(torch.zeros(batch, backbone.config.vocab_size, device=device), state)


@dataclass
class Decoding:
    """Sequences that are decoded side by side: logits (B, V) for the next tokens, and the state.

    state: belongs to this object, which changes it in place; or a Packed of the states of sequences
        of different structure.
    """

    backbone: Backbone
    logits: Tensor
    state: BackboneState | Packed[BackboneState]

    @classmethod
    @torch.inference_mode()
    def start(cls, backbone: Backbone, prefix: Prefix) -> Decoding:
        """Decode the sequences of a prefix, which is not changed."""
        return cls(backbone, prefix.logits, backbone.start_decoding(prefix.state))

    @classmethod
    @torch.inference_mode()
    def join(cls, parts: Sequence[Decoding]) -> Decoding:
        """One batch of the sequences of parts whose states have one structure."""
        logits = torch.cat([part.logits for part in parts])
        return cls(parts[0].backbone, logits, stack([part.state for part in parts]))

    @classmethod
    @torch.inference_mode()
    def pack(cls, backbone: Backbone, prefixes: Sequence[Prefix]) -> Decoding:
        """Decode prefixes of one sequence each, of any structure."""
        logits = torch.cat([prefix.logits for prefix in prefixes])
        return cls(backbone, logits, pack([prefix.state for prefix in prefixes]))

    @torch.inference_mode()
    def read(self, tokens: Tensor) -> None:
        """Read one token of each sequence, (B,)."""
        if isinstance(self.state, Packed):
            logits, self.state = self.backbone(tokens[None], self.state)
            self.logits = logits[0]
        else:
            logits, self.state = self.backbone.decode_(tokens[:, None], self.state)
            self.logits = logits[:, -1]

    @torch.inference_mode()
    def select(self, places: list[int]) -> Decoding:
        """A copy of the sequences at these places of the batch."""
        index = torch.tensor(places, device=self.logits.device)
        if isinstance(self.state, Packed):
            state: Any = pack([self.state.states[place] for place in places])
        else:
            state = tree_map(lambda x: x[index], self.state)
        return Decoding(self.backbone, self.logits[index], state)

    @torch.inference_mode()
    def prefix(self) -> Prefix:
        """The prefix of all sequences, of one structure, with the tokens that were read."""
        if isinstance(self.state, Packed):
            return Prefix(self.logits, stack(self.state.states))
        return Prefix(self.logits, self.backbone.finish_decoding(self.state))


def pack(states: Sequence[BackboneState]) -> Packed[BackboneState]:
    """States of sequences of which each reads one token a call."""
    return Packed(tuple(states), (1,) * len(states))


def decode(backbone: Backbone, prefix: Prefix, count: int, choose: Choose) -> Iterator[Tensor]:
    """Decode `count` tokens after `prefix`: yields tokens (B,)."""
    decoding = Decoding.start(backbone, prefix)
    for _ in range(count):
        tokens = choose(decoding.logits)
        decoding.read(tokens)
        yield tokens
