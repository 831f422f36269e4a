"""`tttvideo prepare video`: every frame of video files in, one token file out."""

import argparse
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch

from tttvideo.apps.device import best_device
from tttvideo.data.inputs import VIDEO_SUFFIXES, find_files
from tttvideo.data.tokens import Header, token_writer
from tttvideo.data.video.probe import probe
from tttvideo.data.video.reader import VideoReader, stack_images
from tttvideo.progress import progress
from tttvideo.video.frame_codec import FrameCodec
from tttvideo.weights.checkpoints import load_frame_tokenizer


def run(options: argparse.Namespace) -> None:
    inputs, out, end = options.inputs, Path(options.out), options.end
    tokenizer = load_frame_tokenizer(options.frame_tokenizer).to(best_device())
    files = find_files(inputs, VIDEO_SUFFIXES)
    infos = [probe(path) for path in files]
    rates = {round(info.fps, 3) for info in infos}
    header = Header(
        kind="video",
        tokenizer=tokenizer.fingerprint(),
        vocab_size=tokenizer.config.vocab_size,
        grid=tokenizer.config.grid,
        fps=infos[0].fps if len(rates) == 1 else None,
    )
    total = sum(
        info.frames if end is None else min(info.frames, int(end * info.fps)) for info in infos
    )
    frames = 0
    with token_writer(out, header) as writer, progress("tokenising", total, "frames") as advance:
        for path in files:
            writer.start_document()
            for tokens in tokenise(path, tokenizer, end):
                writer.write(tokens)
                advance(len(tokens))
                frames += len(tokens)
        if not frames:
            raise ValueError(f"--end {end} leaves no frame; choose a later one")
    videos = "1 video" if len(files) == 1 else f"{len(files):,} videos"
    print(f"{out}: {frames:,} frames of {videos}, {header.frame} tokens each")


def tokenise(path: Path, tokenizer: FrameCodec, end: float | None) -> Iterator[np.ndarray]:
    """Tokens (N, P) of every frame before `end` seconds, at most 64 frames at a time."""
    device = next(tokenizer.parameters()).device
    frames = VideoReader(path, tokenizer.config.size)
    before_end = takewhile(lambda frame: end is None or frame.time < end, frames)
    for images in stack_images(before_end, 64):
        yield tokenizer.encode(torch.from_numpy(images).to(device)).cpu().numpy()
