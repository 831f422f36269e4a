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
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tttvideo.apps.show.prediction_report import Result
    from tttvideo.data.video.reader import Frame
    from tttvideo.sampling.choose import Choose
    from tttvideo.sampling.decode import Prefix
    from tttvideo.weights.checkpoints import TokenCheckpoint


BATCH = 16  # context frames that are read at once
SHOWN = 30  # the last context frames, shown before the prediction


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tttvideo predict",
        description="Let a video go on. Reads the context, predicts the horizon, and compares it "
        "with what the file has there, if it has.",
        epilog="example: tttvideo predict out/video_tiny/last.ckpt clip.mp4 --horizon 1 "
        "--out out/clip",
    )
    top.add_argument("checkpoint", metavar="CKPT", help="trained by `tttvideo fit` on video")
    top.add_argument("video", metavar="VIDEO", help="video file")
    top.add_argument(
        "--context",
        type=float,
        metavar="SECONDS",
        help="read so much from the beginning (default: all but the horizon)",
    )
    top.add_argument(
        "--horizon", type=float, default=1.0, metavar="SECONDS", help="predict (default: 1)"
    )
    top.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    top.add_argument(
        "--temperature", type=float, default=0.7, help="0 takes the likeliest token (default: 0.7)"
    )
    top.add_argument("--top-k", type=int, default=0, help="keep the k likeliest (default: all)")
    top.add_argument("--top-p", type=float, default=0.9, help="probability to keep (default: 0.9)")
    top.add_argument("--seed", type=int, default=0, help="of the sampling (default: 0)")
    return top


def main(arguments: list[str]) -> None:
    options = parser().parse_args(arguments[1:])
    from tttvideo.apps.show.prediction_report import table
    from tttvideo.sampling.choose import Chooser
    from tttvideo.weights.checkpoints import load_tokens_model

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
    model: "TokenCheckpoint",
    video: Path,
    context: float | None,
    horizon: float,
    out: Path,
    choose: "Choose",
) -> "Result":
    """Read, predict, write prediction.mp4 and compare.mp4; the rest is Result.finish()."""
    from tttvideo.apps.show.prediction_report import Result
    from tttvideo.data.video.reader import VideoReader
    from tttvideo.progress import progress
    from tttvideo.sampling.frame_streams import decode_frames

    from .device import best_device

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


def hear_context(listener: "Listener", frames: Iterator["Frame"], known: int) -> "list[np.ndarray]":
    """Let the model hear the first `known` frames; the last few of them, to be shown."""
    from tttvideo.data.video.reader import batches
    from tttvideo.progress import progress

    last: deque = deque(maxlen=SHOWN)
    with progress("reading the context", known, "frames") as advance:
        for images in batches(islice(frames, known), BATCH):
            listener.hear(images)
            last.extend(images)
            advance(len(images))
    return list(last)


def count_frames(
    times: "np.ndarray", fps: float, context: float | None, horizon: float
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


class Listener:
    """Hears true frames, and notes the bits that each of them cost."""

    def __init__(self, model: "TokenCheckpoint"):
        self.backbone, self.tokenizer = model.backbone, model.frame_tokenizer
        self.bits: list[float] = []
        self.prefix: Prefix | None = None

    def hear(self, images: "np.ndarray") -> "Tensor":
        """images (N, S, S, 3) uint8; their tokens (N, P)."""
        import torch
        from einops import rearrange

        from tttvideo.sampling.decode import score

        device = next(self.backbone.parameters()).device
        tokens = self.tokenizer.encode(torch.from_numpy(images).to(device))
        row = rearrange(tokens, "n p -> 1 (n p)")
        nats, _, self.prefix = score(self.backbone, row, self.prefix)
        bits = rearrange(nats[0] / math.log(2), "(n p) -> n p", n=len(images))
        self.bits += bits.sum(1).tolist()
        return tokens
