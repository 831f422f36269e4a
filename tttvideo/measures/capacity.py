"""How many cells a memory holds: recall by the number of cells, for states of equal bytes.

Every model is trained for the same CPU time on worlds that a sweep shows once and random views then
ask for, small worlds first. Every cell is independent of the others and the window is the last
frame, so the bits of cells last seen in the sweep measure the memory alone.

N worlds, F frames, P tokens per frame, K cells along a side of a world, V colours.
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

from tttvideo.data.video.drawn.sweep import swept_worlds
from tttvideo.mixers.gated_delta import GatedDeltaConfig
from tttvideo.mixers.linear_attention import LinearAttentionConfig
from tttvideo.mixers.lstm import LSTMConfig
from tttvideo.mixers.mamba import MambaConfig
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.states import state_bytes
from tttvideo.video.address import AddressConfig
from tttvideo.video.conditions import Conditions
from tttvideo.video.frame_head import HeadConfig
from tttvideo.video.frame_model import FrameModel, FrameModelConfig, FrameModelState

from .memory import swapped, with_memory
from .small_training import SmallTraining


TTT = TTTConfig(base_lr=1.0, address="place", carry=1.0)
"""A carry of 1 is four times the usual one for frames of 4 tokens, and the rate 10 times the MLP's:
one look at a cell has to be enough."""
MEMORIES: dict[str, dict[str, Any]] = {
    "ttt_linear": {"mixer": "ttt", "ttt": TTT, "width": 128, "heads": 1},
    "ttt_mlp": {
        "mixer": "ttt",
        "ttt": replace(TTT, inner="mlp", gate=False),  # with the gate it begins to learn later
        "width": 64,
        "heads": 2,
    },
    "linear_attention": {
        "mixer": "linear_attention",
        "linear_attention": LinearAttentionConfig(normalise=False),  # an average recalled far less
        "width": 128,
        "heads": 1,
    },
    "gated_delta": {
        "mixer": "gated_delta",
        "gated_delta": GatedDeltaConfig(first_decay=1e-3),
        "width": 128,
        "heads": 1,
    },
    "mamba2": {
        "mixer": "mamba2",
        "mamba": MambaConfig(128, 1, head_dim=128, first_step=10.0, first_decay=1e-4),
        "width": 128,
    },
    "lstm": {"mixer": "lstm", "lstm": LSTMConfig(512), "width": 64},
    "attention": {"mixer": "attention", "width": 128, "heads": 1},
    "window": {"mixer": None, "width": 128},
}
"""Fields of FrameModelConfig by the name of a memory. The states have 64 KiB and what little the
shapes add, apart from attention's, which grows, and the LSTM's 16 KiB: with 64 it has 19 M weights,
too slow to train in this time. Gates begin so that they keep a whole video."""
ALL_SIZES = 0.6  # share of the training time after which all sizes are drawn
EVALUATED = 1 << 31  # seed of the worlds that are measured
OLD = 8
"""Frames since a cell was seen, from which on its recall is measured; all of a shorter sweep."""


@dataclass(frozen=True)
class CapacitySettings:
    """The worlds, the training and the measurement, the same for every memory."""

    sizes: tuple[int, ...] = (4, 6, 8, 12, 16, 24, 32)
    """Cells along a side of the worlds, K, in rising order."""
    colours: int = 8
    """Tokens of the vocabulary, V."""
    view: int = 2
    """Cells along a side of a frame."""
    most_asked: int = 16
    """Frames after a sweep, or those of the sweep if it has fewer; training predicts them."""
    batch: int = 8
    """Worlds of a step."""
    lr: float = 3e-3
    """Peak learning rate of AdamW."""
    seconds: float = 60.0
    """CPU time of training."""
    worlds: int = 32
    """Worlds of each size that are measured."""

    def swept(self, size: int) -> int:
        """Frames that show every cell of a world once."""
        return (size // self.view) ** 2

    def asked(self, size: int) -> int:
        """Frames that ask for cells."""
        return min(self.most_asked, self.swept(size))


def new_config(name: str, settings: CapacitySettings) -> FrameModelConfig:
    """One block with this memory; the window is the last frame.

    An LSTM has no keys: places are a part of its input.
    """
    fields = MEMORIES[name]
    address = AddressConfig("shift", scales=(0.5,), as_input=fields["mixer"] == "lstm")
    return FrameModelConfig(
        vocab_size=settings.colours,
        grid=(settings.view, settings.view),
        depth=1,
        mlp_width=fields["width"],
        window_frames=1,
        in_frame=False,  # the window shows the whole frame
        address=address if fields["mixer"] else AddressConfig(),
        head=HeadConfig(depth=0),
        **fields,
    )


def draw(
    settings: CapacitySettings, worlds: int, size: int, *seed: int
) -> tuple[Tensor, Conditions, Tensor]:
    """Frames (N, F, P) of new worlds, their poses, and the ages of the tokens."""
    s = settings
    room = 2 * max(s.sizes)
    drawn = swept_worlds(worlds, size, s.asked(size), s.colours, s.view, room, seed)
    tokens, poses, ages = (torch.from_numpy(x).long() for x in drawn)
    return tokens, Conditions(poses=poses), ages


def train(
    model: FrameModel, settings: CapacitySettings, seed: int, advance: Callable[[int], None]
) -> int:
    """Train for `settings.seconds` of CPU time, on new worlds at each step; the number of steps.

    The learning rate and the sizes follow the share of the time, so that slow models meet all.
    """
    random = np.random.default_rng(seed)

    def loss(done: float, step: int) -> Tensor:
        size = draw_size(settings.sizes, done, random)
        return mean_nats(model, settings, size, seed, step)

    return SmallTraining(model, settings.lr).run(settings.seconds, loss, advance)


def draw_size(sizes: tuple[int, ...], done: float, random: np.random.Generator) -> int:
    """One of the sizes that training has reached when a share of its time is over.

    Its chance is inverse to the size, so that large worlds, which are slow, do not take all of it.
    """
    reached = np.array(sizes[: 1 + int(len(sizes) * done / ALL_SIZES)])
    return int(random.choice(reached, p=(1 / reached) / (1 / reached).sum()))


def mean_nats(
    model: FrameModel, settings: CapacitySettings, size: int, seed: int, step: int
) -> Tensor:
    """Mean of -log p over the tokens of the frames after the sweep, of new worlds."""
    tokens, conditions, _ = draw(settings, settings.batch, size, seed, step)
    begin, last = settings.swept(size) - 1, tokens.shape[1] - 1
    vectors, _ = model(tokens[:, :last], None, conditions.frames(0, last))
    logits = next_logits(model, vectors[:, begin:], tokens[:, begin:])
    return F.cross_entropy(logits.flatten(0, 2), tokens[:, begin + 1 :].flatten())


def next_logits(model: FrameModel, vectors: Tensor, tokens: Tensor) -> Tensor:
    """Logits (N, F - 1, P, V) of frames (N, F, P) after the first, by vectors (N, F - 1, P, C)."""
    parts = (x.flatten(0, 1) for x in (vectors, tokens[:, 1:], tokens[:, :-1]))
    return model.head(*parts).unflatten(0, vectors.shape[:2])


def measure(
    name: str, settings: CapacitySettings, seed: int, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Train a model with a memory, and measure it at every size: a record of JSON's types."""
    torch.manual_seed(seed)
    model = FrameModel(new_config(name, settings))
    steps = train(model, settings, seed, advance)
    model.eval()
    found = {str(size**2): recall(model, settings, size) for size in settings.sizes}
    return {
        "memory": name,
        "label": memory_label(name),
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "shape": memory_shape(model.config),
        "recall": found,
    }


