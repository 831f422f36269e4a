"""`tttvideo evaluate scaling`: the options."""

import argparse

from tttvideo.apps import evaluate


PROGRAM = "tttvideo.apps.evaluate.scaling:run"


def parser() -> argparse.ArgumentParser:
    return evaluate.parser("scaling")


def check(options: argparse.Namespace) -> None:
    """The program checks."""
