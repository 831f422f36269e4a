"""Options that `prepare text` and `prepare video` share."""

import argparse
import re

from tttvideo.data.cores import cores

from .options import check_folder, refuse_unless


def add_corpus(parser: argparse.ArgumentParser, held_out: str, bad: str, max_bad: float) -> None:
    """held_out, bad: what is held out and stays together, and what may be left out, in words."""
    add = parser.add_argument
    help = f"share of the {held_out} stay together (default: 0)"
    add("--validation", type=float, default=0.0, metavar="SHARE", help=help)
    help = "seed of the choice to hold out, and of all random numbers (default: 0)"
    add("--seed", type=int, default=0, metavar="N", help=help)
    help = "tokens after which a new shard begins (default: 67108864)"
    add("--shard-tokens", type=int, default=1 << 26, metavar="N", help=help)
    help = f"share of {bad} that is accepted (default: {max_bad})"
    add("--max-bad", type=float, default=max_bad, metavar="SHARE", help=help)
    help = "processes (default: one per core)"
    add("--workers", type=int, default=cores(), metavar="N", help=help)
    help = "prepare the I-th of N equal parts alone, so that several machines share the work, in "
    help += "one --out or in one each; then run the same command with --merge"
    add("--part", type=part_of_all, metavar="I/N", help=help)
    help = "make the corpus from what --part prepared in --out, and in these folders"
    add("--merge", nargs="*", metavar="DIR", help=help)


def part_of_all(text: str) -> tuple[int, int]:
    """(I, N) of "I/N"."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    part, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text} must be I/N with I from 1 to N, such as 2/8")
    return part, parts


def check_corpus(options: argparse.Namespace) -> None:
    check_folder(options.out)
    validation, bad, seed = options.validation, options.max_bad, options.seed
    refuse_unless(0 <= validation < 1, "validation", validation, "0 or more and less than 1")
    refuse_unless(0 <= bad <= 1, "max-bad", bad, "from 0 to 1")
    refuse_unless(seed >= 0, "seed", seed, "0 or more")
    for name in ("shard_tokens", "workers"):
        value = getattr(options, name)
        refuse_unless(value >= 1, name.replace("_", "-"), value, "1 or more")
    if options.part and options.merge is not None:
        raise ValueError("--part prepares and --merge joins; give one of them")
