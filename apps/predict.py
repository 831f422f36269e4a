"""`tttvideo predict CKPT VIDEO`: continue a video, and compare with the true frames it has.

The video is read frame by frame; the model's state has the same size however long the video is.
"""

import argparse
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from tttvideo.apps.show.prediction_report import PredictionReport, table
from tttvideo.data.video.horizon import split_frames
from tttvideo.data.video.reader import Frame, VideoReader, stack_images
from tttvideo.progress import progress
from tttvideo.sampling.choose import Choose, Chooser
from tttvideo.sampling.frame_streams import FrameReader, decode_frames
from tttvideo.weights.video_checkpoints import VideoCheckpoint, load_video_model

from .device import best_device


BATCH = 16  # context frames that are read at once
KEPT = 30  # the last context frames, which compare.mp4 shows before the prediction


def run(options: argparse.Namespace) -> None:
    report = predict(options)
    print(table(report.metrics))
    print(f"see {report.out}/compare.mp4, {report.out}/sheet.png and {report.out}/metrics.json")


def predict(options: argparse.Namespace) -> PredictionReport:
    """Continue the video that the options name, and write the report."""
    model = load_video_model(options.checkpoint)
    choose = Chooser(options.temperature, options.top_k, options.top_p, options.seed)
    seconds = options.context, options.horizon
    report = continue_video(model, Path(options.video), *seconds, Path(options.out), choose)
    report.finish(vars(options))
    return report


def continue_video(
    model: VideoCheckpoint,
    video: Path,
    context: float | None,
    horizon: float,
    out: Path,
    choose: Choose,
) -> PredictionReport:
    """Read the context and predict the horizon, both in seconds; writes the two videos to `out`."""
    device = best_device()
    network, tokenizer = model.network.to(device), model.frame_tokenizer.to(device)
    source = VideoReader(video, tokenizer.config.size)
    fps = source.info.fps or model.fps or 30.0
    known, ahead = split_frames(source.index.times, fps, context, horizon)
    if model.fps and abs(model.fps / fps - 1) > 0.1:
        print(
            f"note: the model was trained at {model.fps:g} frames per second, and {video} has "
            f"{fps:g}"
        )
    frames, reader = iter(source), FrameReader(network, tokenizer)
    start = time.perf_counter()
    last = read_context(reader, frames, known)
    context_seconds = time.perf_counter() - start
    assert reader.prefix
    with (
        PredictionReport(out, fps, last, ahead) as report,
        progress("predicting", ahead, "frames") as advance,
    ):
        start = time.perf_counter()
        for tokens in decode_frames(network, reader.prefix, ahead, choose):
            prediction = tokenizer.decode(tokens)[0].cpu().numpy()
            truth = next(frames, None)
            if truth is None:
                report.add(prediction)
            else:
                tokenised = tokenizer.decode(reader.read(truth.image[None]))[0].cpu().numpy()
                report.add(prediction, (truth.image, tokenised))
            advance(1)
        seconds = time.perf_counter() - start
    report.about = {
        "bits_per_frame": reader.bits,
        "frames_per_second": {
            "context": known / context_seconds,
            "prediction": ahead / seconds,
        },
        "fps": fps,
        "context_frames": known,
        "horizon_frames": ahead,
        "reader": source.backend,
    }
    return report


def read_context(reader: FrameReader, frames: Iterator[Frame], known: int) -> list[np.ndarray]:
    """Read the first `known` frames; returns the last few of them, (S, S, 3) uint8 each."""
    last: deque[np.ndarray] = deque(maxlen=KEPT)
    with progress("reading the context", known, "frames") as advance:
        for images in stack_images(islice(frames, known), BATCH):
            reader.read(images)
            last.extend(images)
            advance(len(images))
    return list(last)
