"""Dense against sparse: is an instant predicted better from more frames a second?

A model reads frames at one rate, told the seconds from each to the next. The last of them is the
instant, and its seconds are the horizon: the model predicts the frame that much later, at once
and not frame by frame. Only this target is measured, and it is the same frame at every rate; losses
of the next frame at one rate and at another would be of different frames. What is equal:

    training FLOPs   A model learns one rate. Training ends when the same FLOPs are spent, which are
                     proportional to the tokens read.
    seconds          Contexts go back S seconds from the instant; at r frames a second they are
                     r S frames, so a dense context costs more to read.
    tokens           Contexts are N frames, and go back N / r seconds. FLOPs are proportional to
                     the tokens read, so these cost the same to read: equal FLOPs in all.

Training begins with short contexts, which grow to the longest that is measured. Every frame in them
is predicted; half of the loss is the cells of the target that are asked for. These are chosen
without a look at what they show, or the model would learn to expect it. In mazes contexts are long
from the start, and each is read once and asked for many frames after it: a frame that comes next at
30 a second needs no memory, and one target in 240 frames teaches little.

B moments, F frames of a context, P tokens per frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tttvideo.data.video.drawn.cells import GROUND
from tttvideo.data.video.drawn.moments import (
    FPS,
    GREYS,
    MOMENTS,
    TORUS,
    WAIT,
    Contexts,
    Moments,
    MomentWorld,
    at_rate,
)
from tttvideo.data.video.walks import Walks, read_both, seen_before, walk_moments
from tttvideo.layers import init_by_fan_in
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.states import tree_map
from tttvideo.video.address import AddressConfig
from tttvideo.video.conditions import Conditions, ConditionsConfig
from tttvideo.video.frame_head import HeadConfig
from tttvideo.video.frame_model import FrameModel, FrameModelConfig

from .flops import TRAINING, frame_flops_per_token
from .small_training import SmallTraining


RATES = 30, 10, 5, 2, 1
"""Frames a second."""
EVALUATED = 1 << 31  # seed of the moments that are measured
FIRST = 6  # frames of the contexts with which training begins
GROW = 0.35, 0.8  # shares of the training between which they grow to N
EASY = {"static": 0.15, "bounce": 0.6, "pan": 0.5}
"""Worlds that are trained for a share of the operations."""
WORLDS = MOMENTS | {"maze": MomentWorld(walk_moments, (3, 15, 30))}
ASKS = {"maze": 16}
"""Targets of each context in training, where they are not one."""
LONG = {"maze": 12}
"""Worlds in which contexts do not grow: the longest over the shortest. What is seen again was out
of view for seconds."""
STEPS: dict[str, dict[str, Any]] = {"maze": {"tokens": 4096, "lr": 5e-3}}
"""RateSettings of the training that differ between worlds."""
MODELS: dict[str, dict[str, Any]] = {
    "flash": {},
    "bounce": {"in_frame": True, "depth": 2, "window_frames": 2},
    "pan": {"width": 64, "heads": 2},
    "static": {},
    "maze": {
        **{"width": 64, "mlp_width": 128, "window_frames": 2},
        "ttt": TTTConfig(address="place", blocks=16, carry=4.0),  # a maze does not change
        "address": AddressConfig("walk", scales=(0.1, 0.3), turn=8.5),
        "head": HeadConfig(depth=0, order="parallel", copy_last=True),
    },
}
"""Fields of FrameModelConfig that differ between worlds."""


@dataclass(frozen=True)
class RateSettings:
    """The worlds, the training and the measurement, the same at every rate."""

    gflops: int = 200
    """Training operations of a model, in 10^9; less in EASY worlds."""
    colours: int = 8
    """Colours of the worlds, K."""
    grid: int = 4
    """Cells along a side of a frame."""
    seconds: int = 2
    """Seconds of the contexts of equal seconds, S."""
    frames: int = 60
    """Frames of the contexts of equal tokens, N."""
    moments: int = 128
    """Moments that are measured."""
    tokens: int = 2048
    """Tokens of a step of training."""
    lr: float = 1e-2
    """Peak learning rate of AdamW."""
    walks: str = ""
    """Token file or folder of walks through mazes, for training; "": there are none."""
    held_out: str = ""
    """The same of other mazes, to measure with."""


def new_config(world: str, settings: RateSettings) -> FrameModelConfig:
    """TTT-Linear, whose memory is addressed by the place of a cell in the world.

    The tokens of a target are predicted at once: given the others of its frame, most are known.
    """
    period = TORUS if world == "pan" else settings.grid
    sizes: dict[str, Any] = {
        **{"width": 32, "heads": 1, "depth": 1, "mlp_width": 64},
        **{"in_frame": False, "window_frames": 1},
    }
    tokens: dict[str, Any] = {
        "vocab_size": GREYS + settings.colours,
        "grid": (settings.grid, settings.grid),
    }
    if world == "maze":
        header = both_walks(settings)[0].header
        tokens = {"vocab_size": header.vocab_size, "grid": header.grid}
    parts: dict[str, Any] = {
        "ttt": TTTConfig(address="place", forget=True),
        "address": AddressConfig("shift", (period, period)),
        "head": HeadConfig(depth=0, order="parallel"),
    }
    seconds = ConditionsConfig(actions=0, seconds=True)
    return FrameModelConfig(conditions=seconds, **tokens | sizes | parts | MODELS[world])


def new_model(config: FrameModelConfig) -> FrameModel:
    """A model whose weights all start by fan-in, not those of its memory alone, excluding mazes.

    At a width of 32, weights of 0.02 hardly pass on what they read. In mazes the output of a memory
    that starts large hid the tokens.
    """
    model = FrameModel(config)
    if config.address.poses != "walk":
        init_by_fan_in(model)
    return model


def draw(
    world: str, settings: RateSettings, count: int, before: int, *seed: int, **options: int
) -> Moments:
    """Moments with `before` frames up to the instant and all horizons after it.

    The first number of the seed tells training from measuring.
    """
    sizes: tuple[Any, ...] = settings.grid, settings.colours
    if world == "maze":
        sizes = (both_walks(settings)[seed[0] == EVALUATED],)
    after = max(WORLDS[world].horizons)
    return WORLDS[world].draw(count, before, after, *sizes, np.random.default_rng(seed), **options)


def both_walks(settings: RateSettings) -> tuple[Walks, Walks]:
    """The walks for training, and to measure with. Raises ValueError where they do not serve."""
    least = longest_context(settings) + max(WORLDS["maze"].horizons)
    return read_both(settings.walks, settings.held_out, least)


def effort(world: str, settings: RateSettings) -> float:
    """Training operations of a model of a world."""
    return 1e9 * settings.gflops * EASY.get(world, 1.0)


def train(
    model: FrameModel,
    world: str,
    rate: int,
    settings: RateSettings,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[int, float]:
    """Train with frames at `rate` until the operations are spent; the steps, and the operations."""
    settings = replace(settings, **STEPS.get(world, {}))
    training = SmallTraining(model, settings.lr)
    per_token = TRAINING * frame_flops_per_token(model.config, settings.frames)
    budget, spent, step = effort(world, settings), 0.0, 0
    while spent < budget:
        done = spent / budget
        contexts = training_contexts(world, settings, rate, done, (seed, rate, step))
        loss, tokens = mean_nats(model, contexts, ASKS.get(world, 1))
        training.step(loss, done)
        more = per_token * tokens
        advance(int((spent + more) / 1e9) - int(spent / 1e9))
        spent, step = spent + more, step + 1
    return step, spent


def training_contexts(
    world: str, settings: RateSettings, rate: int, done: float, seed: tuple[int, ...]
) -> Contexts:
    """New moments of one step, when a share of the training is over.

    Contexts have FIRST frames, or S seconds if these are fewer, to `longest`, even on a logarithmic
    scale. Flashes lie within the reach of the context, so that short ones, of which a step has
    many, teach to remember over a few frames first.
    """
    rng = np.random.default_rng(seed)
    asks, horizons = ASKS.get(world, 1), WORLDS[world].horizons
    most = longest(world, settings, rate, done)
    least = min(FIRST, settings.seconds * rate, settings.frames)
    if world in LONG:
        least = math.ceil(most / LONG[world])
    frames = round(least * (most / least) ** rng.uniform())
    before = (frames - 1) * (FPS // rate) + 1
    count = max(1, settings.tokens // ((frames + asks - 1) * settings.grid**2))
    options = {"wait": min(WAIT, max(1, before - 4))} if world == "flash" else {}
    moments = draw(world, settings, count, before, *seed, 1, **options)
    if asks > 1:  # at any time up to the last horizon
        horizons = tuple(range(1, max(horizons) + 1))
    return at_rate(moments, frames, rate, rng.choice(horizons, count * asks))


def longest(world: str, settings: RateSettings, rate: int, done: float) -> float:
    """The most frames of a context when a share of the training is over."""
    last = max(settings.frames, settings.seconds * rate)
    if world in LONG:
        return last
    first = min(FIRST, last)
    share = min(1.0, max(0.0, (done - GROW[0]) / (GROW[1] - GROW[0])))
    return first * (last / first) ** share


def mean_nats(model: FrameModel, contexts: Contexts, asks: int) -> tuple[Tensor, int]:
    """Mean of -log p over all predicted tokens, and over the asked ones of the targets; and the
    number of predicted tokens.

    Each `asks` contexts in a row differ in their targets alone, and are read once.
    """
    frames, conditions = tensors(contexts)
    last = frames.shape[1] - 2
    costs, state = [], None
    if last:
        known = tree_map(lambda x: x[::asks], conditions).frames(0, last)
        vectors, state = model(frames[::asks, :last], None, known)
        costs.append(nats(model, vectors, frames[::asks, : last + 1]))
        state = tree_map(lambda x: x.repeat_interleave(asks, dim=0), state)
    vectors, _ = model(frames[:, last:-1], state, conditions.frames(last, last + 1))
    costs.append(nats(model, vectors, frames[:, last:]))
    asked = torch.from_numpy(contexts.asked)
    predicted = torch.cat([x.flatten() for x in costs])
    target = (costs[-1][:, 0] * asked).sum() / asked.sum().clamp_min(1)
    return predicted.mean() + target, len(predicted)


def tensors(contexts: Contexts) -> tuple[Tensor, Conditions]:
    frames, seconds, poses = map(torch.from_numpy, contexts[:3])
    return frames, Conditions(poses=poses.float(), seconds=seconds.float())


def logits(model: FrameModel, vectors: Tensor, frames: Tensor) -> Tensor:
    """Logits (B, F, P, V) of each frame of `frames` (B, F + 1, P) after the first."""
    parts = (x.flatten(0, 1) for x in (vectors, frames[:, 1:], frames[:, :-1]))
    return model.head(*parts).unflatten(0, vectors.shape[:2])


def nats(model: FrameModel, vectors: Tensor, frames: Tensor) -> Tensor:
    """-log p (B, F, P) of the same."""
    found = logits(model, vectors, frames)
    return F.cross_entropy(found.flatten(0, 2), frames[:, 1:].flatten(), reduction="none").view(
        frames[:, 1:].shape
    )


def longest_context(settings: RateSettings) -> int:
    """Frames at FPS up to the instant, which every context that is measured lies within."""
    return max((settings.frames - 1) * FPS, settings.seconds * FPS) + 1


def measure(
    world: str, rate: int, settings: RateSettings, seed: int, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Train a model of a world at a rate, and measure it: a record of JSON's types."""
    torch.manual_seed(seed)
    model = new_model(new_config(world, settings))
    steps, spent = train(model, world, rate, settings, seed, advance)
    model.eval()
    moments = draw(world, settings, settings.moments, longest_context(settings), EVALUATED)
    return {
        "world": world,
        "rate": rate,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "training_gflops": spent / 1e9,
        "copied": {str(h): copied(world, moments, h) for h in WORLDS[world].horizons},
        "measured": [
            row
            for frames in sorted({1, rate * settings.seconds, settings.frames})
            for row in score(model, world, settings, moments, frames, rate)
        ],
    }


