"""Second part of the demo: a world seen through a moving window, left and found again."""

import math
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tttvideo.apps.commands import invoke
from tttvideo.apps.show.demo_sheets import OTHER, PREDICTION, TRUTH, Memory, draw_world, write_world
from tttvideo.apps.stages import Stages
from tttvideo.data.video.drawn.pan import Pan, pan_worlds
from tttvideo.measures.memory import remember, state_swap
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.frame_streams import sample_frames, score_frames
from tttvideo.states import tree_map
from tttvideo.video.conditions import Conditions
from tttvideo.video.frame_model import FrameModel
from tttvideo.weights.video_checkpoints import VideoCheckpoint, load_video_model

from .training import fit


S = TypeVar("S")

WORLDS, FRAMES, SIZE, COLOURS, VIEW = 4000, 64, 6, 8, 4
RIGHT, DOWN, LEFT, UP = range(4)
AWAY = 44  # frames, during which the window does not leave the far corner
WALK = [RIGHT, LEFT, DOWN, UP, *[DOWN, RIGHT] * 3, *[LEFT, RIGHT] * (AWAY // 2), *[UP, LEFT] * 3]
BACK = len(WALK) - 5  # the first frame that shows again what was seen before
LONG_AGO = 40  # frames
TESTED, SEEN, AHEAD = 64, 128, 16  # worlds, frames of each that are read, frames that are scored


class World:
    """The stages of this part, below the folder `out`."""

    def __init__(self, out: Path, steps: int):
        self.out, self.steps = out, steps
        self.data, self.model = out / "worlds", out / "model"

    def train(self, stages: Stages, seconds: str) -> None:
        about = f"draw {WORLDS:,} worlds of coloured cells, seen through a moving window (10 s)"
        stages.do("draw worlds", [WORLDS, FRAMES], about, self.draw)
        stages.do(
            "train the model of worlds",
            self.steps,
            f"train a model that is told where the window stands and what it shows ({seconds})",
            self.train_model,
        )

    def draw(self) -> None:
        counts = ["--worlds", str(WORLDS), "--frames", str(FRAMES), "--size", str(SIZE)]
        counts += ["--colours", str(COLOURS), "--view", str(VIEW)]
        invoke("prepare pan", ["--out", str(self.data), *counts])

    def train_model(self) -> None:
        data = ["--model.frame_tokenizer", str(self.data / "palette.ckpt")]
        data += ["--data.train", str(self.data / "tokens.bin")]
        fit("video_pan", self.model, self.steps, data)

    def show(self) -> tuple[str, dict[str, Any]]:
        """Walk away and back; writes the pictures and returns the text and the numbers."""
        model = load_video_model(self.model / "last.ckpt")
        network = model.network
        assert isinstance(network, FrameModel)
        rows, returned, bits = walk_back(model, network)
        numbers = range(BACK, BACK + len(returned))
        draw_world(self.out / "world.png", rows, returned, numbers)
        write_world(self.out / "world.mp4", rows, fps=4)
        found = swap(network)
        return text(bits, found), {"returned": bits, "by_age": found}


def walk_back(
    model: VideoCheckpoint, network: FrameModel
) -> tuple[list[Memory], np.ndarray, dict[str, float]]:
    """Two worlds, one walk: what the first one's own memory, and the other's, predict of it.

    Returns the rows of the picture, the cells (F, S, S) that return, and bits per token on these.
    """
    walk = np.array([[*WALK, RIGHT, RIGHT]] * 2)
    frames, ages, known = read_worlds(pan_worlds(2, len(WALK) + 2, SIZE, COLOURS, VIEW, 1, walk))
    _, before = score_frames(network, frames[:, : BACK - 1], None, known.frames(0, BACK - 1))
    decode, best = model.frame_tokenizer.decode, Chooser(temperature=0)
    ours, ahead = frames[:1], one(known, 0).frames(BACK, frames.shape[1])
    returned = ages[0, BACK:] >= LONG_AGO
    rows = [Memory("truth", TRUTH, decode(ours[0, BACK:]).numpy(), None)]
    bits = {}
    for name, colour, world in (("own memory", PREDICTION, 0), ("another's", OTHER, 1)):
        memory = one(before.state, world)
        prefix = remember(network, ours[:, :BACK], one(known, 0).frames(0, BACK), memory)
        costs, _ = score_frames(network, ours[:, BACK:], prefix, ahead)
        bits[name] = costs[0][returned].mean().item()
        sampled = sample_frames(network, prefix, len(returned), best, ahead)
        images = torch.cat([decode(frame) for frame in sampled])
        rows.append(Memory(name, colour, images.numpy(), bits[name]))
    return rows, returned.unflatten(1, (VIEW, VIEW)).numpy(), bits


def read_worlds(pan: Pan) -> tuple[Tensor, Tensor, Conditions]:
    """All frames but the last as tokens (N, F, P), their ages, and what is known of them."""
    tokens, actions, poses, ages = map(torch.from_numpy, pan)
    return tokens[:, :-1], ages[:, :-1], Conditions(actions[:, :-1], poses)


def one(state: S, i: int) -> S:
    """Video i of a batch, as a batch of one."""
    return tree_map(lambda x: x[i : i + 1], state)


def swap(network: FrameModel) -> dict[str, dict[str, float]]:
    """Bits by age in new worlds, on random walks, with three memories."""
    pan = pan_worlds(TESTED, SEEN + AHEAD + 2, SIZE, COLOURS, VIEW, 2)
    frames, ages, known = read_worlds(pan)
    return state_swap(network, frames, ages, SEEN, known)


def text(bits: dict[str, float], by_memory: dict[str, dict[str, float]]) -> str:
    rows = [
        f"  {age:<22}" + "".join(f"{found[age]:>10.2f}" for found in by_memory.values())
        for age in by_memory["own"]
    ]
    own, other = bits.values()
    return "\n".join(
        [
            f"World: the window leaves a place for {AWAY} frames and comes back. Bits per cell "
            f"that returns ({math.log2(COLOURS):.0f} by guessing):",
            f"  {own:.2f} with the model's own memory, {other:.2f} with another world's memory",
            f"The same in {TESTED} new worlds on random walks, after {SEEN} frames, by frames "
            "since a cell was last seen:",
            f"{'memory:':>24}" + "".join(f"{m:>10}" for m in ("own", "other's", "none")),
            *rows,
        ]
    )
