"""Recall texts: facts, then other text, then questions that only the facts answer.

Three tasks: needles in a haystack and chains of variables, after RULER (arXiv 2404.06654), and
multi-query associative recall (arXiv 2312.04927); the wording is new. The same arguments draw the
same text. Positions are bytes of the text in UTF-8; drawn text is ASCII.
"""

import math
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np


LETTERS = "abcdefgh"  # few: a small model learns slowly to distinguish many
KEYS = string.ascii_letters + "!#$%&*+-/<>?"  # 64, where there are many pairs
NOUNS = ("fox", "lamp", "boat", "door", "tree", "bell", "ring", "wolf")
WHO = ("The man", "A girl", "The cook", "A boy", "The cat", "My aunt")
DOES = ("sat", "ran", "sang", "slept", "waited", "read")
WHERE = ("here", "at home", "in the sun", "by the sea", "all day", "for long")
SHORT = ("It was late. ", "So it was. ", "Yes. ")  # longest first
DIGITS = {"needle": 3, "mqar": 1, "variables": 2}
ASKS = 16
"""Most questions about pairs in a text."""
SHARES = {"needle": 1, "mqar": 8, "variables": 1}  # of training samples
SHORTEST, LEAST = 256, 48  # bytes of a training document, and of a sample in it

Measure = Callable[[str], int]
Haystack = Callable[[np.random.Generator, int, Measure], list[str]]


@dataclass(frozen=True)
class Answer:
    """An answer at bytes `start` to `end` of a text; the fact has the same value at `source`."""

    start: int
    end: int
    source: int


@dataclass(frozen=True)
class Sample:
    text: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Piece:
    """A part of a text. With a key it is a fact with the key's value or, if it `asks`, a question.

    A question repeats the words of the fact and its value, so that a small model can find it.
    """

    before: str
    value: str = ""
    after: str = ""
    key: str = ""
    asks: bool = False

    @property
    def text(self) -> str:
        return self.before + self.value + self.after


@dataclass(frozen=True)
class Plan:
    """Facts, their depths in a haystack (0 its start, 1 its end), and the questions after it."""

    facts: list[Piece]
    depths: Sequence[float] | np.ndarray
    questions: list[Piece]


class NoRoom(ValueError):
    """A text of this length cannot hold its facts and questions."""


def byte_length(text: str) -> int:
    return len(text.encode())


def join_pieces(pieces: Sequence[Piece]) -> Sample:
    """The text of the pieces, with the places of its answers."""
    sources: dict[str, int] = {}
    place, answers = 0, []
    for piece in pieces:
        start = place + byte_length(piece.before)
        if piece.asks:
            answers.append(Answer(start, start + byte_length(piece.value), sources[piece.key]))
        elif piece.key:
            sources[piece.key] = start
        place += byte_length(piece.text)
    return Sample("".join(piece.text for piece in pieces), tuple(answers))


def drawn_haystack(
    rng: np.random.Generator, room: int, measure: Measure = byte_length
) -> list[str]:
    """Short random sentences that fill `room` to within a few bytes."""
    found = []
    while True:
        text = f"{' '.join(choose(rng, words) for words in (WHO, DOES, WHERE))}. "
        if rng.random() < 0.1:
            text = choose(rng, SHORT)
        if measure(text) > room:
            break
        found.append(text)
        room -= measure(text)
    for text in SHORT:
        count = room // measure(text)
        found += [text] * count
        room -= count * measure(text)
    return found


def text_haystack(text: str) -> Haystack:
    """A haystack of a text's sentences, from a random one on, repeated as often as needed."""
    sentences = [" ".join(s.split()) + " " for s in re.findall(r"[^.!?]+[.!?]+", text)]
    if not sentences:
        raise ValueError("the haystack has no sentence; give a text with full stops")

    def haystack(rng: np.random.Generator, room: int, measure: Measure = byte_length) -> list[str]:
        found, n = [], int(rng.integers(len(sentences)))
        while measure(sentences[n % len(sentences)]) <= room:
            found.append(sentences[n % len(sentences)])
            room -= measure(found[-1])
            n += 1
        return found + drawn_haystack(rng, room, measure)

    return haystack


def needle(rng: np.random.Generator, depths: Sequence[float] | np.ndarray, asks: int = 1) -> Plan:
    """Codes at `depths` of a haystack, and questions for the first `asks`.

    Raises: ValueError for more needles than there are names.
    """
    if len(depths) > len(NOUNS):
        raise ValueError(f"{len(depths)} needles; there are names for {len(NOUNS)}")
    names = [NOUNS[n] for n in rng.permutation(len(NOUNS))[: len(depths)]]
    codes = {name: random_digits(rng, "needle") for name in names}
    facts = [Piece(f"Code {name}=", code, ". ", name) for name, code in codes.items()]
    questions = [Piece(f"Ask {name}=", code, ". ", name, asks=True) for name, code in codes.items()]
    questions = [questions[n] for n in rng.permutation(min(asks, len(questions)))]
    return Plan(facts, depths, questions)


def mqar(rng: np.random.Generator, pairs: int, asks: int = ASKS, keys: str = LETTERS) -> Plan:
    """Pairs of a key, one of `keys`, and a digit, then filler, then `asks` of the pairs in another
    order.

    Raises: ValueError for more pairs than there are keys.
    """
    values = {name: random_digits(rng, "mqar") for name in distinct_letters(rng, pairs, keys)}
    facts = [Piece("Pairs:"), *(Piece(f" {k}=", v, "", k) for k, v in values.items()), Piece(". ")]
    order = [list(values)[n] for n in rng.permutation(pairs)[:asks]]
    questions = [Piece("Recall:"), *(Piece(f" {k}=", values[k], "", k, True) for k in order)]
    return Plan(facts, [0.0] * len(facts), [*questions, Piece(". ")])