@torch.inference_mode()
def score(
    model: FrameModel,
    world: str,
    settings: RateSettings,
    moments: Moments,
    frames: int,
    rate: int,
) -> list[dict[str, Any]]:
    """Bits of the targets, and the share that is right, from contexts of one length."""
    rows: list[dict[str, Any]] = []
    state, count = None, len(moments.cells)
    for horizon in WORLDS[world].horizons:
        contexts = at_rate(moments, frames, rate, np.full(count, horizon))
        read, known = tensors(contexts)
        if frames > 1 and state is None:
            _, state = model(read[:, : frames - 1], None, known.frames(0, frames - 1))
        vectors, _ = model(read[:, -2:-1], state, known.frames(frames - 1, frames))
        found = logits(model, vectors, read[:, -2:])[:, 0]
        cost = F.cross_entropy(found.flatten(0, 1), read[:, -1].flatten(), reduction="none")
        bits = cost.view(count, -1).sum(1).numpy() / math.log(2)
        right = (likeliest(world, found) == read[:, -1]).numpy()
        rows.append(
            {
                "frames": frames,
                "horizon": horizon,
                "bits": float(bits.mean()),
                "recall": recall(world, right, contexts.asked),
                "seen": float(contexts.seen.mean()),
                "mflops": frames
                * read.shape[2]
                * frame_flops_per_token(model.config, frames)
                / 1e6,
            }
        )
        if world == "maze":
            rows[-1] |= by_sight(bits, contexts.poses[:, -1], moments, settings)
    return rows


