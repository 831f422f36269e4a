"""`tttvideo fit ...`: LightningCLI parses the options."""

import argparse
from collections.abc import Sequence
from typing import Any


PROGRAM = "tttvideo.apps.fit:fit"


class Unparsed(argparse.ArgumentParser):
    """Leaves all arguments, as a list, to the program."""

    def parse_args(self, arguments: Sequence[str], *_: Any) -> argparse.Namespace:
        return argparse.Namespace(arguments=list(arguments))


def parser() -> argparse.ArgumentParser:
    return Unparsed()


def check(options: argparse.Namespace) -> None:
    """LightningCLI checks."""
