"""`tttvideo evaluate recall`: the options."""

import argparse

from tttvideo.apps import evaluate


PROGRAM = "tttvideo.apps.evaluate.recall:run"


def parser() -> argparse.ArgumentParser:
    return evaluate.parser("recall")


def check(options: argparse.Namespace) -> None:
    """The program checks."""
