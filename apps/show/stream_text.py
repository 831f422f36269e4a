"""Texts on the screen: up to their stop strings, one after the other, and how fast they came."""

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from tttvideo.data.text.tokenizer import ByteDecoder


class Shown:
    """What is shown of a text: all before the first stop string.

    What may yet become one is held back. `tokens` counts what was said, `ended` says whether there
    was a stop string.
    """

    def __init__(self, decoder: "ByteDecoder", stops: Sequence[str]):
        self.decoder, self.stops = decoder, stops
        self.held, self.tokens, self.ended = "", 0, False

    def __call__(self, tokens: Sequence[int], final: bool = False) -> str:
        """What these tokens add, or the rest."""
        self.tokens += len(tokens)
        if self.ended:
            return ""
        self.held += self.decoder(tokens, final)
        found = [(i + len(stop), i) for stop in self.stops if (i := self.held.find(stop)) >= 0]
        if found:
            self.ended = True
            return self.held[: min(found)[1]]  # the first to be whole, however the text comes
        keep = 0 if final else self.hopeful()
        shown, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return shown

    def hopeful(self) -> int:
        """Characters at the end with which a stop string may begin."""
        longest = max(map(len, self.stops), default=1) - 1
        lengths = range(min(longest, len(self.held)), 0, -1)
        ends = (n for n in lengths if any(s.startswith(self.held[-n:]) for s in self.stops))
        return next(ends, 0)


def show(pieces: Iterable[tuple[int, str, bool]], titles: Sequence[str]) -> None:
    """Print texts one after the other; the first that is not finished yet, as it comes."""
    waiting, finished = list(titles), [False] * len(titles)
    first = 0
    print(waiting[first], end="", flush=True)
    waiting[first] = ""
    for row, piece, last in pieces:
        waiting[row] += piece
        finished[row] = last
        while first < len(titles):
            print(waiting[first], end="", flush=True)
            waiting[first] = ""
            if not finished[first]:
                break
            print()
            first += 1


class Pace:
    """Tokens per second of what was done, one thing after the other."""

    def __init__(self):
        self.start, self.laps = time.perf_counter(), []

    def lap(self, what: str, tokens: int) -> None:
        now = time.perf_counter()
        if tokens:
            rate = tokens / (now - self.start)
            self.laps.append(f"{what} {tokens:,} tokens, {rate:,.0f} tokens per second")
        self.start = now

    def __str__(self) -> str:
        return "; ".join(self.laps)
