"""`tttvideo export CKPT DIR`: the options."""

import argparse

from .options import Parser, check_checkpoint, check_folder


PROGRAM = "tttvideo.apps.convert:export_weights"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo export",
        description="Write a text checkpoint as a folder for Hugging Face transformers, with "
        "`import tttvideo.hf`: model.safetensors, config.json and its tokenizer. Models of TTT "
        "layers are written as the reference implementation reads them.",
        epilog="example: tttvideo export out/text_tiny/last.ckpt out/text_tiny_hf",
    )
    top.add_argument("checkpoint", metavar="CKPT", help="of `tttvideo fit` or `tttvideo import`")
    top.add_argument("out", metavar="DIR", help="folder to write")
    return top


def check(options: argparse.Namespace) -> None:
    check_folder(options.out)
    check_checkpoint(options.checkpoint)
