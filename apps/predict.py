"""`tttvideo predict CKPT VIDEO`: a video goes on, measured where the file has the truth.

The video is read frame by frame; the model's state has the same size however long it is.

H frames of the horizon, S pixels of height and width, P tokens per frame.
"""

import argparse
import math
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from tttvideo.apps.device import best_device
from tttvideo.apps.show.prediction_report import Result, table
from tttvideo.data.video.reader import Frame, VideoReader, batches
from tttvideo.progress import progress
from tttvideo.sampling.choose import Choose, Chooser
from tttvideo.sampling.decode import Prefix, score
from tttvideo.sampling.frame_streams import decode_frames
from tttvideo.weights.checkpoints import TokenCheckpoint, load_tokens_model


BATCH = 16  # context frames that are read at once
SHOWN = 30  # the last context frames, shown before the prediction


class Listener:
    """Hears true frames, and notes the bits that each of them cost."""

    def __init__(self, model: TokenCheckpoint):
        self.backbone, self.tokenizer = model.backbone, model.frame_tokenizer
        self.bits: list[float] = []
        self.prefix: Prefix | None = None

    def hear(self, images: np.ndarray) -> Tensor:
        """images (N, S, S, 3) uint8; their tokens (N, P)."""

        device = next(self.backbone.parameters()).device
        tokens = self.tokenizer.encode(torch.from_numpy(images).to(device))
        row = rearrange(tokens, "n p -> 1 (n p)")
        nats, _, self.prefix = score(self.backbone, row, self.prefix)
        bits = rearrange(nats[0] / math.log(2), "(n p) -> n p", n=len(images))
        self.bits += bits.sum(1).tolist()
        return tokens


def run(options: argparse.Namespace) -> None:
    model = load_tokens_model(options.checkpoint)
    if model.frame_tokenizer is None:
        raise ValueError(f"{options.checkpoint} is a model of text; `tttvideo generate` runs it")
    choose = Chooser(options.temperature, options.top_k, options.top_p, options.seed)
    result = predict(
        model, Path(options.video), options.context, options.horizon, Path(options.out), choose
    )
    result.finish(vars(options))
    print(table(result.metrics))
    print(f"see {result.out}/compare.mp4, {result.out}/sheet.png and {result.out}/metrics.json")


def predict(
    model: TokenCheckpoint,
    video: Path,
    context: float | None,
    horizon: float,
    out: Path,
    choose: Choose,
) -> Result:
    """Read, predict, write prediction.mp4 and compare.mp4; the rest is Result.finish()."""

    out.mkdir(parents=True, exist_ok=True)
    device = best_device()
    backbone = model.backbone.to(device)
    tokenizer = model.frame_tokenizer.to(device)
    reader = VideoReader(video, tokenizer.config.size)
    fps = reader.info.fps or model.fps or 30.0
    known, ahead = count_frames(reader.index.times, fps, context, horizon)
    if model.fps and abs(model.fps / fps - 1) > 0.1:
        print(
            f"note: the model learned at {model.fps:g} frames per second, and {video} has {fps:g}"
        )
    frames = iter(reader)
    listener = Listener(model)
    start = time.perf_counter()
    last = hear_context(listener, frames, known)
    context_seconds = time.perf_counter() - start
    with (
        Result(out, fps, last, ahead) as result,
        progress("predicting", ahead, "frames") as advance,
    ):
        start = time.perf_counter()
        for tokens in decode_frames(backbone, listener.prefix, ahead, choose):
            prediction = tokenizer.decode(tokens)[0].cpu().numpy()
            truth = next(frames, None)
            if truth is None:
                result.add(prediction, None, None)
            else:
                ceiling = tokenizer.decode(listener.hear(truth.image[None]))[0].cpu().numpy()
                result.add(prediction, truth.image, ceiling)
            advance(1)
        seconds = time.perf_counter() - start
    result.about = {
        "bits_per_frame": listener.bits,
        "frames_per_second": {
            "context": known / context_seconds,
            "prediction": ahead / seconds,
        },
        "fps": fps,
        "context_frames": known,
        "horizon_frames": ahead,
        "reader": reader.backend,
    }
    return result


def hear_context(listener: Listener, frames: Iterator[Frame], known: int) -> list[np.ndarray]:
    """Let the model hear the first `known` frames; the last few of them, to be shown."""

    last: deque = deque(maxlen=SHOWN)
    with progress("reading the context", known, "frames") as advance:
        for images in batches(islice(frames, known), BATCH):
            listener.hear(images)
            last.extend(images)
            advance(len(images))
    return list(last)


def count_frames(
    times: np.ndarray, fps: float, context: float | None, horizon: float
) -> tuple[int, int]:
    """Frames of the context and of the horizon; ValueError where there is nothing to read."""
    there, ahead = len(times), round(min(horizon, 1e6) * fps)
    if ahead < 1:
        raise ValueError(f"--horizon {horizon} is less than a frame at {fps:g} frames per second")
    if context is None:
        return (there - ahead if there > ahead else there), ahead
    known = int((times < context).sum())
    if known < 1:
        raise ValueError(f"--context {context} holds no frame; choose a longer one")
    return known, ahead
