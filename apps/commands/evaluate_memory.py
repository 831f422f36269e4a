"""`tttvideo evaluate memory [NAME=]CKPT... VIDEOS --out DIR`: the options."""

import argparse

from .options import (
    Parser,
    add_numbers,
    add_seeds,
    check_folder,
    check_numbers,
    check_videos,
    checkpoint_seeds,
    refuse_unless,
)


PROGRAM = "tttvideo.apps.evaluate.memory:evaluate_memory"
NUMBERS = {
    "swaps": (4, 1, "frames of each video at which memories are replaced"),
    "scored": (16, 1, "frames scored after each of them"),
    "last": (16, 1, "frames that the cut memory has read"),
}
LENGTHS = {
    "place": (0.25, "length of a cell of poses on x and y, in their unit"),
    "turn": (11.25, "degrees of a cell of poses"),
}
"""Options with a length: their default and help."""


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo evaluate memory",
        description="Measure what trained frame models remember of videos: bits per token by the "
        "frames since what a token shows was last seen. Memories are replaced in the second half "
        "of each video, by another video's, by a fresh one, and by one that has read the last "
        "frames alone. What is seen again is in clip.ages.npy beside clip.mp4, or is a pose (x, y, "
        "angle in clip.poses.npy) of a cell that the walk had left. A model with mixer null, which "
        "sees its window alone, is the control: its difference between first and later sights is "
        "taken from that of the others. Writes memory.json, .md and .png. A run that is started "
        "again resumes where it stopped.",
        epilog="example: tttvideo evaluate memory ttt=out/pan_0/last.ckpt ttt=out/pan_1/last.ckpt "
        "window=out/window/last.ckpt out/pan/held_out --out out/memory",
    )
    add_seeds(top)
    top.add_argument("data", metavar="VIDEOS", help="folder of videos, file or glob")
    top.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    help = "frames of each video that are read (default: those of the shortest)"
    top.add_argument("--frames", type=int, metavar="N", help=help)
    help = "videos, at most, from the first on (default: 32)"
    top.add_argument("--videos", type=int, default=32, metavar="N", help=help)
    add_numbers(top, NUMBERS)
    for name, (length, text) in LENGTHS.items():
        text += f" (default: {length})"
        top.add_argument(f"--{name}", type=float, default=length, metavar="X", help=text)
    return top


def check(options: argparse.Namespace) -> None:
    check_numbers(options, NUMBERS)
    for name in LENGTHS:
        value = getattr(options, name)
        refuse_unless(value > 0, name, value, "above 0")
    refuse_unless(options.turn <= 360, "turn", options.turn, "at most 360")
    videos = options.videos
    refuse_unless(videos >= 2, "videos", videos, "2 or more, since their memories are swapped")
    frames = options.frames
    refuse_unless(frames is None or frames >= 4, "frames", frames, "4 or more")
    checkpoint_seeds(options.checkpoints)
    check_folder(options.out)
    check_videos(options.data)
