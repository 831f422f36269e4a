"""`tttvideo prepare maze --out DIR`: the options."""

import argparse
from importlib.util import find_spec

from tttvideo.data.cores import cores

from .options import Parser, check_folder, refuse_unless


PROGRAM = "tttvideo.apps.prepare.maze:run"
LARGEST, MOST_CELLS = 480, 100  # as in tttvideo.data.video.mazes_doom


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo prepare maze",
        description="Walk through mazes, each new and with walls of its own, drawn by Doom: a "
        "lossless mp4 for each, in the folders train and held_out. Beside clip.mp4 lie "
        "clip.actions.npy (0 stay, 1 step forward, 2 turn left, 3 turn right: what leads to the "
        "next frame) and clip.poses.npy (x, y in cells, angle in degrees). sheet.png shows places "
        "that return. The same seed gives the same files. A run that was stopped resumes when it "
        "is started again.",
        epilog="example: tttvideo prepare maze --videos 100 --out out/mazes",
    )
    add = top.add_argument
    add("--out", required=True, metavar="DIR", help="folder to write")
    add("--videos", type=int, default=200, metavar="N", help="videos in train (default: 200)")
    add("--held-out", type=int, default=20, metavar="N", help="others, in held_out (default: 20)")
    help = "frames of each, 35 a second (default: 1000)"
    add("--frames", type=int, default=1000, metavar="T", help=help)
    add("--size", type=int, default=64, metavar="PIXELS", help="height and width (default: 64)")
    help = "cells along a side of a maze; fewer are seen again sooner (default: 4)"
    add("--cells", type=int, default=4, metavar="C", help=help)
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers (default: 0)")
    help = "processes (default: one per core)"
    add("--workers", type=int, default=cores(), metavar="W", help=help)
    return top


def check(options: argparse.Namespace) -> None:
    check_folder(options.out)
    least = {"videos": 1, "held_out": 0, "frames": 1, "size": 8, "cells": 2, "workers": 1}
    for name, bound in least.items():
        value = getattr(options, name)
        refuse_unless(value >= bound, name.replace("_", "-"), value, f"{bound} or more")
    refuse_unless(options.size <= LARGEST, "size", options.size, f"at most {LARGEST}")
    refuse_unless(options.cells <= MOST_CELLS, "cells", options.cells, f"at most {MOST_CELLS}")
    refuse_unless(options.seed >= 0, "seed", options.seed, "0 or more")
    if find_spec("vizdoom") is None:
        raise ValueError("mazes need ViZDoom; use pip install 'tttvideo[doom]'")
