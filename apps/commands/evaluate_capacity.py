"""`tttvideo evaluate capacity --out DIR`: the options."""

import argparse

from .options import (
    Parser,
    add_names,
    add_numbers,
    add_run_seeds,
    check_folder,
    check_numbers,
    check_run_seeds,
    refuse_unless,
)


PROGRAM = "tttvideo.apps.evaluate.capacity:evaluate_capacity"
MEMORIES = (
    *("ttt_linear", "ttt_mlp", "linear_attention", "gated_delta"),
    *("mamba2", "lstm", "attention", "window"),
)
"""The keys of tttvideo.measures.capacity.MEMORIES, without torch."""
SIZES = (4, 6, 8, 12, 16, 24, 32)
SETTINGS = {
    "colours": (8, 2, "colours of the cells"),
    "batch": (8, 1, "worlds of a training step"),
    "worlds": (32, 2, "worlds of each size that are measured"),
}


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo evaluate capacity",
        description="Train small frame models, one for each memory, for equal CPU time on one "
        "thread, on worlds that are shown once and then asked for, and measure how many cells each "
        "recalls, by the number of cells: with a world's own state, with another world's, with a "
        "fresh one. The states have 64 KiB, apart from the LSTM's of 16, attention's, which grows, "
        "and window, which has none. Writes capacity.json, .md and .png. A run that is started "
        "again resumes where it stopped.",
        epilog="example: tttvideo evaluate capacity --seconds 60 --out out/capacity",
    )
    top.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    add_names(top, "memories", MEMORIES)
    top.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=list(SIZES),
        metavar="N",
        help="cells along a side of a world, even numbers; training begins with the first "
        f"(default: {' '.join(map(str, SIZES))})",
    )
    add_run_seeds(top, "each memory")
    top.add_argument(
        "--seconds", type=float, default=60.0, metavar="S", help="CPU time of a run (default: 60)"
    )
    add_numbers(top, SETTINGS)
    return top


def check(options: argparse.Namespace) -> None:
    check_numbers(options, SETTINGS)
    for size in options.sizes:
        refuse_unless(size >= 4 and size % 2 == 0, "sizes", size, "even, and 4 or more")
    rising = options.sizes == sorted(set(options.sizes))
    refuse_unless(rising, "sizes", " ".join(map(str, options.sizes)), "in rising order")
    refuse_unless(options.seconds > 0, "seconds", options.seconds, "above 0")
    check_run_seeds(options)
    check_folder(options.out)
