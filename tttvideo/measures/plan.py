"""What is read of the data to measure models, the same for all of them; and the rules in words."""

import hashlib
import json
from argparse import Namespace
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tttvideo.data.eval_targets import can_shuffle, choose_documents, place_targets


if TYPE_CHECKING:
    import numpy as np

    from tttvideo.data.tokens import Tokens


RULES = 2  # changes with what a cache says, or means by it, so that no older one is read
ENOUGH = 8  # documents, to choose a length by where none was said
SPAN = 1024
FIRST_CONTEXT = 256
INNER_DOCUMENTS, INNER_TOKENS = 4, 4096
UNKNOWN_WINDOW = 2048  # tokens, the paper's, for a model that does not say what it was trained on


@dataclass(frozen=True)
class Plan:
    """begins (D,): first tokens of documents; owners, places (N,): targets and their documents."""

    begins: "np.ndarray"
    length: int
    reset: int
    span: int
    contexts: tuple[int, ...]
    owners: "np.ndarray"
    places: "np.ndarray"
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
        """Pieces, from the last reset before a target on, that reach over it wherever it is."""
        return -(-(self.reset - 1 + self.span) // self.reset)

    def work(self, mini_batch: int | None) -> int:
        """Tokens that are read for one model, whose inner loop has such mini-batches, or none."""
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
        """Name of a cache: a hash over all that the numbers depend on."""
        facts = {name: getattr(x, "tolist", lambda x=x: x)() for name, x in asdict(self).items()}
        text = json.dumps([RULES, checkpoint, data, facts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def make_plan(options: Namespace, data: "Tokens", window: int | None) -> Plan:
    """The plan that the options ask for; `window`: the longest that a model was trained on.

    Raises ValueError for what does not fit the data or itself.
    """
    total = len(data.tokens)
    length = options.length or default_length(data, window or UNKNOWN_WINDOW, options.join)
    span = max(1, min(SPAN, length // 8))
    full = length - span
    if options.reset > full:
        raise ValueError(
            f"--reset {options.reset} must be {full} or less, where --length is {length}; both can "
            "be chosen"
        )
    contexts = sorted(set(options.contexts or default_contexts(full)) | {0, options.reset})
    if contexts[0] < 0 or contexts[-1] > full:
        raise ValueError(
            f"--contexts must be from 0 to {full}: --length {length} less targets of {span}"
        )
    found = choose_documents(data.starts, total, length + 1, options.documents, options.join)
    begins, sizes = found
    owners, places = place_targets(sizes, contexts[-1], span, options.targets)
    return Plan(
        begins=begins,
        length=length,
        reset=options.reset,
        span=span,
        contexts=tuple(contexts),
        owners=owners,
        places=places,
        shuffle=can_shuffle(owners),
        batch=options.batch,
        join=options.join,
    )


def default_length(data: "Tokens", window: int, join: bool) -> int:
    """Four training windows, or less: what enough documents have, or any."""
    total = len(data.tokens)
    if join:
        return max(1, min(4 * window, total - int(data.starts[0]) - 1))
    sizes = sorted((b - a for a, b in zip(data.starts, [*data.starts[1:], total], strict=True)))
    return max(1, min(4 * window, int(sizes[-min(ENOUGH, len(sizes))]) - 1))


def default_contexts(full: int) -> list[int]:
    contexts = [full]
    context = FIRST_CONTEXT
    while context < full:
        contexts.append(context)
        context *= 2
    return contexts


def rules(plan: Plan, data: "Tokens") -> list[str]:
    """How numbers came about, for whoever reads them."""
    what = "stretches of documents laid end to end" if plan.join else "documents"
    R, S, D, N = plan.reset, plan.span, len(plan.begins), len(plan.places)
    shuffled = (
        f"Shuffled context: the same targets, every context cut into pieces of {R:,} tokens, and "
        "each piece changed for one of another document."
        if plan.shuffle
        else "No shuffled context: one document has more than half of the targets."
    )
    return [
        f"Truncation: the first {plan.length + 1:,} tokens of {D} {what} of {data.path} that have "
        f"so many, of {data.header.documents:,} documents and {data.header.tokens:,} tokens in "
        "all; the first token is read and not scored.",
        "Counting: BOS is never scored. Nats per token and perplexity count every other token. "
        "Bits per byte count tokens that stand for text, over the bytes they stand for, so EOS is "
        "in neither.",
        f"Token index: tokens of the document before the one that is scored. State is carried "
        f"from the document's first token on; in the reset control it is fresh every {R:,} tokens.",
        f"Fixed targets: {N} spans of {S:,} tokens in these documents, each with "
        f"{plan.contexts[-1]:,} tokens before it. Context c: a fresh state reads the c tokens "
        "before the span, then the span; for c = 0 it reads the one token before.",
        shuffled,
        f"Reset control of the targets: the state is fresh every {R:,} tokens of the document.",
        "Intervals: 95 %, by Student's t, documents counting as independent and tokens of one "
        "document not; differences are of the same tokens. Of several checkpoints of one name the "
        "mean is shown, and their range as a band.",
    ]
