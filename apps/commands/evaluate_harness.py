"""`tttvideo evaluate harness`: the options."""

import argparse

from tttvideo.apps import evaluate


PROGRAM = "tttvideo.apps.evaluate.harness:run"


def parser() -> argparse.ArgumentParser:
    return evaluate.parser("harness")


def check(options: argparse.Namespace) -> None:
    """The program checks."""
