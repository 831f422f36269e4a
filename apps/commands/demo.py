"""`tttvideo demo`: the options."""

import argparse
from pathlib import Path

from .options import Parser, check_folder, check_video


PROGRAM = "tttvideo.apps.demo:run"
FEWEST = 24  # frames: two windows of video_tiny, for training and validation, and the end


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo demo",
        description="Train a small model on one video and let it predict the end of the video, "
        "which it has not seen. Without --video, a video of bouncing shapes is drawn. Finished "
        "stages are not repeated when the command is started again.",
        epilog="example: tttvideo demo --video clip.mp4",
    )
    add = top.add_argument
    add("--video", metavar="FILE", help="train on this video (default: draw one)")
    add("--out", metavar="DIR", help="folder to write to (default: out/demo or out/demo_NAME)")
    add("--fresh", action="store_true", help="repeat finished stages too")
    help = "training steps of the frame tokenizer and of the video model (default: 2000 1600)"
    steps, names = (2000, 1600), ("FRAMES", "TOKENS")
    add("--steps", type=int, nargs=2, default=steps, metavar=names, help=help)
    return top


def check(options: argparse.Namespace) -> None:
    if min(options.steps) < 1:
        raise ValueError(f"--steps {options.steps[0]} {options.steps[1]} must both be 1 or more")
    if options.out:
        check_folder(options.out)
    if options.video:
        check_video(options.video)
        check_length(options.video)


def check_length(video: str) -> None:
    from tttvideo.data.video.reader import VideoReader

    count = len(VideoReader(Path(video), 64).index.times)
    if count < FEWEST:
        raise ValueError(f"{video} has {count} frames; the demo needs at least {FEWEST}")
