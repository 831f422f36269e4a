"""`tttvideo import SOURCE CKPT`: the options."""

import argparse
from pathlib import Path

from .options import Parser, check_output


PROGRAM = "tttvideo.apps.convert:import_weights"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo import",
        description="Make a checkpoint from weights of the reference implementations.",
        epilog="example: tttvideo import ttt-linear-125m/ out/ttt-linear-125m.ckpt",
    )
    top.add_argument(
        "source",
        metavar="FILE|DIR",
        help="PyTorch's: a .safetensors file with config.json beside it or in its metadata, or a "
        "folder of both; any other file is read as JAX's: msgpack of flax, whole or streamed",
    )
    top.add_argument("out", metavar="CKPT", help="checkpoint to write")
    top.add_argument(
        "--config",
        metavar="SIZE|FILE",
        help="of a flax file, for the settings that its shapes do not determine: a config.json, or "
        "125m, 350m, 760m or 1b to check its size (default: the paper's constants)",
    )
    top.add_argument(
        "--tokenizer",
        metavar="unknown|bytes|FILE",
        default="unknown",
        help="the model's tokenizer: bytes, or a tokenizer.json, which is copied into the "
        "checkpoint; `tttvideo generate` needs one of the two (default: unknown)",
    )
    return top


def check(options: argparse.Namespace) -> None:
    if not Path(options.source).exists():
        raise ValueError(f"there is no file or folder {options.source}")
    check_output(options.out)
