"""Generation after ever longer contexts: is a token as fast, and the memory as small, as before?

One text is read; the prefix at each context is kept, and decoding continues from each in turn, so
that any other load of the machine falls on all contexts equally.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.progress import progress
from tttvideo.reading import CHUNK
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.decode import Decoding, Prefix, decode, prefill
from tttvideo.states import tree_map
from tttvideo.weights.checkpoints import load_tokens_model

from .cases import Case, load_config
from .measure import Clock, interleave
from .report import Report, Row


MIB = 1 << 20
LIMIT = 1e-3  # of the error; these are float32 models, and what they read is drawn


@dataclass
class Point:
    """Decoding after so many tokens of context.

    seconds: of each run, of `tokens` tokens.
    state: bytes that the text carries.
    error: of the logits in the end, relative RMS, against reading the same tokens at once.
    """

    context: int
    state: int
    error: float
    tokens: int
    seconds: list[float]

    @property
    def per_token(self) -> float:
        return float(np.median(self.seconds)) / self.tokens


def flatness(
    backbone: Backbone,
    contexts: Iterable[int],
    tokens: int,
    rounds: int,
    seconds: float = math.inf,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Point]:
    """Decode `tokens` tokens after each context, in turn, `rounds` times, or fewer in `seconds`.

    `tokens` should be a multiple of the mini-batch, for its tokens do not all cost the same.
    advance: called with the tokens of context as they are read, and with those of the runs.
    """
    device = next(backbone.parameters()).device.type
    greedy, points, runs = Chooser(temperature=0), [], {}
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

        def run(prefix: Prefix = prefix) -> None:
            for _ in decode(backbone, prefix, tokens, greedy):
                pass

        error = decoding_error(backbone, prefix, tokens)
        points.append(Point(context, state_bytes(prefix), error, tokens, []))
        runs[str(context)] = run
    times = interleave(Clock(device), runs, rounds, seconds, lambda n: advance(n * tokens))
    for point in points:
        point.seconds = times[str(point.context)]
    return points


def decoding_error(backbone: Backbone, prefix: Prefix, tokens: int) -> float:
    """Relative RMS error of the logits after greedy tokens, decoded and read at once."""
    decoding, greedy, chosen = Decoding.start(backbone, [prefix]), Chooser(temperature=0), []
    for _ in range(tokens):
        chosen.append(greedy(decoding.logits))
        decoding.read(chosen[-1])
    one_by_one = decoding.logits
    at_once = prefill(backbone, torch.stack(chosen, dim=1), prefix=prefix).logits
    error = (one_by_one - at_once).norm() / at_once.norm()
    return error.nan_to_num(torch.inf).item()


def slope(points: Sequence[Point]) -> float:
    """How much longer a token takes at the last context than at the first, relative to that.

    By a line through the medians over the logarithm of the context.
    """
    logs = np.log([point.context for point in points])
    rise, start = np.polyfit(logs - logs[0], [point.per_token for point in points], 1)
    return float(rise * (logs[-1] - logs[0]) / start)


def state_bytes(prefix: Prefix) -> int:
    """Bytes of all tensors in a prefix."""
    sizes: list[int] = []

    def count(x: Tensor) -> Tensor:
        sizes.append(x.nbytes)
        return x

    tree_map(count, prefix)
    return sum(sizes)


def peak_memory(device: str) -> int:
    """The most bytes that the process had so far, or on a GPU its tensors; it never falls."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def generation(report: Report, options: argparse.Namespace, contexts: Sequence[int]) -> None:
    """Measure the checkpoint, or models of `size` with random weights, into the report."""
    for backbone in models(options):
        M = backbone.config.ttt.resolved(None).mini_batch_size
        tokens = M * math.ceil(32 / M)
        repeats = options.repeats or 15
        total = max(contexts) + repeats * tokens * len(contexts)
        with progress("reading and decoding", total, "tokens") as advance:
            points = flatness(backbone, contexts, tokens, repeats, options.seconds, advance)
        report.rows += rows(backbone, points)
        if len(points) > 1:
            report.notes.append(
                f"{name(backbone)}: from {points[0].context:,} to {points[-1].context:,} tokens of "
                f"context the time of a token changes by {slope(points):+.1%}, by a line over its "
                "logarithm"
            )
    of = "tensors on the GPU" if options.device == "cuda" else "the process"
    report.notes.append(
        f"the peak memory of {of}, of all models and contexts together, is "
        f"{peak_memory(options.device) / MIB:,.0f} MiB"
    )


def models(options: argparse.Namespace) -> Iterable[Backbone]:
    if options.checkpoint:
        backbone = load_tokens_model(options.checkpoint).backbone
        if backbone.config.grid:
            raise ValueError(f"{options.checkpoint} is a model of video, not of text")
        yield backbone.to(options.device)
        return
    size = load_config(f"text_{options.size or 'tiny'}")["model"]["init_args"]["backbone"]
    shape = {name: size[name] for name in ("width", "depth", "heads", "mlp_width")}
    for inner in options.inner:
        torch.manual_seed(0)
        ttt = TTTConfig(inner=inner, mini_batch_size=options.mini_batch)
        config = BackboneConfig(vocab_size=258, **shape, ttt=ttt)
        yield Backbone(config).eval().to(options.device)


def name(backbone: Backbone) -> str:
    """The inner model of TTT, or the mixer."""
    config = backbone.config
    return config.ttt.inner if config.mixer == "ttt" else config.mixer


def rows(backbone: Backbone, points: Iterable[Point]) -> list[Row]:
    config = backbone.config
    device = next(backbone.parameters()).device.type
    found = []
    for point in points:
        case = Case(
            inner=name(backbone),
            tokens=point.context,
            heads=config.heads,
            head_dim=config.width // config.heads,
            mini_batch=config.ttt.resolved(None).mini_batch_size,
            device=device,
        )
        gate = {"error": point.error}
        if point.error > LIMIT:
            gate["wrong"] = f"logits are off by {point.error:.1e}, more than {LIMIT:.1e}"
        found += [
            Row(case, "decode", "generate", point.seconds, tokens=point.tokens, **gate),
            Row(case, "state", "generate", [point.state / 1024], "KiB of state"),
        ]
    return found
