"""`tttvideo bench generation`: time and memory per token of whole models, by context."""

import argparse
import math
from collections.abc import Iterable, Sequence

import torch

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.measures.decoding import Point, decoding_by_context, relative_change
from tttvideo.measures.speed import peak_memory
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.progress import progress
from tttvideo.weights.checkpoints import load_tokens_model

from .cases import Case, load_backbone
from .records import Report, Row


MIB = 1 << 20
LIMIT = 1e-3  # relative error of float32 models on random tokens


def measure_generation(
    report: Report, options: argparse.Namespace, contexts: Sequence[int]
) -> None:
    """Add measurements of the checkpoint, or of untrained models of --size, to the report."""
    for backbone in load_models(options):
        M = backbone.config.ttt.resolved(None).mini_batch_size
        tokens = M * math.ceil(32 / M)
        repeats = options.repeats or 15
        total = max(contexts) + repeats * tokens * len(contexts)
        with progress("reading and decoding", total, "tokens") as advance:
            points = decoding_by_context(
                backbone, contexts, tokens, repeats, options.seconds, advance
            )
        report.rows += point_rows(backbone, points)
        if len(points) > 1:
            report.notes.append(
                f"{model_name(backbone)}: from {points[0].context:,} to {points[-1].context:,} "
                f"tokens of context the time of a token changes by {relative_change(points):+.1%}, "
                "by a line over its logarithm"
            )
    of = "tensors on the GPU" if options.device == "cuda" else "the process"
    report.notes.append(
        f"the peak memory of {of}, of all models and contexts together, is "
        f"{peak_memory(options.device) / MIB:,.0f} MiB"
    )


def load_models(options: argparse.Namespace) -> Iterable[Backbone]:
    if options.checkpoint:
        backbone = load_tokens_model(options.checkpoint).backbone
        if backbone.config.grid:
            raise ValueError(f"{options.checkpoint} is a model of video, not of text")
        yield backbone.to(options.device)
        return
    size = load_backbone(options.size or "tiny")
    shape = {name: size[name] for name in ("width", "depth", "heads", "mlp_width")}
    for inner in options.inner:
        torch.manual_seed(0)
        ttt = TTTConfig(inner=inner, mini_batch_size=options.mini_batch)
        config = BackboneConfig(vocab_size=258, **shape, ttt=ttt)
        yield Backbone(config).eval().to(options.device)


def model_name(backbone: Backbone) -> str:
    """The inner model of TTT, or the mixer."""
    config = backbone.config
    return config.ttt.inner if config.mixer == "ttt" else config.mixer


def point_rows(backbone: Backbone, points: Iterable[Point]) -> list[Row]:
    config = backbone.config
    device = next(backbone.parameters()).device.type
    found = []
    for point in points:
        case = Case(
            inner=model_name(backbone),
            tokens=point.context,
            heads=config.heads,
            head_dim=config.width // config.heads,
            mini_batch=config.ttt.resolved(None).mini_batch_size,
            device=device,
        )
        decode = Row(case, "decode", "generate", point.seconds, tokens=point.tokens)
        decode.error = point.error
        if point.error > LIMIT:
            decode.wrong = f"logits are off by {point.error:.1e}, more than {LIMIT:.1e}"
        found += [decode, Row(case, "state", "generate", [point.state / 1024], "KiB of state")]
    return found
