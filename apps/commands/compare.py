"""`tttvideo compare TRAIN VALIDATION --out DIR`: the options."""

import argparse

from tttvideo.apps.compare import parser


__all__ = ["PROGRAM", "check", "parser"]
PROGRAM = "tttvideo.apps.compare:run"


def check(options: argparse.Namespace) -> None:
    """The program checks."""
