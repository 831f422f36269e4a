"""`tttvideo predict CKPT VIDEO`: continue a video, and compare with the true frames it has.

The video is read frame by frame; the model's state has the same size however long the video is.
"""

import argparse
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torchvision.utils import make_grid

from tttvideo.apps.show.prediction_report import PredictionReport, table
from tttvideo.data.video.horizon import split_frames
from tttvideo.data.video.reader import Frame, stack_images
from tttvideo.data.video.sources import one_video
from tttvideo.data.video.writer import video_writer
from tttvideo.progress import progress
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.frame_streams import FrameReader, decode_frames, fork
from tttvideo.sampling.saved_states import SavedState, load_state_file, save_state_file
from tttvideo.weights.video_checkpoints import VideoCheckpoint, load_video_model

from .device import best_device
from .frame_conditions import FrameConditions, frame_conditions


KEPT = 30  # the last context frames, which compare.mp4 shows before the prediction


def run(options: argparse.Namespace) -> None:
    report = predict(options)
    print(table(report.metrics))
    print(f"see {report.out}/compare.mp4, {report.out}/sheet.png and {report.out}/metrics.json")


def predict(options: argparse.Namespace) -> PredictionReport:
    """Continue the video that the options name, and write the report."""
    model = load_video_model(options.checkpoint)
    report = continue_video(model, options)
    report.finish(vars(options))
    return report


def continue_video(model: VideoCheckpoint, options: argparse.Namespace) -> PredictionReport:
    """Read the context and predict the horizon; writes the videos and the state."""
    video = one_video(options.video, options.fps)
    out, device = Path(options.out), best_device()
    choose = Chooser(options.temperature, options.top_k, options.top_p, options.seed)
    network, tokenizer = model.network.to(device), model.frame_tokenizer.to(device)
    source = video.open(tokenizer.config.size)
    fps, times = source.info.fps or model.fps or 30.0, source.index.times
    known, ahead = split_frames(times, fps, options.context, options.horizon)
    warn_of_rate(model.fps, video.name, fps)
    frames, reader = iter(source), FrameReader(network, tokenizer)
    saved = load_state_file(options.load_state, network) if options.load_state else None
    conditions = frame_conditions(network, options, video, saved, (times, fps), (known, ahead))
    if saved:
        reader.prefix = saved.prefix
    start = time.perf_counter()
    last = read_context(reader, frames, known, conditions)
    copy = tokenizer.decode(tokenizer.encode(torch.from_numpy(last[-1][None]).to(device)))[0]
    context_seconds = time.perf_counter() - start
    if options.save_state:
        read = known * math.prod(tokenizer.config.grid) + (saved.tokens if saved else 0)
        state = SavedState(reader.prefix, read, camera=conditions.to_plain())
        save_state_file(state, network, options.save_state)
    prefix = fork(reader.prefix, options.futures)
    to_come = conditions.ahead(ahead, options.futures).to(device)
    with (
        PredictionReport(out, fps, last, copy.cpu().numpy(), ahead) as report,
        futures_writer(out, fps, options.futures) as write_futures,
        progress("predicting", ahead, "frames") as advance,
    ):
        start = time.perf_counter()
        for tokens in decode_frames(network, prefix, ahead, choose, to_come):
            futures = tokenizer.decode(tokens).cpu()
            write_futures(futures)
            prediction = futures[0].numpy()
            truth = next(frames, None)
            if truth is None:
                report.add(prediction)
            else:
                tokens = reader.read(truth.image[None], conditions.read([truth.image]))
                tokenised = tokenizer.decode(tokens)[0].cpu().numpy()
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
        "conditions": conditions.about,
        "reader": f"{source.backend}: {source.reason}",
    }
    return report


def warn_of_rate(trained: float | None, name: str, fps: float) -> None:
    if trained and abs(trained / fps - 1) > 0.1:
        print(
            f"note: the model was trained at {trained:g} frames per second, and {name} has {fps:g}"
        )


@contextmanager
def futures_writer(out: Path, fps: float, count: int) -> Iterator[Callable[[Tensor], None]]:
    """A function that writes frames (N, S, S, 3) side by side to futures.mp4, if there are more."""
    if count == 1:
        yield lambda _: None
        return
    with video_writer(out / "futures.mp4", fps) as writer:

        def write(images: Tensor) -> None:
            grid = make_grid(rearrange(images, "n h w c -> n c h w"), nrow=min(count, 4))
            writer.write(rearrange(grid, "c h w -> h w c").numpy())

        yield write


def read_context(
    reader: FrameReader, frames: Iterator[Frame], known: int, conditions: FrameConditions
) -> list[np.ndarray]:
    """Read the first `known` frames; returns the last few of them, (S, S, 3) uint8 each."""
    last: deque[np.ndarray] = deque(maxlen=KEPT)
    with progress("reading the context", known, "frames") as advance:
        for images in stack_images(islice(frames, known), conditions.batch):
            reader.read(images, conditions.read(images))
            last.extend(images)
            advance(len(images))
    return list(last)
