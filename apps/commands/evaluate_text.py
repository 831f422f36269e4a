"""`tttvideo evaluate text`: the options."""

import argparse

from tttvideo.apps import evaluate


PROGRAM = "tttvideo.apps.evaluate.text:run"


def parser() -> argparse.ArgumentParser:
    return evaluate.parser("text")


def check(options: argparse.Namespace) -> None:
    """The program checks."""
