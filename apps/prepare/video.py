"""`tttvideo prepare video`: every frame of video files in, one token file out."""

import argparse
from pathlib import Path

import numpy as np
import torch

from tttvideo.apps.device import best_device
from tttvideo.data.inputs import VIDEO_SUFFIXES, find_files
from tttvideo.data.tokens import Header, token_writer
from tttvideo.data.video.camera import CameraPose
from tttvideo.data.video.probe import VideoInfo, probe
from tttvideo.data.video.views import copies
from tttvideo.progress import progress
from tttvideo.video.frame_codec import PATCH, FrameCodec
from tttvideo.weights.checkpoints import load_frame_tokenizer


def run(options: argparse.Namespace) -> None:
    out, between = Path(options.out), (options.start, options.end)
    tokenizer = load_frame_tokenizer(options.frame_tokenizer).to(best_device())
    files = find_files(options.inputs, VIDEO_SUFFIXES)
    infos = [probe(path) for path in files]
    header = Header(
        kind="video",
        tokenizer=tokenizer.fingerprint(),
        vocab_size=tokenizer.config.vocab_size,
        grid=tokenizer.config.grid,
        fps=infos[0].fps if len({round(info.fps, 3) for info in infos}) == 1 else None,
        conditions=("poses",) if options.camera_shift else (),
        copies=options.augment > 0,
    )
    total = sum(frames_between(info, *between) for info in infos) * (1 + options.augment)
    frames = 0
    with token_writer(out, header) as writer, progress("tokenising", total, "frames") as advance:
        for copy in copies(files, options.augment, options.seed):
            writer.start_document()
            pose = CameraPose() if options.camera_shift else None
            for images in copy.images(tokenizer.config.size, *between):
                writer.write(encode(tokenizer, images), **poses(pose, images))
                advance(len(images))
                frames += len(images)
        if not frames:
            raise ValueError(
                f"{between[0]} to {between[1]} s hold no frame; change --start or --end"
            )
    videos = "1 video" if len(files) == 1 else f"{len(files):,} videos"
    more = f" and {options.augment} other views of each" if options.augment else ""
    print(f"{out}: {frames:,} frames of {videos}{more}, {header.frame} tokens each")


def frames_between(info: VideoInfo, start: float, end: float) -> int:
    """The number of frames from `start` to `end` seconds, about."""
    return int(min(info.frames, end * info.fps) - min(info.frames, start * info.fps))


def encode(tokenizer: FrameCodec, images: np.ndarray) -> np.ndarray:
    """Tokens (N, P) of images (N, S, S, 3)."""
    return tokenizer.encode(torch.from_numpy(images).to(best_device())).cpu().numpy()


def poses(pose: CameraPose | None, images: np.ndarray) -> dict[str, np.ndarray]:
    """The poses (N, 2) of images, in patches, if they are wanted."""
    return {"poses": np.stack([pose(image) for image in images]) / PATCH} if pose else {}
