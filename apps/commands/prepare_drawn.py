"""`tttvideo prepare drawn WORLD --out DIR`: the options."""

import argparse

from .options import Parser, check_folder, refuse_unless


PROGRAM = "tttvideo.apps.prepare.drawn:run"
WORLDS = {
    "glyphs": "shapes bounce off walls",
    "pan": "a window moves over a world, by actions",
    "flash": "a colour is seen for one frame, and asked for later",
    "code": "symbols are shown, others distract, and the first are repeated",
    "static": "one still picture, to compare with",
}
OWN = {
    "colours": 1,
    "glyphs": 0,
    "cells": 1,
    "texture": 0,
    "wait": 1,
    "symbols": 1,
    "distractors": 0,
}
"""Options that not all worlds have, and their least values."""


def parser() -> argparse.ArgumentParser:
    worlds = "; ".join(f"{name}: {about}" for name, about in WORLDS.items())
    top = Parser(
        prog="tttvideo prepare drawn",
        description="Draw videos whose truth is known: lossless mp4 in the folders train and "
        "held_out. Beside each video stand the ages of what it shows (not of glyphs) and, of pan, "
        "its actions and poses. palette.ckpt is a frame tokenizer that loses nothing, for all "
        "but glyphs and the texture of pan. A run that was stopped resumes when it is started "
        f"again. Worlds: {worlds}.",
        epilog="example: tttvideo prepare drawn flash --videos 500 --out out/flash",
    )
    add = top.add_argument
    add("world", choices=WORLDS, metavar="WORLD", help=", ".join(WORLDS))
    add("--out", required=True, metavar="DIR", help="folder to write")
    add("--videos", type=int, default=1100, metavar="N", help="videos in train (default: 1100)")
    add("--held-out", type=int, default=100, metavar="N", help="others, in held_out (default: 100)")
    add("--frames", type=int, default=64, metavar="N", help="frames of each (default: 64)")
    help = "height and width; a cell is 8 x 8 (default: 64, of pan 32)"
    add("--size", type=int, metavar="PIXELS", help=help)
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers (default: 0)")
    own = top.add_argument_group("options of some worlds").add_argument
    help = "all but glyphs: colours of cells, without greys (default: 8)"
    own("--colours", type=int, metavar="N", help=help)
    own("--glyphs", type=int, metavar="N", help="glyphs: shapes in a video (default: 2)")
    help = "pan: cells along a side of the world, whose ends are joined (default: 6)"
    own("--cells", type=int, metavar="N", help=help)
    help = "pan: a drawn texture in place of cells of one colour; it needs a trained tokenizer"
    own("--texture", action="store_const", const=True, help=help)
    help = "flash: the most frames before a flash and before a question (default: 32)"
    own("--wait", type=int, metavar="N", help=help)
    own("--symbols", type=int, metavar="N", help="code: symbols of a code (default: 4)")
    help = "code: frames between a code and its repetition (default: 16)"
    own("--distractors", type=int, metavar="N", help=help)
    return top


def check(options: argparse.Namespace) -> None:
    check_folder(options.out)
    for name, least in {"videos": 1, "held_out": 0, "frames": 1, "seed": 0, **OWN}.items():
        value = getattr(options, name)
        if value is not None:
            refuse_unless(value >= least, name.replace("_", "-"), value, f"{least} or more")
    check_world(options)


def check_world(options: argparse.Namespace) -> None:
    """Refuse options of other worlds, and sizes that this one cannot have."""
    from tttvideo.data.video.drawn import WORLDS as KNOWN  # imports NumPy

    name, world = options.world, KNOWN[options.world]
    for option in OWN:
        if getattr(options, option) is not None and option not in world.options:
            has = ", ".join(f"--{own}" for own in world.options)
            raise ValueError(f"--{option} is no option of {name}, which has {has}")
    size = options.size or world.size
    refuse_unless(size >= world.least, "size", size, f"{world.least} or more for {name}")
    if "colours" in world.options:
        refuse_unless(size % 8 == 0, "size", size, f"a multiple of 8 for {name}")
    if name == "pan":
        cells = options.cells or world.options["cells"]
        refuse_unless(size <= 8 * cells, "size", size, f"at most {8 * cells}, 8 times --cells")
        if options.texture:
            refuse_unless(cells >= 3, "cells", cells, "3 or more with --texture")
            refuse_unless(
                not options.colours, "colours", options.colours, "left out with --texture"
            )
