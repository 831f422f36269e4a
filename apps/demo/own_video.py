"""The demo on a video of the user's: learn its beginning, and predict its end.

A part before the held-out end says when to stop learning, or a short video is learned by heart.
"""

import json
from pathlib import Path
from typing import Any

from tttvideo.apps.commands import parse
from tttvideo.apps.predict import predict
from tttvideo.apps.stages import Stages
from tttvideo.data.video.conditions import find_condition
from tttvideo.data.video.sources import one_video

from .training import fit, prepare_video


HELD_OUT = 64  # frames at the end that no model learns from, or a fifth of a shorter video
CHECKED = 33  # frames before these that are not learned from either, or an eighth of a longer video
COPIES = 5  # altered views of the video, besides itself
MOVING = "actions", "poses", "ages"  # conditions that altered views would not fit
CHECKS, PATIENCE = 10, 3  # validations in the course of training; those without a better one
FIRST = 16  # predicted frames of the table


class OwnVideo:
    """The stages for one video.

    learned, end: seconds where the frames for early stopping, and those held out, begin.
    file: the path, size and time of change of the video, by which stages know it again.
    """

    def __init__(self, video: Path, out: Path, frame_steps: int, steps: int):
        self.video, self.out = video, out
        self.frame_steps, self.steps = frame_steps, steps
        self.tokenizer, self.model = out / "frame_tokenizer", out / "model"
        self.tokens, self.checked = out / "tokens", out / "validation"
        reader = one_video(video).open(64)
        self.times, self.fps = reader.index.times, reader.info.fps or 30.0
        self.held_out = min(HELD_OUT, len(self.times) // 5)
        self.known = len(self.times) - self.held_out
        self.taught = self.known - max(CHECKED, self.known // 8)
        self.learned, self.end = (self.before(n) for n in (self.taught, self.known))
        self.file = [str(video.resolve()), video.stat().st_size, video.stat().st_mtime_ns]

    def before(self, frame: int) -> float:
        """Seconds between a frame and the one before it."""
        return float(self.times[frame - 1] + self.times[frame]) / 2

    def train(self, stages: Stages, seconds: tuple[str, str]) -> None:
        stages.do(
            "train the frame tokenizer",
            [self.file, self.frame_steps],
            "train the frame tokenizer, a model that turns a frame into 64 numbers, its tokens, "
            f"and back (at most {seconds[0]})\n"
            "        loss falls while it learns; dB rises: a decoded frame gets closer to the true "
            "one",
            self.train_tokenizer,
        )
        stages.do(
            "turn frames into tokens",
            [self.file, self.end],
            f"turn all frames into tokens, except the last {self.held_out} (30 s)",
            self.tokenise,
        )
        stages.do(
            "train the video model",
            [self.file, self.steps],
            f"train the video model, which predicts the next frame (at most {seconds[1]})\n"
            "        bits a frame fall while it learns: how uncertain it is about the next frame",
            self.train_model,
        )

    def train_tokenizer(self) -> None:
        data = ["--data.videos", json.dumps([str(self.video)]), "--data.end", str(self.end)]
        data += ["--data.views", "true", "--data.holdout", "0.1"]
        fit("frame_tokenizer_tiny", self.tokenizer, self.frame_steps, data, CHECKS, PATIENCE)

    def tokenise(self) -> None:
        codec = ["--frame-tokenizer", str(self.tokenizer / "last.ckpt")]
        known = any(find_condition(self.video, name) for name in MOVING)
        train = ["--end", str(self.learned), "--augment", str(0 if known else COPIES)]
        checks = ["--start", str(self.learned), "--end", str(self.end)]
        for part, out in ((train, self.tokens), (checks, self.checked)):
            prepare_video([str(self.video), *codec, *part], out)

    def train_model(self) -> None:
        data = ["--model.frame_tokenizer", str(self.tokenizer / "last.ckpt")]
        data += ["--data.train", str(self.tokens / "train")]
        data += ["--data.validation", str(self.checked / "train")]
        data += ["--model.frame_model.head.copy_last", "true"]
        fit("video_frames_tiny", self.model, self.steps, data, CHECKS, PATIENCE)

    def show(self) -> tuple[str, dict[str, Any]]:
        """Predict the held-out end; returns the text and the numbers."""
        paths = [str(self.model / "last.ckpt"), str(self.video), "--out", str(self.out)]
        times = ["--context", str(self.end), "--horizon", str(self.held_out / self.fps)]
        found = predict(parse("predict", [*paths, *times])).metrics
        psnr, bits = found["psnr"], found["bits_per_frame"]
        names = {
            "prediction": "the prediction",
            "copy_last": "no model: the last frame that was read, repeated",
            "copy_tokenised": "the same, as the frame tokenizer gives it back",
            "tokenizer": "the true frame, as the frame tokenizer gives it back: the best that the "
            "model could reach",
        }
        count = min(FIRST, self.held_out)
        rows = [
            f"  {psnr[name][0]:5.1f}  {mean(psnr[name][1:count]):5.1f}  {about}"
            for name, about in names.items()
        ]
        parts = {
            "learned": bits[1 : self.taught],
            "held out, to stop learning in time": bits[self.taught : self.known],
            "never seen": bits[self.known :],
        }
        costs = [f"  {mean(part):7.1f}  frames that were {name}" for name, part in parts.items()]
        lines = [
            f"The last {self.held_out / self.fps:.1f} seconds of the video, predicted. PSNR in dB "
            "(15 is a rough guess, 30 looks nearly the same)",
            f"of frame +1, and of frames +2 to +{count}:",
            *rows,
            "Bits per frame, how uncertain the model is about the next frame:",
            *costs,
        ]
        return "\n".join(lines), {"bits": {name: mean(part) for name, part in parts.items()}}


def mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))
