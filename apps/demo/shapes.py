"""First part of the demo: many clips of bouncing shapes, some of them held out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tttvideo.apps.commands import invoke
from tttvideo.apps.show.demo_sheets import PREDICTION, TRUTH, draw_clips, write_clips
from tttvideo.apps.stages import Stages
from tttvideo.data.tokens import file_hash
from tttvideo.data.video.drawn import empty_background
from tttvideo.measures.continuation_summary import summary
from tttvideo.measures.continuations import ContinuationPlan, Measurement, measure_checkpoint
from tttvideo.measures.continuers import TokensContinue
from tttvideo.measures.memory import state_swap
from tttvideo.measures.perception import Perception
from tttvideo.measures.video_data import OpenedVideo, VideoBatch, encode, open_videos
from tttvideo.video.frame_model import FrameModel
from tttvideo.weights.video_checkpoints import load_video_model

from .training import fit, prepare_video


CLIPS, HELD_OUT, FRAMES = 600, 128, 80
CONTEXT = 16  # frames
FIRST = 16  # predicted frames whose PSNR is averaged
AHEAD = 16, 48  # predicted frames at which shapes are counted as alive
LABELS = {
    "prediction": "prediction",
    "copy": "last frame, repeated",
    "empty": "empty background",
    "tokenizer": "tokenizer alone",
}
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
        path, plan = self.model / "last.ckpt", self.plan
        model = TokensContinue(load_video_model(path))
        videos = plan.fit(open_videos(self.clips / "held_out", model.size))
        empty = empty_background(self.clips, model.size)
        measurement = Measurement(model, plan, Perception(off="the demo measures none"), empty)
        cache = self.out / "measured", "predicting"
        records = measure_checkpoint(measurement, file_hash(path), videos, *cache)
        last, truth, prediction = (
            records[0][f"shown/{name}"] for name in ("last", "truth", "prediction")
        )
        rows = {"truth": (TRUTH, truth), "prediction": (PREDICTION, prediction)}
        draw_clips(self.out / "shapes.png", last[:, 0], rows, fps=30)
        before = VideoBatch(videos[: len(truth)]).read(CONTEXT).images.numpy()
        whole = [np.concatenate((before, ahead), axis=1) for ahead in (truth, prediction)]
        write_clips(self.out / "shapes.mp4", whole[0], whole[1], fps=30)
        quality = clip_quality(summary(records, plan))
        bits = swap(model, videos)
        numbers = {"clips": len(videos), "quality": quality, "bits_per_frame": bits}
        return self.text(len(videos), quality, bits), numbers

    @property
    def plan(self) -> ContinuationPlan:
        return ContinuationPlan(
            CONTEXT,
            FRAMES - CONTEXT,
            samples=1,
            temperature=0.7,
            top_p=0.9,
            perceived=0,
            batch=32,
        )

    def text(self, clips: int, quality: dict[str, list[float]], bits: dict[str, float]) -> str:
        head = f"{'PSNR':>28}" + "".join(f"{f'alive at +{n}':>14}" for n in AHEAD)
        rows = [
            f"  {name:<20}{psnr:>6.1f}" + "".join(f"{share:>14.2f}" for share in living)
            for name, (psnr, *living) in quality.items()
        ]
        return "\n".join(
            [
                f"Shapes: {clips} clips that no model has seen. {CONTEXT} frames are "
                f"read, {FRAMES - CONTEXT} are predicted.",
                f"PSNR in dB, mean of the first {FIRST} frames: 15 is a rough guess, 30 looks "
                "nearly the same.",
                "alive: the share of clips whose coloured area is 0.6 to 1.6 times the true one.",
                head,
                *rows,
                f"Bits per frame, by memory: {bits['own']:.1f} with the clip's own, "
                f"{bits['other']:.1f} with another clip's, {bits['fresh']:.1f} with none.",
            ]
        )


def clip_quality(found: dict[str, Any]) -> dict[str, list[float]]:
    """By prediction and control: mean PSNR of the FIRST frames, then the share of clips alive."""
    psnr = {who: x["psnr"]["mean"][:FIRST] for who, x in found["by_horizon"]["raw"].items()}
    return {
        label: [sum(psnr[who]) / len(psnr[who]), *(found["alive"][who][n - 1] for n in AHEAD)]
        for who, label in LABELS.items()
    }


def swap(model: TokensContinue, videos: list[OpenedVideo]) -> dict[str, float]:
    """Bits per frame after the context, with three memories; of the first clips."""
    assert isinstance(model.network, FrameModel)
    clips, ahead = SWAPPED
    part = VideoBatch(videos[:clips], model.network).read(CONTEXT + ahead)
    tokens = encode(model.codec, part.images)
    found = state_swap(model.network, tokens, torch.ones_like(tokens), CONTEXT)
    return {memory: bits["1"] * tokens.shape[2] for memory, bits in found.items()}
