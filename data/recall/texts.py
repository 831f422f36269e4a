"""Recall text: facts, then much else, then questions that only the facts answer.

Three tasks, in words of our own: needles in a haystack and chains of variables, after RULER (arXiv
2404.06654), and multi-query associative recall (arXiv 2312.04927). The same arguments draw the same
text. Positions are bytes of the text in UTF-8; what is drawn here is ASCII.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np


LETTERS = "abcdefgh"  # few, or a small model takes long to tell them apart
NOUNS = ("fox", "lamp", "boat", "door", "tree", "bell", "ring", "wolf")
WHO = ("The man", "A girl", "The cook", "A boy", "The cat", "My aunt")
DOES = ("sat", "ran", "sang", "slept", "waited", "read")
WHERE = ("here", "at home", "in the sun", "by the sea", "all day", "for long")
SHORT = ("It was late. ", "So it was. ", "Yes. ")  # longest first
DIGITS = {"needle": 3, "mqar": 1, "variables": 2}
SHARES = {"needle": 1, "mqar": 8, "variables": 1}  # of the samples to train on
SHORTEST, LEAST = 256, 48  # bytes of a document to train on, and of a sample in it

Measure = Callable[[str], int]
Haystack = Callable[[np.random.Generator, int, Measure], list[str]]


@dataclass(frozen=True)
class Answer:
    """Bytes `start` to `end` of a text are the answer; it was told at byte `source`."""

    start: int
    end: int
    source: int


@dataclass(frozen=True)
class Sample:
    text: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Piece:
    """A stretch of text; with a key, one that tells the key's value or, if it `asks`, repeats it.

    Both end on the value after much the same words, so that a small model can find it by them.
    """

    before: str
    value: str = ""
    after: str = ""
    key: str = ""
    asks: bool = False

    @property
    def text(self) -> str:
        return self.before + self.value + self.after


class NoRoom(ValueError):
    """A text of this length cannot hold its facts and questions."""


def byte_length(text: str) -> int:
    return len(text.encode())


def join(pieces: Sequence[Piece]) -> Sample:
    """The text of the pieces, and where its answers are."""
    place, sources, answers = 0, {}, []
    for piece in pieces:
        start = place + byte_length(piece.before)
        if piece.asks:
            answers.append(Answer(start, start + byte_length(piece.value), sources[piece.key]))
        elif piece.key:
            sources[piece.key] = start
        place += byte_length(piece.text)
    return Sample("".join(piece.text for piece in pieces), tuple(answers))


def drawn(rng: np.random.Generator, room: int, measure: Measure = byte_length) -> list[str]:
    """Short sentences that fill `room` to within a few bytes."""
    said = []
    while True:
        text = f"{' '.join(pick(rng, words) for words in (WHO, DOES, WHERE))}. "
        if rng.random() < 0.1:
            text = pick(rng, SHORT)
        if measure(text) > room:
            break
        said.append(text)
        room -= measure(text)
    for text in SHORT:
        count = room // measure(text)
        said += [text] * count
        room -= count * measure(text)
    return said


def taken(text: str) -> Haystack:
    """A haystack of a given text's sentences, from any of them on, around and around."""
    sentences = [" ".join(s.split()) + " " for s in re.findall(r"[^.!?]+[.!?]+", text)]
    if not sentences:
        raise ValueError("the haystack has no sentence; give a text with full stops")

    def fill(rng: np.random.Generator, room: int, measure: Measure = byte_length) -> list[str]:
        said, n = [], int(rng.integers(len(sentences)))
        while measure(sentences[n % len(sentences)]) <= room:
            said.append(sentences[n % len(sentences)])
            room -= measure(said[-1])
            n += 1
        return said + drawn(rng, room, measure)

    return fill


def needle(
    rng: np.random.Generator,
    length: int,
    depths: Sequence[float],
    asks: int = 1,
    measure: Measure = byte_length,
    haystack: Haystack = drawn,
) -> Sample:
    """Codes told at `depths` of a haystack (0 its start, 1 its end); the first `asks` are asked.

    Arguments:
        length: of the whole text, as `measure` counts; met to within a few.
        measure: the size of a text; with a tokenizer, the number of its tokens.
    Raises: NoRoom, a ValueError; ValueError for more needles than there are names.
    """
    if len(depths) > len(NOUNS):
        raise ValueError(f"{len(depths)} needles; there are names for {len(NOUNS)}")
    names = [NOUNS[n] for n in rng.permutation(len(NOUNS))[: len(depths)]]
    codes = {name: digits(rng, "needle") for name in names}
    told = [Piece(f"Code {name}=", code, ". ", name) for name, code in codes.items()]
    asked = [Piece(f"Ask {name}=", code, ". ", name, asks=True) for name, code in codes.items()]
    asked = [asked[n] for n in rng.permutation(min(asks, len(asked)))]
    return join(scatter(rng, length, told, depths, asked, measure, haystack))


def mqar(
    rng: np.random.Generator,
    length: int,
    pairs: int,
    asks: int = 16,
    measure: Measure = byte_length,
    haystack: Haystack = drawn,
) -> Sample:
    """Pairs of a letter and a digit, then filler, then `asks` of them in another order.

    Arguments as in `needle`. Raises NoRoom, and ValueError for more pairs than there are keys.
    """
    values = {name: digits(rng, "mqar") for name in letters(rng, pairs)}
    told = [Piece("Pairs:"), *(Piece(f" {k}=", v, "", k) for k, v in values.items()), Piece(". ")]
    order = [list(values)[n] for n in rng.permutation(pairs)[:asks]]
    asked = [Piece("Recall:"), *(Piece(f" {k}=", values[k], "", k, True) for k in order)]
    asked.append(Piece(". "))
    return join(scatter(rng, length, told, [0.0] * len(told), asked, measure, haystack))


