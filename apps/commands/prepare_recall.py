"""`tttvideo prepare recall --out FILE`: the options."""

import argparse

from .options import Parser, check_output, refuse_unless


PROGRAM = "tttvideo.apps.prepare.recall:run"
TASKS = ("needle", "mqar", "variables")


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo prepare recall",
        description="Generate text to learn recall from, as JSON lines for `tttvideo prepare "
        "text`: facts, other text, and questions that only the facts answer.",
        epilog="example: tttvideo prepare recall --out out/recall.jsonl",
    )
    add = top.add_argument
    add("--out", required=True, metavar="FILE", help=".jsonl file to write")
    help = "text to generate (default: 20000000)"
    add("--size", type=int, default=20_000_000, metavar="BYTES", help=help)
    help = "of the longest document, 256 or more (default: 1024)"
    add("--length", type=int, default=1024, metavar="BYTES", help=help)
    help = "needle, mqar (pairs of a key and a value) and variables (default: all)"
    add("--tasks", nargs="+", choices=TASKS, default=TASKS, metavar="TASK", help=help)
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers (default: 0)")
    return top


def check(options: argparse.Namespace) -> None:
    check_output(options.out, suffix=".jsonl")
    refuse_unless(options.size >= 1, "size", options.size, "1 or more")
    refuse_unless(options.length >= 256, "length", options.length, "256 or more")
