"""Decoding after contexts of growing length: time per token, size of the state, exactness.

One text is read. Decoding continues from the prefix at each context in turn, so that any other load
of the machine affects all contexts equally.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from tttvideo.backbone import Backbone
from tttvideo.progress import Advance
from tttvideo.reading import CHUNK
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.decode import Decoding, Prefix, decode, prefill
from tttvideo.states import state_bytes

from .speed import Clock, interleave


@dataclass
class Point:
    """Decoding after `context` tokens.

    state: bytes of the state.
    error: relative RMS error of the last logits, against reading the same tokens together.
    seconds: of each run of `tokens` tokens.
    """

    context: int
    state: int
    error: float
    tokens: int
    seconds: list[float]

    @property
    def per_token(self) -> float:
        return float(np.median(self.seconds)) / self.tokens


def decoding_by_context(
    backbone: Backbone,
    contexts: Iterable[int],
    tokens: int,
    rounds: int,
    seconds: float = float("inf"),
    advance: Advance = lambda _: None,
) -> list[Point]:
    """Decode `tokens` tokens after each context, in turn, `rounds` times, or fewer in `seconds`.

    `tokens` should be a multiple of the mini-batch, whose tokens do not all cost the same.
    advance: called with the tokens of context and those of the runs.
    """
    device = next(backbone.parameters()).device.type
    greedy, points = Chooser(temperature=0), []
    runs: dict[str, Callable[[], None]] = {}
    generator = torch.Generator().manual_seed(0)
    prefix: Prefix | None = None
    seen = 0
    for context in sorted(set(contexts)):
        while seen < context:
            count = min(CHUNK, context - seen)
            text = torch.randint(backbone.config.vocab_size, (1, count), generator=generator)
            prefix = prefill(backbone, text.to(device), prefix=prefix)
            seen += count
            advance(count)
        assert prefix
        error = decoding_error(backbone, prefix, tokens)
        points.append(Point(context, state_bytes(prefix), error, tokens, []))
        runs[str(context)] = partial(decode_all, backbone, prefix, tokens, greedy)
    times = interleave(Clock(device), runs, rounds, seconds, lambda n: advance(n * tokens))
    for point in points:
        point.seconds = times[str(point.context)]
    return points


def decode_all(backbone: Backbone, prefix: Prefix, tokens: int, choose: Chooser) -> None:
    deque(decode(backbone, prefix, tokens, choose), maxlen=0)


def decoding_error(backbone: Backbone, prefix: Prefix, tokens: int) -> float:
    """Relative RMS error of the logits after greedy tokens, decoded and read together."""
    decoding, greedy, chosen = Decoding.start(backbone, prefix), Chooser(temperature=0), []
    for _ in range(tokens):
        chosen.append(greedy(decoding.logits))
        decoding.read(chosen[-1])
    one_by_one = decoding.logits
    together = prefill(backbone, torch.stack(chosen, dim=1), prefix=prefix).logits
    error = (one_by_one - together).norm() / together.norm()
    return error.nan_to_num(torch.inf).item()


def relative_change(points: Sequence[Point]) -> float:
    """The growth of the time per token from the first context to the last, relative to the first.

    By a line through the medians over the logarithm of the context.
    """
    logs = np.log([point.context for point in points])
    rise, start = np.polyfit(logs - logs[0], [point.per_token for point in points], 1)
    return float(rise * (logs[-1] - logs[0]) / start)