def variables(
    rng: np.random.Generator,
    length: int,
    hops: int,
    chains: int = 2,
    asks: int = 1,
    measure: Measure = byte_length,
    haystack: Haystack = drawn,
) -> Sample:
    """Chains a=12. b=a. ... all over a haystack; what is the value at the first one's end?

    Arguments as in `needle`; `hops` links follow each chain's first variable; with more `asks`
    than one, other variables are asked of as well. Raises as `mqar` does.
    """
    names = letters(rng, chains * (hops + 1))
    told, asked = [], []
    for link, name in enumerate(names):  # link by link, chain by chain
        chain, before = str(link % chains), names[link - chains]
        if link < chains:
            told.append(Piece(f"Let {name}=", digits(rng, "variables"), ". ", chain))
        else:
            told.append(Piece(f"Let {name}={before}. "))
        value = told[link % chains].value
        asked.append(Piece(f"Ask {name}=", value, ". ", chain, True))
    last = hops * chains
    others = [asked[n] for n in rng.permutation(len(asked)) if n != last]
    depths = np.sort(rng.random(len(told)))
    asked = [asked[last], *others][:asks]
    return join(scatter(rng, length, told, depths, asked, measure, haystack))


def scatter(
    rng: np.random.Generator,
    length: int,
    told: list[Piece],
    depths: Sequence[float],
    asked: list[Piece],
    measure: Measure,
    haystack: Haystack,
) -> list[Piece]:
    """`told` at their depths of a haystack that leaves room for them, then `asked`."""
    room = length - measure("".join(piece.text for piece in [*told, *asked]))
    if room < 0:
        raise NoRoom(
            f"a length of {length} has no room for {len(told)} facts and {len(asked)} questions; "
            f"{length - room} or more has"
        )
    hay = [Piece(text) for text in haystack(rng, room, measure)]
    ends = np.cumsum([0, *(measure(piece.text) for piece in hay)])
    places = np.abs(ends[:, None] - np.asarray(depths) * ends[-1]).argmin(axis=0)
    pieces = []
    for place in range(len(hay) + 1):
        pieces += [told[n] for n in np.flatnonzero(places == place)]
        pieces += hay[place : place + 1]
    return pieces + asked


def recall_documents(
    length: int, seed: int = 0, tasks: Sequence[str] = tuple(SHARES)
) -> Iterator[str]:
    """Texts to train on without an end, of 256 to `length` bytes, with many questions in each.

    A document is a row of samples of the three tasks, most of them with few facts and little else,
    and a question for every fact. Raises ValueError for a length below 256.
    """
    if length < SHORTEST:
        raise ValueError(f"length is {length}; recall documents have {SHORTEST} bytes or more")
    for n in count():
        rng = np.random.default_rng((seed, n))
        room, parts = between(rng, SHORTEST, length), []
        while room >= LEAST:
            parts.append(practice(rng, room, tasks))
            room -= byte_length(parts[-1])
        yield "".join([*parts, *drawn(rng, room)])


def practice(rng: np.random.Generator, room: int, tasks: Sequence[str]) -> str:
    """One sample to train on: of any of the tasks, and every fact that is told is asked for.

    Most are dense, or a small model would long see nothing worth recalling; some are as long as
    there is room.
    """
    shares = np.array([SHARES[task] for task in tasks])
    kind = rng.choice(tasks, p=shares / shares.sum())
    if kind == "mqar":
        pairs = between(rng, 1, min((room - 17) // 8, len(LETTERS)))
        length = stretched(rng, 17 + 8 * pairs, room)
        return mqar(rng, length, pairs, asks=pairs).text
    if kind == "needle":
        asks = between(rng, 1, min(room // LEAST, len(NOUNS)))
        return needle(rng, stretched(rng, LEAST * asks, room), rng.random(asks), asks).text
    chains = between(rng, 1, min(room // LEAST, len(LETTERS)))
    hops = between(rng, 1, min(room // (chains * LEAST), len(LETTERS) // chains, 5)) - 1
    names = chains * (hops + 1)
    return variables(rng, stretched(rng, LEAST * names, room), hops, chains, asks=names).text


def stretched(rng: np.random.Generator, least: int, room: int) -> int:
    """A length for a sample that takes `least`: mostly that, or more, and rarely up to `room`."""
    most = rng.choice([least, min(room, least + 32), room], p=[0.7, 0.2, 0.1])
    return between(rng, least, most)


def between(rng: np.random.Generator, low: int, high: int) -> int:
    """From low to high, every doubling as often as another."""
    return min(high, int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))


def pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[rng.integers(len(words))]


def digits(rng: np.random.Generator, task: str) -> str:
    return "".join(map(str, rng.integers(10, size=DIGITS[task])))


def letters(rng: np.random.Generator, count: int) -> list[str]:
    """Different letters."""
    if count > len(LETTERS):
        raise ValueError(f"{count} names of a letter; there are {len(LETTERS)}")
    return [LETTERS[n] for n in rng.permutation(len(LETTERS))[:count]]
