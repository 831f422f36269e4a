"""`tttvideo evaluate codec [NAME=]CKPT DATA --out DIR`: the options."""

import argparse
from pathlib import Path

from .compress import SAME, add_model_and_data, check_model_and_data
from .options import Parser, check_folder, named_checkpoints


PROGRAM = "tttvideo.apps.evaluate.codec:evaluate_codec"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo evaluate codec",
        description="Are bits per frame real? Compress the frame tokens of videos with a model, "
        "decompress them and compare; beside the bits that the model states, those of xz, and of "
        "the same model with its memory reset every second. Adds a row, NAME, to codec.json, .md "
        f"and .png; a row that is there is not measured again. {SAME}",
        epilog="example: tttvideo evaluate codec pan=out/video_pan/last.ckpt "
        "out/new_pan/tokens.bin --out out/codec",
    )
    add_model_and_data(top)
    top.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    return top


def check(options: argparse.Namespace) -> None:
    name, options.checkpoint = named_checkpoints([options.checkpoint])[0]
    check_model_and_data(options)
    options.name = name or Path(options.checkpoint).resolve().parent.name
    check_folder(options.out)
