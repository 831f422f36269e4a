"""Generation: what is known once, in chunks, then one token after the other.

B batch, T tokens, P tokens per frame, V vocabulary.
"""

import hashlib
import json
import math
import pickle
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from zipfile import is_zipfile

import torch
import torch.nn.functional as F
from torch import Tensor

from tttvideo.backbone import Backbone, BackboneState
from tttvideo.files import replacing
from tttvideo.states import from_plain, stack, structure, to_plain, tree_map


Heard = tuple[Tensor, BackboneState]  # logits (B, V) for the next token, and the state


class Choose(Protocol):
    """Tokens (B,) from logits (B, V); rows: which text each is, 0 to B - 1 if not said."""

    def __call__(self, logits: Tensor, rows: Sequence[int] | None = None) -> Tensor: ...


@torch.inference_mode()
def prefill(
    backbone: Backbone, tokens: Tensor, chunk: int = 1024, heard: Heard | None = None
) -> Heard:
    """Read tokens (B, T), after what was heard before, in constant memory."""
    state = heard[1] if heard else None
    for part in tokens.split(chunk, dim=1):
        hidden, state = backbone.features(part, state)
    return backbone.head(hidden[:, -1]), state


def foresee(backbone: Backbone, tokens: Tensor, heard: Heard | None) -> tuple[Tensor, Heard]:
    """Logits (B, T, V) for each of tokens (B, T) given all before it, and what was heard then."""
    before, state = heard or (tokens.new_zeros(len(tokens), backbone.config.vocab_size), None)
    logits, state = backbone(tokens, state)
    return torch.cat((before[:, None].to(logits), logits[:, :-1]), dim=1), (logits[:, -1], state)


@torch.inference_mode()
def score(backbone: Backbone, tokens: Tensor, heard: Heard | None = None) -> tuple[Tensor, Heard]:
    """Bits (B, T) that each token cost given all before it, and what was heard with them.

    `heard` is what came before; without it the first token costs log2 of the vocabulary.
    """
    guesses, heard = foresee(backbone, tokens, heard)
    return F.cross_entropy(guesses.mT, tokens, reduction="none") / math.log(2), heard


@torch.inference_mode()
def likelihood(
    backbone: Backbone, tokens: Tensor, heard: Heard, chunk: int = 1024
) -> tuple[float, bool]:
    """Log-likelihood, in nats, of tokens (1, T) after `heard`, and whether each is the likeliest.

    T may be 0. In constant memory.
    """
    nats, greedy = 0.0, True
    for part in tokens.split(chunk, dim=1) if tokens.numel() else ():
        guesses, heard = foresee(backbone, part, heard)
        nats -= F.cross_entropy(guesses.mT, part, reduction="none").double().sum().item()
        greedy = greedy and bool((guesses.argmax(-1) == part).all())
    return nats, greedy


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


@dataclass(frozen=True)
class Batch:
    """Texts that take their next token in one call, with logits (B, V).

    state: of all of them; or a list, one of batch 1 each, where they are not alike.
    """

    rows: list[int]
    logits: Tensor
    state: BackboneState | list[BackboneState]

    def only(self, places: list[int]) -> "Batch":
        """A copy of those at these places of `rows`."""
        rows, index = [self.rows[i] for i in places], torch.tensor(places)
        if isinstance(self.state, list):
            return Batch(rows, self.logits[index], [self.state[i] for i in places])
        return Batch(rows, *tree_map(lambda x: x[index], (self.logits, self.state)))

    def heard(self, place: int) -> Heard:
        """What the text at this place of `rows` heard."""
        one = self.only([place])
        return one.logits, one.state[0] if isinstance(one.state, list) else one.state

    def hear(self, backbone: Backbone, said: dict[int, int]) -> "Batch":
        """The same texts after the token that each said, by its row."""
        tokens = torch.tensor([said[row] for row in self.rows], device=self.logits.device)
        if isinstance(self.state, list):
            ends = torch.arange(len(tokens) + 1, dtype=torch.int32, device=tokens.device)
            logits, state = backbone(tokens[None], self.state, ends)
            return Batch(self.rows, logits[0], state)
        logits, state = backbone(tokens[:, None], self.state)
        return Batch(self.rows, logits[:, -1], state)


def batches(heard: dict[int, Heard]) -> list[Batch]:
    """Texts in batches of those alike if that makes few calls, else packed in one."""
    groups: dict[Any, list[int]] = {}
    for row, (_, state) in heard.items():
        groups.setdefault(structure(state), []).append(row)
    # a packed row takes a third of the time of a call of its own, measured on a CPU
    if 3 * len(groups) > len(heard) + 2:
        logits, states = zip(*heard.values(), strict=True)
        return [Batch(list(heard), torch.cat(logits), list(states))]
    return [Batch(rows, *stack([heard[row] for row in rows])) for rows in groups.values()]


