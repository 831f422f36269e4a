"""`tttvideo evaluate scaling RUN...`: the options."""

import argparse
from pathlib import Path

from .options import Parser, check_checkpoint, check_folder


PROGRAM = "tttvideo.apps.evaluate.scaling:evaluate_scaling"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo evaluate scaling",
        description="Fit power laws to the last validation losses of runs of `tttvideo fit`, one "
        "per mixer and context, and find the best context for each budget of operations. The fits "
        "describe these runs and do not extend to larger ones. Writes scaling.json, .md and .png.",
        epilog="example: tttvideo evaluate scaling out/scaling/* --out out/scaling_fit",
    )
    top.add_argument("runs", nargs="+", metavar="RUN", help="--out folders of `tttvideo fit`")
    top.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    return top


def check(options: argparse.Namespace) -> None:
    check_folder(options.out)
    for run in options.runs:
        if not Path(run).is_dir():
            raise ValueError(f"there is no run folder {run}; give the --out of `tttvideo fit`")
        if not (Path(run) / "last.ckpt").is_file():
            raise ValueError(f"{run} has no last.ckpt; give the --out of a run of `tttvideo fit`")
        check_checkpoint(f"{run}/last.ckpt")
    if len(set(options.runs)) < 2:
        raise ValueError(f"{options.runs[0]} is one run; a fit needs two or more, of two sizes")