def variables(rng: np.random.Generator, hops: int, chains: int = 2, asks: int = 1) -> Plan:
    """Chains a=12. b=a. ... spread over a haystack; the question is the end of the first chain.

    `hops` links follow the first variable of a chain. With `asks` above 1, questions about other
    variables follow.
    Raises: ValueError for more variables than there are names.
    """
    names = distinct_letters(rng, chains * (hops + 1))
    facts, questions = [], []
    for link, name in enumerate(names):  # link by link, chain by chain
        chain, before = str(link % chains), names[link - chains]
        if link < chains:
            facts.append(Piece(f"Let {name}=", random_digits(rng, "variables"), ". ", chain))
        else:
            facts.append(Piece(f"Let {name}={before}. "))
        value = facts[link % chains].value
        questions.append(Piece(f"Ask {name}=", value, ". ", chain, True))
    last = hops * chains
    others = [questions[n] for n in rng.permutation(len(questions)) if n != last]
    depths = np.sort(rng.random(len(facts)))
    return Plan(facts, depths, [questions[last], *others][:asks])


def hide_facts(
    rng: np.random.Generator,
    length: int,
    plan: Plan,
    measure: Measure = byte_length,
    haystack: Haystack = drawn_haystack,
) -> Sample:
    """The facts at their depths of a haystack, then the questions: `length` in all, or a few less.

    measure: counts `length`; with a tokenizer, in tokens.
    Raises: NoRoom, a ValueError.
    """
    facts, questions = plan.facts, plan.questions
    room = length - measure("".join(piece.text for piece in [*facts, *questions]))
    if room < 0:
        raise NoRoom(
            f"a length of {length} has no room for {len(facts)} facts and "
            f"{len(questions)} questions; {length - room} or more has"
        )
    hay = [Piece(text) for text in haystack(rng, room, measure)]
    ends = np.cumsum([0, *(measure(piece.text) for piece in hay)])
    places = np.abs(ends[:, None] - np.asarray(plan.depths) * ends[-1]).argmin(axis=0)
    pieces = []
    for place in range(len(hay) + 1):
        pieces += [facts[n] for n in np.flatnonzero(places == place)]
        pieces += hay[place : place + 1]
    return join_pieces([*pieces, *questions])


def recall_documents(
    length: int, seed: int = 0, tasks: Sequence[str] = tuple(SHARES)
) -> Iterator[str]:
    """An endless series of training texts, of 256 to `length` bytes, each with many questions.

    A document is a row of samples of the tasks. Most samples have few facts and little other text;
    every fact has a question.
    Raises: ValueError for a length below 256.
    """
    if length < SHORTEST:
        raise ValueError(f"length is {length}; recall documents have {SHORTEST} bytes or more")
    for n in count():
        rng = np.random.default_rng((seed, n))
        room, parts = log_uniform(rng, SHORTEST, length), []
        while room >= LEAST:
            parts.append(training_sample(rng, room, tasks))
            room -= byte_length(parts[-1])
        yield "".join([*parts, *drawn_haystack(rng, room)])


def training_sample(rng: np.random.Generator, room: int, tasks: Sequence[str]) -> str:
    """A sample of a random task, with a question for every fact.

    Most samples are dense, because a small model learns recall slowly from sparse ones; some fill
    the whole room.
    """
    plan, least = training_plan(rng, room, draw_task(rng, {task: SHARES[task] for task in tasks}))
    return hide_facts(rng, sample_length(rng, least, room), plan).text


def draw_task(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    odds = np.array(list(shares.values()))
    return str(rng.choice(list(shares), p=odds / odds.sum()))


def training_plan(rng: np.random.Generator, room: int, task: str) -> tuple[Plan, int]:
    """Few or many facts of a task, with a question for each, and bytes that have room for them."""
    if task == "mqar":
        pairs = log_uniform(rng, 1, min((room - 17) // 8, len(LETTERS)))
        return mqar(rng, pairs, pairs), pairs_length(pairs, pairs)
    if task == "needle":
        asks = log_uniform(rng, 1, min(room // LEAST, len(NOUNS)))
        return needle(rng, rng.random(asks), asks), LEAST * asks
    chains = log_uniform(rng, 1, min(room // LEAST, len(LETTERS)))
    hops = log_uniform(rng, 1, min(room // (chains * LEAST), len(LETTERS) // chains, 5)) - 1
    names = chains * (hops + 1)
    return variables(rng, hops, chains, names), LEAST * names


def pairs_length(pairs: int, asks: int = ASKS) -> int:
    """Bytes of the shortest text of `mqar`."""
    return 17 + 4 * (pairs + min(pairs, asks))


def sample_length(rng: np.random.Generator, least: int, room: int) -> int:
    """A random length for a sample: mostly `least`, sometimes a little more, rarely to `room`."""
    most = rng.choice([least, min(room, least + 32), room], p=[0.7, 0.2, 0.1])
    return log_uniform(rng, least, most)


def log_uniform(rng: np.random.Generator, low: int, high: int) -> int:
    """A random number from low to high; its logarithm is uniformly distributed."""
    return min(high, int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))


def choose(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def random_digits(rng: np.random.Generator, task: str) -> str:
    return "".join(map(str, rng.integers(10, size=DIGITS[task])))


def distinct_letters(rng: np.random.Generator, count: int, letters: str = LETTERS) -> list[str]:
    """`count` distinct letters in random order."""
    if count > len(letters):
        raise ValueError(f"{count} names of a letter; there are {len(letters)}")
    return [letters[n] for n in rng.permutation(len(letters))[:count]]
