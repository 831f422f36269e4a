"""`tttvideo evaluate memory --out DIR`: the options."""

import argparse

from .options import Parser, check_folder, refuse_unless


PROGRAM = "tttvideo.apps.evaluate.memory:evaluate_memory"
MEMORIES = (
    *("ttt_linear", "ttt_mlp", "attention", "mamba"),
    *("linear_attention", "gated_delta", "window"),
)
"""The keys of tttvideo.measures.pan_mixers.MEMORIES, without torch."""
SETTINGS = {
    "size": (6, 1, "cells around the world, a torus"),
    "colours": (8, 2, "colours of the cells"),
    "view": (4, 1, "cells along a side of the window, which is a frame"),
    "seen": (128, 2, "frames that are read before the states are swapped"),
    "worlds": (32, 2, "worlds that are measured"),
}
"""Options with a number: their default, the least that is allowed, and help."""


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo evaluate memory",
        description="Train small frame models on worlds seen through a moving window, one for each "
        "memory, for equal CPU time on one thread, and measure bits per token by the frames since "
        "a cell was last seen: with a world's own state, with another world's, with a fresh one. "
        "Writes memory.json, .md and .png. A run that is started again resumes where it stopped.",
        epilog="example: tttvideo evaluate memory --seconds 60 --out out/memory",
    )
    top.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    top.add_argument(
        "--memories",
        nargs="+",
        choices=MEMORIES,
        default=list(MEMORIES),
        metavar="NAME",
        help=f"what to train (default: all of {' '.join(MEMORIES)})",
    )
    top.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1, 2],
        metavar="N",
        help="of the runs of each memory (default: 0 1 2)",
    )
    top.add_argument(
        "--seconds", type=float, default=60.0, metavar="S", help="CPU time of a run (default: 60)"
    )
    for name, (default, _, text) in SETTINGS.items():
        text += f" (default: {default})"
        top.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)
    return top


def check(options: argparse.Namespace) -> None:
    for name, (_, least, _) in SETTINGS.items():
        value = getattr(options, name)
        refuse_unless(value >= least, name, value, f"{least} or more")
    refuse_unless(options.view <= options.size, "view", options.view, f"at most {options.size}")
    refuse_unless(options.seconds > 0, "seconds", options.seconds, "above 0")
    refuse_unless(min(options.seeds) >= 0, "seeds", min(options.seeds), "0 or more")
    check_folder(options.out)
