"""`tttvideo test --config NAME`: measure a model on the test data of its fit."""

from . import fit
from .fit import PROGRAM, check
from .options import Parser


__all__ = ["PROGRAM", "check", "parser"]


def parser() -> Parser:
    return fit.parser("test")
