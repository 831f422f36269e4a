"""`tttvideo evaluate rates --out DIR`: the options."""

import argparse

from .options import (
    Parser,
    add_numbers,
    add_run_seeds,
    check_folder,
    check_numbers,
    check_run_seeds,
    refuse_unless,
)


PROGRAM = "tttvideo.apps.evaluate.rates:evaluate_rates"
RATES = 30, 10, 5, 2, 1
WORLDS = "flash", "bounce", "pan", "static"
"""The keys of tttvideo.measures.rates.MODELS, without torch."""
SETTINGS = {
    "gflops": (
        *(200, 1),
        "training operations of a model, in 10^9; bounce has 60 %%, pan 50 %%, static 15 %%",
    ),
    "colours": (8, 2, "colours of the worlds"),
    "grid": (4, 4, "cells along a side of a frame"),
    "seconds": (2, 1, "seconds of the contexts of equal seconds"),
    "frames": (60, 2, "frames of the contexts of equal tokens"),
    "moments": (128, 2, "moments that are measured"),
}


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo evaluate rates",
        description="Train small frame models of worlds that are seen at 30, 10, 5, 2 and 1 frames "
        "a second, one for each rate, for equal operations. Measure how well they predict the "
        "same frame from contexts of equal seconds and of equal tokens. Writes rates.json, .md and "
        ".png. A run that is started again resumes where it stopped.",
        epilog="example: tttvideo evaluate rates --out out/rates",
    )
    top.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    top.add_argument(
        "--worlds",
        nargs="+",
        choices=WORLDS,
        default=list(WORLDS),
        metavar="NAME",
        help=f"what to train on (default: all of {' '.join(WORLDS)})",
    )
    top.add_argument(
        "--rates",
        nargs="+",
        type=int,
        choices=RATES,
        default=list(RATES),
        metavar="N",
        help=f"frames a second (default: all of {' '.join(map(str, RATES))})",
    )
    add_run_seeds(top, "each world and rate")
    add_numbers(top, SETTINGS)
    return top


def check(options: argparse.Namespace) -> None:
    check_numbers(options, SETTINGS)
    refuse_unless(options.grid <= 6, "grid", options.grid, "at most 6, the size of the pan world")
    check_run_seeds(options)
    check_folder(options.out)
