"""Texts on the terminal while they are decoded: up to their stop strings, one after the other."""

import time
from collections.abc import Iterable, Iterator, Sequence

from tttvideo.data.text.tokenizer import ByteDecoder
from tttvideo.sampling.texts import Texts


class StreamedText:
    """The text that its tokens decode to, excluding the first stop string and all after it.

    Characters that may begin a stop string are held back. `tokens` counts the tokens, `ended` is
    True after a stop string.
    """

    def __init__(self, decoder: ByteDecoder, stops: Sequence[str]):
        self.decoder, self.stops = decoder, stops
        self.held, self.tokens, self.ended = "", 0, False

    def __call__(self, tokens: Sequence[int], final: bool = False) -> str:
        """The characters that these tokens add; with `final`, also those held back."""
        self.tokens += len(tokens)
        if self.ended:
            return ""
        self.held += self.decoder(tokens, final)
        found = [(i + len(stop), i) for stop in self.stops if (i := self.held.find(stop)) >= 0]
        if found:
            self.ended = True
            return self.held[: min(found)[1]]  # the first to be complete, in any cut of the text
        keep = 0 if final else self.possible_stop()
        free, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return free

    def possible_stop(self) -> int:
        """The number of characters at the end that may begin a stop string."""
        longest = max(map(len, self.stops), default=1) - 1
        lengths = range(min(longest, len(self.held)), 0, -1)
        ends = (n for n in lengths if any(s.startswith(self.held[-n:]) for s in self.stops))
        return next(ends, 0)


def decode_pieces(
    texts: Texts, streams: Sequence[StreamedText], count: int
) -> Iterator[tuple[int, str, bool]]:
    """Decode up to `count` tokens of each text; yields what `print_texts` prints."""
    for _ in range(count):
        rows, tokens = texts.rows, texts.step()
        for row in rows:
            over = row not in tokens
            piece = streams[row]([] if over else [tokens[row]], final=over)
            if streams[row].ended and not over:
                texts.end([row])
            yield row, piece, streams[row].ended or over
        if not texts.rows:
            return
    rows = texts.rows
    texts.end(rows)
    for row in rows:
        yield row, streams[row]([], final=True), True


def print_texts(pieces: Iterable[tuple[int, str, bool]], titles: Sequence[str]) -> None:
    """Print texts one after the other; the first unfinished one while it is decoded.

    pieces: the number of a text, characters that follow, and whether they are its last.
    """
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
    """Tokens per second of steps that follow one another."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.laps: list[str] = []

    def lap(self, verb: str, tokens: int) -> None:
        """End a step, such as "read", in which this many tokens were processed."""
        now = time.perf_counter()
        if tokens:
            rate = tokens / (now - self.start)
            self.laps.append(f"{verb} {tokens:,} tokens, {rate:,.0f} tokens per second")
        self.start = now

    def __str__(self) -> str:
        return "; ".join(self.laps)
