"""`tttvideo evaluate KIND`: what models make of their context, and how loss falls with size."""

import argparse

from . import harness, recall, scaling, text


KINDS = {"text": text, "recall": recall, "scaling": scaling, "harness": harness}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tttvideo evaluate",
        description="Measure trained models; each kind writes tables and pictures to its --out.",
        epilog="example: tttvideo evaluate text out/text_tiny/last.ckpt out/books/validation "
        "--out out/evaluation",
    )
    kinds = top.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind in KINDS.values():
        kind.add_parser(kinds)
    return top


def main(arguments: list[str]) -> None:
    options = parser().parse_args(arguments[1:])
    KINDS[options.kind].run(options)