class Texts:
    """Texts that go on together, after prompts of any lengths, each as it would alone.

    rows: those that have not ended.
    ended: what the others heard; that is all they said, but for the mark of the end, `eos`.
    """

    @torch.inference_mode()
    def __init__(
        self, backbone: Backbone, heard: Sequence[Heard], choose: Choose, eos: int | None = None
    ):
        self.backbone, self.choose, self.eos = backbone, choose, eos
        self.batches = batches(dict(enumerate(heard)))
        self.ended: dict[int, Heard] = {}

    @property
    def rows(self) -> list[int]:
        return sorted(row for batch in self.batches for row in batch.rows)

    @torch.inference_mode()
    def step(self) -> dict[int, int]:
        """The next token of each text, by its row; of those that end here, none."""
        chosen = {}
        for batch in self.batches:
            tokens = self.choose(batch.logits, batch.rows)
            chosen |= dict(zip(batch.rows, tokens.tolist(), strict=True))
        over = [row for row, token in chosen.items() if token == self.eos]
        self.end(over)
        said = {row: token for row, token in chosen.items() if row not in over}
        self.batches = [batch.hear(self.backbone, said) for batch in self.batches]
        return said

    @torch.inference_mode()
    def end(self, rows: Sequence[int]) -> None:
        """These texts are finished."""
        left = []
        for batch in self.batches:
            over = [place for place, row in enumerate(batch.rows) if row in rows]
            self.ended |= {batch.rows[place]: batch.heard(place) for place in over}
            rest = [place for place in range(len(batch.rows)) if place not in over]
            if rest:
                left.append(batch.only(rest) if over else batch)
        self.batches = left


class Chooser:
    """What `chooser` makes; each row has random numbers of its own, whatever the others do."""

    def __init__(self, temperature: float, top_k: int, top_p: float, seed: int | None):
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.seed = secrets.randbits(62) if seed is None else seed
        self.generators: dict[int, torch.Generator] = {}

    def generator(self, row: int) -> torch.Generator:
        """On the CPU, so that draws are the same on every device."""
        if row not in self.generators:
            self.generators[row] = torch.Generator().manual_seed(self.seed + row)
        return self.generators[row]

    def __call__(self, logits: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        if not logits.amax(-1).isfinite().all():
            raise ValueError("the model's logits are not finite: it diverged on what it read")
        if self.temperature == 0:
            return logits.argmax(-1)
        ranked, order = (logits / self.temperature).sort(descending=True)
        probabilities = ranked.double().softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # probability of all likelier tokens
        kept = before < self.top_p
        if self.top_k:
            kept[:, self.top_k :] = False
        upto = probabilities.where(kept, 0).cumsum(-1)
        rows = range(len(logits)) if rows is None else rows
        draws = [torch.rand(1, generator=self.generator(row), dtype=torch.float64) for row in rows]
        drawn = torch.stack(draws).to(logits.device) * upto[:, -1:]  # (B, 1)
        rank = (upto <= drawn).sum(-1, keepdim=True)
        rank = rank.minimum(kept.sum(-1, keepdim=True) - 1)  # where the product was rounded up
        return order.gather(-1, rank)[:, 0]


def chooser(
    temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int | None = None
) -> Chooser:
    """A function from logits (B, V) to tokens (B,).

    temperature 0 takes the likeliest; top_k keeps the k likeliest (0: all); top_p keeps the fewest
    tokens that hold that much probability. Row r draws what row 0 draws with the seed `seed + r`.
    Raises ValueError for values outside these meanings.
    """
    if not temperature >= 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature {temperature}, top-k {top_k}, top-p {top_p}: temperature and top-k must "
            "be 0 or more, top-p above 0 and at most 1"
        )
    if seed is not None and not 0 <= seed < 2**62:
        raise ValueError(f"seed {seed} must be 0 or more, and below 2^62")
    return Chooser(temperature, top_k, top_p, seed)


@dataclass(frozen=True)
class Memory:
    """What a text left behind, to go on from later.

    tokens: how many were read.
    draws: state of the generator of a run with a seed, so that it draws on; else None.
    """

    heard: Heard
    tokens: int
    draws: Tensor | None = None


def fingerprint(backbone: Backbone) -> str:
    """A hash of a model's config and weights."""
    found = hashlib.sha256(json.dumps(asdict(backbone.config)).encode())
    for name, weight in backbone.state_dict().items():
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        found.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def save_memory(memory: Memory, backbone: Backbone, path: str | Path) -> None:
    """Write what `load_memory` reads."""
    plain = {
        "model": fingerprint(backbone),
        "heard": to_plain(memory.heard),
        "tokens": memory.tokens,
        "draws": memory.draws,
    }
    with replacing(Path(path)) as partial:
        torch.save({"tttvideo_memory": plain}, partial)


def load_memory(path: str | Path, backbone: Backbone) -> Memory:
    """What was saved for this very model; weights only, no code is run.

    Raises ValueError, in one line, for anything else.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no saved state {path}")
    device = next(backbone.parameters()).device
    try:
        if not is_zipfile(path):
            raise KeyError("torch files are zip archives")
        plain = torch.load(path, map_location="cpu", weights_only=True)["tttvideo_memory"]
        heard = from_plain(plain["heard"], device)
        memory = Memory(heard, plain["tokens"], plain["draws"])
    except (RuntimeError, pickle.UnpicklingError, KeyError, TypeError, EOFError) as error:
        raise ValueError(
            f"{path} is not a whole state of `tttvideo generate --save-state`; save it again"
        ) from error
    if plain["model"] != fingerprint(backbone):
        raise ValueError(
            f"{path} is the state of another model; load it with the checkpoint that saved it"
        )
    return memory
