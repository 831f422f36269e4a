"""The tokens that are read to measure models, equal for all of them, and the rules as text."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tttvideo.data.eval_targets import can_shuffle, choose_documents, place_targets
from tttvideo.data.tokens import Tokens


RULES = 2  # raised when the content of a cache, or its meaning, changes: older ones are not read
ENOUGH = 8  # documents that must have the default length
SPAN = 1024
FIRST_CONTEXT = 256
INNER_DOCUMENTS, INNER_TOKENS = 4, 4096
UNKNOWN_WINDOW = 2048  # tokens, as in the paper, for a model that does not record its training
UNKNOWN_RESET = 1024


@dataclass(frozen=True)
class PlanSettings:
    """Settings of an evaluation of text, in tokens unless a comment names another unit."""

    length: int | None = None
    """Tokens read from each document; None: four training windows, or what 8 documents have."""
    reset: int | None = None
    """Tokens after which the control's state is reset; None: the shortest training window."""
    contexts: Sequence[int] | None = None
    """Tokens before the fixed targets; None: 0, powers of two from 256, and the longest."""
    targets: int = 4
    """Fixed targets in each document, at most."""
    documents: int = 32
    """Documents, at most."""
    batch: int = 16384
    """Tokens per call of the model."""
    join: bool = False
    """Read consecutive documents as one, where none is as long as `length`."""


@dataclass(frozen=True)
class Plan:
    """begins (D,): first tokens of documents; owners, places (N,): targets and their documents."""

    begins: np.ndarray
    length: int
    reset: int
    span: int
    contexts: tuple[int, ...]
    owners: np.ndarray
    places: np.ndarray
    shuffle: bool
    batch: int
    join: bool

    @property
    def inner_length(self) -> int:
        return min(self.length, INNER_TOKENS)

    @property
    def inner_documents(self) -> int:
        return min(len(self.begins), INNER_DOCUMENTS)

    @property
    def reset_pieces(self) -> int:
        """Pieces, from the last reset before a target on, that cover it wherever it lies."""
        return -(-(self.reset - 1 + self.span) // self.reset)

    def work(self, mini_batch: int | None) -> int:
        """Tokens read for one model; `mini_batch` of its inner loop, None without one."""
        D, N = len(self.begins), len(self.places)
        reset = min(self.reset, self.length)
        total = D * (self.length + -(-self.length // reset) * reset)
        for context in self.contexts:
            times = 2 if context and self.shuffle else 1
            total += times * N * (max(context, 1) + self.span - 1)
        total += N * self.reset_pieces * self.reset
        if mini_batch:
            total += self.inner_documents * (self.inner_length // mini_batch * mini_batch)
        return total

    def key(self, checkpoint: str, data: str) -> str:
        """Name of a cache: a hash of everything that the numbers depend on."""
        facts = {name: getattr(x, "tolist", lambda x=x: x)() for name, x in asdict(self).items()}
        text = json.dumps([RULES, checkpoint, data, facts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def make_plan(settings: PlanSettings, data: Tokens, windows: Sequence[int]) -> Plan:
    """The plan of these settings; `windows`: the training windows that the models record.

    Raises ValueError for settings that do not fit the data or one another.
    """
    total = len(data.tokens)
    length = settings.length or default_length(
        data, max(windows, default=UNKNOWN_WINDOW), settings.join
    )
    span = target_span(length)
    full = length - span
    reset = settings.reset or default_reset(windows, full)
    if reset > full:
        raise ValueError(
            f"--reset {reset} must be {full} or less, where --length is {length}; both are options"
        )
    contexts = sorted(set(settings.contexts or default_contexts(full)) | {0, reset})
    if contexts[0] < 0 or contexts[-1] > full:
        raise ValueError(
            f"--contexts must be from 0 to {full}: --length {length} minus targets of {span}"
        )
    begins, sizes = choose_documents(
        data.starts, total, length + 1, settings.documents, settings.join
    )
    owners, places = place_targets(sizes, contexts[-1], span, settings.targets)
    return Plan(
        begins=begins,
        length=length,
        reset=reset,
        span=span,
        contexts=tuple(contexts),
        owners=owners,
        places=places,
        shuffle=can_shuffle(owners),
        batch=settings.batch,
        join=settings.join,
    )


def target_span(length: int) -> int:
    """Tokens of a target, where so many are read of each document."""
    return max(1, min(SPAN, length // 8))


def default_length(data: Tokens, window: int, join: bool) -> int:
    """Four training windows, or the longest length that enough documents have."""
    total = len(data.tokens)
    if join:
        return max(1, min(4 * window, total - int(data.starts[0]) - 1))
    sizes = np.sort(np.diff([*data.starts, total]))
    return max(1, min(4 * window, int(sizes[-min(ENOUGH, len(sizes))]) - 1))


def default_reset(windows: Sequence[int], full: int) -> int:
    """The shortest training window, where a context of at most `full` tokens has room for it."""
    window = min(windows, default=UNKNOWN_RESET)
    return window if window <= full else UNKNOWN_RESET


def default_contexts(full: int) -> list[int]:
    doublings = (FIRST_CONTEXT << n for n in range(full.bit_length()))
    return [full, *(context for context in doublings if context < full)]


def rules(plan: Plan, data: Tokens, windows: Sequence[int]) -> list[str]:
    """The rules of the numbers, for their readers; `windows`: of training, which models record."""
    texts = "stretches of consecutive documents" if plan.join else "documents"
    R, S, D, N = plan.reset, plan.span, len(plan.begins), len(plan.places)
    trained = "the shortest training window of the models"
    every = f"{R:,} tokens" + (f", {trained}" if min(windows, default=None) == R else "")
    shuffled = (
        f"Shuffled context: the same targets, every context cut into pieces of {R:,} tokens, and "
        "each piece exchanged for one of another document."
        if plan.shuffle
        else "No shuffled context: one document has more than half of the targets."
    )
    return [
        f"Truncation: the first {plan.length + 1:,} tokens of {D} {texts} of {data.path}, all with "
        f"at least so many, out of {data.header.documents:,} documents and "
        f"{data.header.tokens:,} tokens; the first token is read but not scored.",
        "Counting: BOS is never scored. Nats per token and perplexity count every other token. "
        "Bits per byte count tokens that stand for text, over the bytes they stand for, so EOS is "
        "in neither.",
        f"Token index: tokens of the document before the one that is scored. State is carried "
        f"from the document's first token on; in the reset control it is fresh every {every}.",
        f"Fixed targets: {N} spans of {S:,} tokens in these documents, each after "
        f"{plan.contexts[-1]:,} tokens. Context c: a fresh state reads the c tokens "
        "before the span, then the span; for c = 0 it reads one token before.",
        shuffled,
        f"Reset control of the targets: the state is fresh every {R:,} tokens of the document.",
        "Intervals: 95 %, with Student's t over documents, which count as independent, as tokens "
        "do not; differences are of the same tokens. Of several checkpoints of one name the "
        "mean is shown, and their range as a band.",
    ]