def memory_label(name: str) -> str:
    entry = new_config(name, CapacitySettings()).entry
    return entry.label(MEMORIES[name].get("ttt")) if entry else "window only"


def memory_shape(config: FrameModelConfig) -> dict[str, int] | None:
    """Heads H, features D of a key, and blocks, of a memory with keys and a state of one size."""
    if config.mixer in (None, "lstm", "attention"):
        return None
    if config.mixer == "mamba2":  # its heads share their keys
        assert config.mamba.d_state
        return {"heads": 1, "key": config.mamba.d_state, "blocks": 1}
    blocks = config.ttt.blocks if config.mixer == "ttt" else 1
    return {"heads": config.heads, "key": config.width // config.heads, "blocks": blocks}


@torch.inference_mode()
def recall(model: FrameModel, settings: CapacitySettings, size: int) -> dict[str, Any]:
    """Bits and the share of right tokens of cells that were seen in the sweep, with three states.

    own: the world's; other: another world's; fresh: the learned start. The frame after the sweep is
    read with each of them, and the tokens after it count whose cells were last seen in the sweep,
    and OLD or more frames ago.
    """
    tokens, conditions, ages = draw(settings, settings.worlds, size, EVALUATED, size)
    begin, last = settings.swept(size), tokens.shape[1] - 1
    _, state = model(tokens[:, :begin], None, conditions.frames(0, begin))
    fresh = model.init_state(settings.worlds)
    memories = {"own": state, "other": swapped(state), "fresh": with_memory(state, fresh)}
    since = torch.arange(2, settings.asked(size) + 1)[:, None]  # frames since the sweep's last
    old = ages[:, begin + 1 :] >= since.clamp_min(min(OLD, begin))
    found: dict[str, Any] = {"tokens": int(old.sum()), "state_bytes": bytes_of_one(state)}
    for name, memory in memories.items():
        vectors, _ = model(tokens[:, begin:last], memory, conditions.frames(begin, last))
        found[name] = score(
            next_logits(model, vectors, tokens[:, begin:])[old], tokens[:, begin + 1 :][old]
        )
    return found


def bytes_of_one(state: FrameModelState) -> int:
    """Bytes of the memory of one world."""
    return state_bytes(state.blocks) // len(state.recent) if state.recent is not None else 0


def score(logits: Tensor, tokens: Tensor) -> dict[str, float]:
    """Bits per token, and the share of tokens (n,) that are the most probable by logits (n, V)."""
    bits = F.cross_entropy(logits.double(), tokens) / math.log(2)
    right = (logits.argmax(-1) == tokens).double().mean()
    return {"bits": bits.item(), "accuracy": right.item()}
