"""`tttvideo compress` and `decompress`: a model of video as a lossless codec of its tokens."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tttvideo.data.tokens import Header, token_writer
from tttvideo.data.video.writer import write_video
from tttvideo.files import replacing
from tttvideo.measures.token_batches import token_batches
from tttvideo.progress import progress
from tttvideo.sampling import frame_coder
from tttvideo.sampling.code_file import CodeFile, CodeHeader
from tttvideo.sampling.frame_coder import TokenBatch
from tttvideo.weights.video_checkpoints import VideoCheckpoint, load_video_model

from .device import best_device


FPS = 25.0  # of an mp4 whose rate nobody knows


def compress(options: argparse.Namespace) -> None:
    model = ready_model(options.checkpoint)
    batches = token_batches(options.data, model)
    sizes = write_code(model, batches, Path(options.out))
    frames = count(batches)
    print(
        f"{options.out}: {frames:,} frames; tokens {sizes['code']:,} bytes, "
        f"{8 * sizes['code'] / frames:.4g} bits per frame; conditions {sizes['conditions']:,} "
        f"bytes, header {sizes['header']:,} bytes"
    )


def decompress(options: argparse.Namespace) -> None:
    model = ready_model(options.checkpoint)
    found = read_code(model, options.code, options.file)
    write_videos(Path(options.out), found, options.code.header, model)
    print(f"{options.out}: {sum(x.shape[0] * x.shape[1] for x in found):,} frames")


def ready_model(path: str) -> VideoCheckpoint:
    """A model where it runs; one CPU thread, because the number of threads changes how sums are
    rounded."""
    torch.set_num_threads(1)
    model = load_video_model(path)
    model.network.to(best_device())
    model.frame_tokenizer.to(best_device())
    return model


def count(batches: Sequence[TokenBatch]) -> int:
    """Frames of all videos."""
    return sum(batch.frames.shape[0] * batch.frames.shape[1] for batch in batches)


def write_code(model: VideoCheckpoint, batches: Sequence[TokenBatch], path: Path) -> dict[str, int]:
    """Compress videos into a file; the bytes of its parts."""
    with progress("compressing", count(batches), "frames") as advance:
        return frame_coder.compress(model, batches, advance).write(path)


def read_code(model: VideoCheckpoint, code: CodeFile, path: str | Path) -> list[Tensor]:
    """The tokens (B, F, P) of each batch in a file."""
    total = sum(videos * frames for videos, frames in code.header.batches)
    with progress("decompressing", total, "frames") as advance:
        try:
            return frame_coder.decompress(model, code, advance)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def write_videos(
    out: Path, batches: Sequence[Tensor], header: CodeHeader, model: VideoCheckpoint
) -> None:
    """Write all videos as a token file, or one as frames."""
    if out.suffix == ".bin":
        facts = header.tokenizer, header.vocab_size, header.grid, header.fps
        with token_writer(out, Header("video", *facts)) as writer:
            for video in (video for batch in batches for video in batch):
                writer.start_document()
                writer.write(video.numpy())
        return
    device = model.network.embedding.weight.device
    parts = batches[0][0].to(device).split(16)
    images = np.concatenate([model.frame_tokenizer.decode(part).cpu().numpy() for part in parts])
    if out.suffix == ".mp4":
        return write_video(out, images, header.fps or FPS)
    with replacing(out) as partial, open(partial, "wb") as file:
        np.save(file, images)
