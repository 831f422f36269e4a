"""First part of the demo: many clips of bouncing shapes, some of them held out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tttvideo.apps.commands import invoke
from tttvideo.apps.show.demo_sheets import draw_clips, write_clips
from tttvideo.apps.stages import Stages
from tttvideo.data.video.reader import VideoReader
from tttvideo.measures.clips import Continued, clip_quality, continue_clips
from tttvideo.measures.memory import state_swap
from tttvideo.sampling.choose import Chooser
from tttvideo.video.frame_model import FrameModel
from tttvideo.weights.video_checkpoints import VideoCheckpoint, load_video_model

from .training import fit, prepare_video


CLIPS, HELD_OUT, FRAMES = 600, 128, 80
CONTEXT = 16  # frames
FIRST = 16  # predicted frames whose PSNR is averaged
AHEAD = 16, 48  # predicted frames at which shapes are counted as alive
SHOWN = 3  # clips of the pictures
SWAPPED = 32, 16  # clips, and frames after the context, whose bits are compared by memory


class Shapes:
    """The stages of this part, below the folder `out`."""

    def __init__(self, out: Path, frame_steps: int, steps: int):
        self.out, self.frame_steps, self.steps = out, frame_steps, steps
        self.clips, self.tokens = out / "clips", out / "tokens"
        self.tokenizer, self.model = out / "frame_tokenizer", out / "model"

    def train(self, stages: Stages, seconds: tuple[str, str]) -> None:
        stages.do(
            "draw shapes",
            [CLIPS, HELD_OUT, FRAMES],
            f"draw {CLIPS + HELD_OUT} clips of two bouncing shapes, {FRAMES} frames each; "
            f"{HELD_OUT} of them are held out (20 s)",
            self.draw,
        )
        stages.do(
            "train the frame tokenizer",
            self.frame_steps,
            "train the frame tokenizer, a model that turns a frame into 64 numbers, its tokens, "
            f"and back ({seconds[0]})\n"
            "        loss falls while it learns; dB rises: a decoded frame gets closer to the true "
            "one",
            self.train_tokenizer,
        )
        stages.do(
            "turn frames into tokens", [], "turn the frames into tokens (40 s)", self.tokenise
        )
        stages.do(
            "train the model of shapes",
            self.steps,
            f"train the video model, which predicts the next frame ({seconds[1]})\n"
            "        bits a frame fall while it learns: how uncertain it is about the next frame",
            self.train_model,
        )

    def draw(self) -> None:
        counts = ["--videos", str(CLIPS), "--held-out", str(HELD_OUT), "--frames", str(FRAMES)]
        invoke("prepare drawn", ["glyphs", "--out", str(self.clips), *counts])

    def train_tokenizer(self) -> None:
        parts = {"videos": "train", "validation": "held_out"}
        data = [
            word
            for key, part in parts.items()
            for word in (f"--data.{key}", json.dumps([str(self.clips / part)]))
        ]
        data += ["--data.buffer", str(CLIPS * FRAMES)]  # so that every clip is read once
        fit("frame_tokenizer_tiny", self.tokenizer, self.frame_steps, data)

    def tokenise(self) -> None:
        codec = ["--frame-tokenizer", str(self.tokenizer / "last.ckpt")]
        prepare_video([str(self.clips / "train"), *codec], self.tokens)

    def train_model(self) -> None:
        data = ["--model.frame_tokenizer", str(self.tokenizer / "last.ckpt")]
        data += ["--data.train", str(self.tokens / "train")]
        fit("video_frames_tiny", self.model, self.steps, data)

    def show(self) -> tuple[str, dict[str, Any]]:
        """Continue the held-out clips; writes the pictures and returns the text and the numbers."""
        model = load_video_model(self.model / "last.ckpt")
        paths = sorted((self.clips / "held_out").iterdir())
        images = torch.stack([clip(path) for path in paths])
        choose = Chooser(temperature=0.7, top_p=0.9, seed=0)
        found = continue_clips(model, images, CONTEXT, choose)
        shown = (x[:SHOWN].numpy() for x in (found.last, found.truth, found.prediction))
        last, truth, prediction = shown
        draw_clips(self.out / "shapes.png", last, truth, prediction, fps=30)
        videos = with_context(images, truth), with_context(images, prediction)
        write_clips(self.out / "shapes.mp4", *videos, fps=30)
        quality = clip_quality(found, AHEAD, FIRST)
        bits = swap(model, images)
        numbers = {"clips": len(images), "quality": quality, "bits_per_frame": bits}
        return self.text(found, quality, bits), numbers

    def text(
        self, found: Continued, quality: dict[str, list[float]], bits: dict[str, float]
    ) -> str:
        head = f"{'PSNR':>28}" + "".join(f"{f'alive at +{n}':>14}" for n in AHEAD)
        rows = [
            f"  {name:<20}{psnr:>6.1f}" + "".join(f"{share:>14.2f}" for share in living)
            for name, (psnr, *living) in quality.items()
        ]
        return "\n".join(
            [
                f"Shapes: {len(found.truth)} clips that no model has seen. {CONTEXT} frames are "
                f"read, {found.truth.shape[1]} are predicted.",
                f"PSNR in dB, mean of the first {FIRST} frames: 15 is a rough guess, 30 looks "
                "nearly the same.",
                "alive: the share of clips whose coloured area is 0.6 to 1.6 times the true one.",
                head,
                *rows,
                f"Bits per frame, by memory: {bits['own']:.1f} with the clip's own, "
                f"{bits['other']:.1f} with another clip's, {bits['fresh']:.1f} with none.",
            ]
        )


def swap(model: VideoCheckpoint, images: Tensor) -> dict[str, float]:
    """Bits per frame after the context, with three memories; of the first clips."""
    assert isinstance(model.network, FrameModel)
    clips, ahead = SWAPPED
    part = images[:clips, : CONTEXT + ahead]
    tokens = torch.stack([model.frame_tokenizer.encode(one) for one in part])
    found = state_swap(model.network, tokens, torch.ones_like(tokens), CONTEXT)
    return {memory: bits["1"] * tokens.shape[2] for memory, bits in found.items()}


def clip(path: Path) -> Tensor:
    """All frames (F, S, S, 3) uint8 of a video."""
    return torch.from_numpy(np.stack([frame.image for frame in VideoReader(path, 64)]))


def with_context(images: Tensor, ahead: np.ndarray) -> np.ndarray:
    """The true context followed by frames (N, F, S, S, 3)."""
    return np.concatenate((images[: len(ahead), :CONTEXT].numpy(), ahead), axis=1)
