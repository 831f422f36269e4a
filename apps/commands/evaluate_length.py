"""`tttvideo evaluate length CKPT... VIDEOS --out DIR`: the options."""

import argparse

from .options import (
    Parser,
    add_seeds,
    check_folder,
    check_videos,
    checkpoint_seeds,
    refuse_unless,
)


PROGRAM = "tttvideo.apps.evaluate.length:evaluate_length"
CONTEXTS = [100, 3000, 30_000, 108_000]


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo evaluate length",
        description="Measure bits per frame against how long a stream is: the last frames of each "
        "video are scored by streams that begin 100, 3,000, 30,000 and 108,000 frames before them, "
        "as far as the videos are long enough; differences are paired, with 95 % intervals over "
        "videos. Beside each stands what the model's own memory is worth: the same with another "
        "video's memory in its place. Memory is constant. Writes length.json, .md and .png; a run "
        "that is started again resumes after the last finished batch of videos.",
        epilog="example: tttvideo evaluate length out/video_pan/last.ckpt out/hours/held_out "
        "--out out/length",
    )
    add_seeds(top)
    help = (
        "a folder of videos, an array or a file; the shortest decides which contexts are measured"
    )
    top.add_argument("data", metavar="VIDEOS", help=help)
    top.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    top.add_argument(
        "--contexts",
        nargs="+",
        type=int,
        default=CONTEXTS,
        metavar="N",
        help="frames before the targets, given after VIDEOS (default: 100 3000 30000 108000)",
    )
    help = "frames at the end of each video that are scored (default: 100)"
    top.add_argument("--targets", type=int, default=100, metavar="N", help=help)
    help = "videos, at most, from the first on (default: all)"
    top.add_argument("--videos", type=int, metavar="N", help=help)
    help = "videos that are read side by side (default: 8)"
    top.add_argument("--batch", type=int, default=8, metavar="N", help=help)
    return top


def check(options: argparse.Namespace) -> None:
    refuse_unless(min(options.contexts) >= 2, "contexts", min(options.contexts), "2 or more")
    refuse_unless(options.targets >= 1, "targets", options.targets, "1 or more")
    refuse_unless(options.batch >= 1, "batch", options.batch, "1 or more")
    videos = options.videos
    refuse_unless(videos is None or videos >= 1, "videos", videos, "1 or more")
    check_folder(options.out)
    checkpoint_seeds(options.checkpoints)
    check_videos(options.data)
