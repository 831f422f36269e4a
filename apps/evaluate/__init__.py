"""`tttvideo evaluate KIND`: what models make of their context, and how loss falls with size."""

import argparse

from . import harness, recall, scaling, text


KINDS = {"text": text, "recall": recall, "scaling": scaling, "harness": harness}


def parser(kind: str) -> argparse.ArgumentParser:
    kinds = argparse.ArgumentParser(prog="tttvideo evaluate").add_subparsers()
    KINDS[kind].add_parser(kinds)
    return kinds.choices[kind]
