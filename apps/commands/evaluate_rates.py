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
DRAWN = "flash", "bounce", "pan", "static"
WORLDS = *DRAWN, "maze"
"""The keys of tttvideo.measures.rates.MODELS, without torch."""
SETTINGS = {
    "gflops": (
        *(200, 1),
        "training operations of a model, in 10^9; bounce has 60 %%, pan 50 %%, static 15 %%",
    ),
    "colours": (8, 2, "colours of the drawn worlds"),
    "grid": (4, 4, "cells along a side of a drawn frame"),
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
        ".png. A run that is started again resumes where it stopped. The world maze is walks of "
        "`prepare maze` as tokens of `prepare video`; `tttvideo reproduce rates_mazes` makes them.",
        epilog="example: tttvideo evaluate rates --out out/rates",
    )
    top.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    top.add_argument(
        "--worlds",
        nargs="+",
        choices=WORLDS,
        default=list(DRAWN),
        metavar="NAME",
        help=f"what to train on, of {' '.join(WORLDS)} (default: all excluding maze)",
    )
    for name, text in (("walks", "for training"), ("held-out", "of other mazes, to measure with")):
        help = f"token file or folder of walks through mazes, {text}; for the world maze alone"
        top.add_argument(f"--{name}", default="", metavar="TOKENS", help=help)
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
    check_walks(options)
    check_folder(options.out)


def check_walks(options: argparse.Namespace) -> None:
    """Refuse walks without the world maze, and the world without walks."""
    from tttvideo.data.tokens import open_tokens

    given = [path for path in (options.walks, options.held_out) if path]
    if len(given) != 2 * ("maze" in options.worlds):
        raise ValueError(
            "the world maze needs --walks and --held-out, and no other world reads them; give both "
            "with it, or neither"
        )
    for path in given:
        open_tokens(path)