def by_sight(
    bits: np.ndarray, target: np.ndarray, moments: Moments, settings: RateSettings
) -> dict[str, float | None]:
    """Bits of targets by whether the walk was there within S seconds, whatever a context shows."""
    now = longest_context(settings)
    sights = seen_before(moments.poses[:, now - settings.seconds * FPS : now], target)
    again, new = (bits[sights == sight] for sight in (1, -1))
    return {
        "again": float(again.mean()) if len(again) else None,
        "new": float(new.mean()) if len(new) else None,
        "share_again": len(again) / len(bits),
    }


def likeliest(world: str, logits: Tensor) -> Tensor:
    """The most probable frames (B, P) by logits (B, P, V)."""
    if not WORLDS[world].single:
        return logits.argmax(-1)
    odds, colour = (logits - logits[..., :GREYS].logsumexp(-1, keepdim=True))[..., GREYS:].max(-1)
    cell = odds.argmax(-1, keepdim=True)
    shown = GREYS + colour.gather(1, cell)
    return torch.full_like(colour, GROUND).scatter(1, cell, shown)


def copied(world: str, moments: Moments, horizon: int) -> float:
    """The share that a copy of the last frame has right, as a control."""
    after = moments.asked.shape[1]
    last, target = moments.cells[:, -after - 1], moments.cells[:, horizon - after - 1]
    return recall(world, last == target, moments.asked[:, horizon - 1])


def recall(world: str, right: np.ndarray, asked: np.ndarray) -> float:
    """The share of the asked cells (B, P) that are right, or of the targets."""
    return float((right.all(1) if WORLDS[world].single else right[asked]).mean())
