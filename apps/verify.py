"""`tttvideo verify CKPT VIDEO`: four properties of a model that reads video as a stream."""

import argparse
import sys
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from textwrap import fill
from typing import Any

import torch

from tttvideo.data.video.reader import stack_images
from tttvideo.data.video.sources import one_video
from tttvideo.files import write_text
from tttvideo.measures.names import video_name
from tttvideo.measures.played import PlayedVideo
from tttvideo.measures.verify import Property, verify
from tttvideo.progress import progress
from tttvideo.video.conditions import Conditions
from tttvideo.weights.video_checkpoints import VideoCheckpoint, load_video_model

from .device import best_device
from .frame_conditions import frame_conditions
from .report import run_conditions, write_record


WIDTH = 100  # columns of the page


def run(options: argparse.Namespace) -> None:
    """Print each property when it is known; exit code 1 unless all hold."""
    device = best_device()
    if device == "cpu":
        torch.set_num_threads(1)  # so that CPU time is that of the model alone
    model = load_video_model(options.checkpoint)
    model.network.to(device)
    video, about = read_video(model, options)
    head = heading(model, options, about, conditions := run_conditions(device))
    print(head, flush=True)
    found, parts = list[Property](), [head]
    for one in verify(model.network, video, options.frames, progress):
        found.append(one)
        parts.append(paragraph(one))
        print(f"\n{parts[-1]}", flush=True)
    failed = [one.name for one in found if not one.holds]
    if options.out:
        record = {**conditions, **about, "properties": [asdict(one) for one in found]}
        write_record(Path(options.out) / "verify.json", record)
        write_text(Path(options.out) / "verify.md", "\n\n".join(parts) + "\n")
    if failed:
        sys.exit(f"tttvideo verify: {options.checkpoint} failed: {', '.join(failed)}")


def read_video(
    model: VideoCheckpoint, options: argparse.Namespace
) -> tuple[PlayedVideo, dict[str, Any]]:
    """The video as tokens, with its conditions, at most as many frames as are asked for."""
    video, tokenizer = one_video(options.video, options.fps), model.frame_tokenizer
    source = video.open(tokenizer.config.size)
    times, fps = source.index.times, source.info.fps or model.fps or 30.0
    count = min(len(times), options.frames)
    given = frame_conditions(model.network, options, video, None, (times, fps), (count, 0))
    tokens, known = [], []
    with progress("reading the video", count, "frames") as advance:
        for images in stack_images(islice(source, count), given.batch):
            known.append(given.read(images))
            tokens.append(tokenizer.encode(torch.from_numpy(images)))
            advance(len(images))
    played = PlayedVideo(torch.cat(tokens).int(), Conditions.join(known))
    about = {
        "checkpoint": options.checkpoint,
        "video": video.name,
        "frames": count,
        "mirrored": played.mirrored,
        "conditions": given.about,
    }
    return played, about


def heading(
    model: VideoCheckpoint,
    options: argparse.Namespace,
    about: dict[str, Any],
    conditions: dict[str, Any],
) -> str:
    config = model.network.config
    name, grid = video_name(config), " x ".join(map(str, config.grid or ()))
    played = (
        "played forward and backward"
        if about["mirrored"]
        else "repeated from its start, with a jump at each repetition, since the model reads "
        "actions and those of the way back are not known"
    )
    lines = [
        f"`{conditions['command']}`",
        f"{conditions['date']}, {conditions['device']}, commit {conditions['commit']}",
        f"{options.checkpoint}: {name}, {grid} tokens a frame",
        f"{about['video']}: {about['frames']:,} frames, {played}",
        *(f"{name}: {where}" for name, where in about["conditions"].items()),
    ]
    return "# tttvideo verify\n\n" + "\n".join(fill(line, WIDTH) for line in lines)


def paragraph(one: Property) -> str:
    verdict = "holds" if one.holds else "FAILED"
    return fill(f"{one.name}: {verdict}. {one.sentence}", WIDTH)
