"""Mixers as the memory of a frame model: trained for equal CPU time, then their states are swapped.

In the pan world a cell that the window shows again was seen before. A model knows the last frame
without a memory, and cells that were never seen cost log2 of the colours, so bits per token of old
cells measure the memory alone.

F frames, P tokens per frame.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tttvideo.data.video.drawn.pan import STEPS, pan_worlds
from tttvideo.mixers.linear_attention import LinearAttentionConfig
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.states import state_bytes, tree_map
from tttvideo.video.address import AddressConfig
from tttvideo.video.conditions import Conditions, ConditionsConfig
from tttvideo.video.frame_head import HeadConfig
from tttvideo.video.frame_model import FrameModel, FrameModelConfig

from .memory import state_swap


TTT = TTTConfig(base_lr=1.0, address="place", carry=4.0, forget=True)
"""A carry of 4 is 64 times the usual one for frames of 16 tokens, and the rate 10 times the MLP's:
one look at a cell has to be enough."""
MEMORIES: dict[str, dict[str, Any]] = {
    "ttt_linear": {"mixer": "ttt", "ttt": TTT},
    "ttt_mlp": {"mixer": "ttt", "ttt": replace(TTT, inner="mlp")},
    "attention": {"mixer": "attention"},
    "mamba": {"mixer": "mamba"},
    "linear_attention": {
        "mixer": "linear_attention",
        "linear_attention": LinearAttentionConfig(normalise=False),  # an average recalled far less
    },
    "gated_delta": {"mixer": "gated_delta"},
    "window": {"mixer": None},
}
"""Fields of FrameModelConfig by the name of a memory."""
WARMUP, FINAL_LR = 0.05, 3e-3  # shares of the training time and of the peak learning rate
EVALUATED = 1 << 31  # seed of the worlds that are measured


@dataclass(frozen=True)
class PanSettings:
    """The worlds, the training and the measurement, the same for every memory."""

    size: int = 6
    """Cells around the torus."""
    colours: int = 8
    """Tokens of the vocabulary."""
    view: int = 4
    """Cells along a side of the window."""
    width: int = 128
    """Features of a token; a quarter of them are a head."""
    frames: int = 32
    """Frames that are predicted in a training window, each from a fresh state."""
    batch: int = 4
    """Worlds of a step."""
    lr: float = 3e-3
    """Peak learning rate of AdamW."""
    seconds: float = 60.0
    """CPU time of training."""
    worlds: int = 32
    """Worlds that are measured."""
    seen: int = 128
    """Frames before the states are swapped."""
    scored: int = 16
    """Frames after that."""


def memory_label(name: str) -> str:
    entry = new_config(name, PanSettings()).entry
    return entry.label(MEMORIES[name].get("ttt")) if entry else "window only"


def new_config(name: str, settings: PanSettings) -> FrameModelConfig:
    """One block with this memory; the window is the last frame.

    Mamba has no keys: places are a part of its input.
    """
    mixer = MEMORIES[name]["mixer"]
    periods = settings.size, settings.size
    address = AddressConfig("shift", periods, as_input=mixer == "mamba")
    return FrameModelConfig(
        vocab_size=settings.colours,
        grid=(settings.view, settings.view),
        width=settings.width,
        depth=1,
        mlp_width=settings.width,
        window_frames=1,
        in_frame=False,  # attention finds near cells first, and memories then learn slowly
        address=address if mixer else AddressConfig(),
        conditions=ConditionsConfig(actions=len(STEPS)),
        head=HeadConfig(depth=0),
        **MEMORIES[name],
    )


def draw(
    settings: PanSettings, worlds: int, frames: int, *seed: int
) -> tuple[Tensor, Conditions, Tensor]:
    """Frames (worlds, F, P) of new worlds, what is known of them, and the ages of the tokens."""
    sizes = settings.size, settings.colours, settings.view
    pan = pan_worlds(worlds, frames + 1, *sizes, seed)
    tokens, actions, poses, ages = (torch.from_numpy(x).long() for x in pan)
    return tokens[:, :-1], Conditions(actions[:, :-1], poses), ages[:, :-1]


def train(
    model: FrameModel, settings: PanSettings, seed: int, advance: Callable[[int], None]
) -> int:
    """Train for `settings.seconds` of CPU time, on new worlds at each step; the number of steps.

    The learning rate follows the share of the time, so that it has ended for slow models too.
    """
    optimizer = torch.optim.AdamW(model.parameters(), settings.lr, (0.9, 0.95), weight_decay=0.01)
    start, step, told = time.process_time(), 0, 0
    while (spent := time.process_time() - start) < settings.seconds:
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * schedule(spent / settings.seconds)
        frames, conditions, _ = draw(settings, settings.batch, settings.frames + 1, seed, step)
        loss = mean_nats(model, frames, conditions)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        advance(int(spent) - told)
        told = int(spent)
    advance(int(settings.seconds) - told)
    return step


def schedule(done: float) -> float:
    """Share of the peak learning rate when a share of the time is over: a warm-up, a cosine."""
    cosine = FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * done))
    return min(1.0, done / WARMUP) * cosine


def mean_nats(model: FrameModel, frames: Tensor, conditions: Conditions) -> Tensor:
    """Mean of -log p over the tokens of all frames (B, F, P) after the first."""
    last = frames.shape[1] - 1
    vectors, _ = model(frames[:, :last], None, conditions.frames(0, last))
    parts = (x.flatten(0, 1) for x in (vectors, frames[:, 1:], frames[:, :-1]))
    logits = model.head(*parts)
    return F.cross_entropy(logits.flatten(0, 1), frames[:, 1:].flatten())


def measure(name: str, settings: PanSettings, seed: int, advance: Callable[[int], None]) -> Any:
    """Train a model with a memory, and swap its states: a record of JSON's types."""
    torch.manual_seed(seed)
    model = FrameModel(new_config(name, settings))
    steps = train(model, settings, seed, advance)
    model.eval()
    frames, conditions, ages = draw(
        settings, settings.worlds, settings.seen + settings.scored + 1, EVALUATED
    )
    return {
        "memory": name,
        "label": memory_label(name),
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "state_bytes": memory_bytes(model, frames[:1, : settings.seen], conditions),
        "bits": state_swap(model, frames, ages, settings.seen, conditions),
    }


@torch.inference_mode()
def memory_bytes(model: FrameModel, frames: Tensor, conditions: Conditions) -> int:
    """Bytes of the memory of one video after its frames (1, F, P)."""
    known = tree_map(lambda x: x[:1], conditions).frames(0, frames.shape[1])
    return state_bytes(model(frames, None, known)[1].blocks)
