"""`tttvideo prepare pan --out DIR`: the options."""

import argparse

from .options import Parser, check_folder, refuse_unless


PROGRAM = "tttvideo.apps.prepare.pan:run"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo prepare pan",
        description="Draw worlds of coloured cells, each seen through a window that actions move, "
        "as tokens with actions, poses, and the age of what each token shows: data to learn memory "
        "from. Writes tokens.bin, its arrays, and palette.ckpt, the frame tokenizer.",
        epilog="example: tttvideo prepare pan --worlds 4000 --out out/pan",
    )
    add = top.add_argument
    add("--out", required=True, metavar="DIR", help="folder to write")
    help = "worlds, a video each (default: 4000)"
    add("--worlds", type=int, default=4000, metavar="N", help=help)
    add("--frames", type=int, default=64, metavar="N", help="frames of each (default: 64)")
    help = "cells along a side of a world, whose ends are joined (default: 6)"
    add("--size", type=int, default=6, metavar="N", help=help)
    add("--colours", type=int, default=8, metavar="N", help="colours of a cell (default: 8)")
    help = "cells along a side of the window (default: 4)"
    add("--view", type=int, default=4, metavar="N", help=help)
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers (default: 0)")
    return top


def check(options: argparse.Namespace) -> None:
    check_folder(options.out)
    for name in ("worlds", "frames", "colours", "view"):
        value = getattr(options, name)
        refuse_unless(value >= 1, name, value, "1 or more")
    refuse_unless(options.view <= options.size, "view", options.view, "at most --size")
    refuse_unless(options.seed >= 0, "seed", options.seed, "0 or more")
