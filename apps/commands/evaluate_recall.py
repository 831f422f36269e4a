"""`tttvideo evaluate recall CKPT...`: the options."""

import argparse
from pathlib import Path

from .options import (
    Parser,
    add_numbers,
    check_checkpoint,
    check_folder,
    check_numbers,
    refuse_unless,
)


PROGRAM = "tttvideo.apps.evaluate.recall:evaluate_recall"
LENGTHS = [256, 512, 1024, 2048, 4096]
SETTINGS = {
    "depths": (5, 1, "places of the needle, from start to end"),
    "distractors": (3, 0, "needles without a question"),
    "samples": (10, 1, "texts per cell of a map"),
    "seed": (0, 0, "of the random texts"),
}


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo evaluate recall",
        description="Generate texts with facts and ask for them: the code of a needle in a "
        "haystack, the values of pairs, the end of a chain of variables. Writes the share of exact "
        "answers by length and by depth, pairs or hops, as JSON, tables and maps.",
        epilog="example: tttvideo evaluate recall out/recall/last.ckpt --out out/recall/maps",
    )
    top.add_argument(
        "checkpoints", nargs="+", metavar="CKPT", help="trained by `tttvideo fit` on text"
    )
    top.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    top.add_argument(
        "--lengths",
        nargs="+",
        type=int,
        default=LENGTHS,
        metavar="T",
        help=f"of the texts, in tokens (default: {' '.join(map(str, LENGTHS))})",
    )
    add_numbers(top, SETTINGS)
    top.add_argument(
        "--haystack", metavar="FILE", help="text around the facts (default: generated sentences)"
    )
    return top


def check(options: argparse.Namespace) -> None:
    check_numbers(options, SETTINGS)
    refuse_unless(min(options.lengths) >= 1, "lengths", min(options.lengths), "1 token or more")
    check_folder(options.out)
    for path in name_checkpoints(options.checkpoints).values():
        check_checkpoint(str(path))
    if options.haystack is not None:
        from tttvideo.data.recall.texts import text_haystack

        text_haystack(read_haystack(options.haystack))


def name_checkpoints(checkpoints: list[str]) -> dict[str, Path]:
    """A name for each checkpoint: its folder's, or the shortest end of its path that is unique."""
    paths = [Path(path) for path in dict.fromkeys(checkpoints)]
    parts = [p.resolve().with_suffix("").parts[1:] for p in paths]
    parts = [part[:-1] if part[-1] == "last" and part[:-1] else part for part in parts]
    for count in range(1, max(map(len, parts)) + 1):
        found = {"-".join(part[-count:]): path for part, path in zip(parts, paths, strict=True)}
        if len(found) == len(paths):
            return found
    raise ValueError(f"{', '.join(map(str, paths))} are not all different; give each once")


def read_haystack(path: str) -> str:
    """The text of a file; ValueError for one that is not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--haystack {path} is no text in UTF-8: byte {error.start} is {error.reason}; "
            "convert it, for instance with iconv"
        ) from error
