"""`tttvideo prepare glyphs --out DIR`: the options."""

import argparse

from .options import Parser, check_folder, refuse_unless


PROGRAM = "tttvideo.apps.prepare.glyphs:run"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo prepare glyphs",
        description="Draw clips of bouncing shapes, each with shapes, colours and speeds of its "
        "own: an mp4 per clip, in the folders train and held_out.",
        epilog="example: tttvideo prepare glyphs --out out/glyphs",
    )
    add = top.add_argument
    add("--out", required=True, metavar="DIR", help="folder to write")
    add("--clips", type=int, default=1100, metavar="N", help="clips in train (default: 1100)")
    add("--held-out", type=int, default=100, metavar="N", help="others, in held_out (default: 100)")
    add("--frames", type=int, default=64, metavar="N", help="frames of each (default: 64)")
    add("--glyphs", type=int, default=2, metavar="N", help="shapes in a clip (default: 2)")
    add("--size", type=int, default=64, metavar="PIXELS", help="height and width (default: 64)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers (default: 0)")
    return top


def check(options: argparse.Namespace) -> None:
    check_folder(options.out)
    for name, least in {"clips": 1, "held_out": 0, "frames": 1, "glyphs": 0, "size": 24}.items():
        value = getattr(options, name)
        refuse_unless(value >= least, name.replace("_", "-"), value, f"{least} or more")
    refuse_unless(options.seed >= 0, "seed", options.seed, "0 or more")
