"""`tttvideo evaluate text [NAME=]CKPT... DATA`: the options."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from .options import Parser, check_checkpoint, check_folder, named_checkpoints, refuse_unless


if TYPE_CHECKING:
    from tttvideo.measures.plan import PlanSettings


PROGRAM = "tttvideo.apps.evaluate.text:evaluate_text"
NUMBERS = {
    "length": (
        None,
        "tokens read of each document (default: 4 training windows, or less where 8 "
        "documents have less)",
    ),
    "reset": (
        None,
        "tokens after which the state of the control is reset (default: the training window, the "
        "shortest of several models; 1024 where no checkpoint records one, as an imported one, or "
        "documents have less)",
    ),
    "targets": (4, "fixed targets in each document, at most (default: 4)"),
    "documents": (32, "documents, at most, chosen evenly from those long enough (default: 32)"),
    "batch": (16384, "tokens of a call of the model (default: 16384)"),
}
"""Options with a number above 0: their defaults and help."""


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo evaluate text",
        description="Measure how models use context: loss by token index, and loss on fixed "
        "targets after more and more context, each beside controls with the state reset and with "
        "shuffled context; and the inner loss by layer. Writes evaluation.json, evaluation.md and "
        "pictures; earlier measurements are read from DIR/cache.",
        epilog="example: tttvideo evaluate text ttt=out/ttt/last.ckpt mamba=out/mamba/last.ckpt "
        "out/books/validation --out out/evaluation",
    )
    top.add_argument(
        "checkpoints",
        nargs="+",
        metavar="[NAME=]CKPT",
        help="trained by `tttvideo fit`; those of one name, such as seeds, become one line with a "
        "band (default name: a description of the model)",
    )
    top.add_argument(
        "data", metavar="DATA", help="token file or folder, made by `tttvideo prepare text`"
    )
    top.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    for name, (default, text) in NUMBERS.items():
        top.add_argument(f"--{name}", type=int, metavar="N", default=default, help=text)
    top.add_argument(
        "--contexts",
        nargs="+",
        type=int,
        metavar="N",
        help="tokens before the fixed targets, given after DATA (default: 0, powers of two from "
        "256, and the longest)",
    )
    top.add_argument(
        "--join",
        action="store_true",
        help="read consecutive documents as one, where none is as long as --length",
    )
    return top


def check(options: argparse.Namespace) -> None:
    from tttvideo.data.tokens import open_tokens
    from tttvideo.measures.plan import make_plan

    for name in NUMBERS:
        value = getattr(options, name)
        refuse_unless(value is None or value >= 1, name, value, "1 or more")
    check_folder(options.out)
    for _, path in named_checkpoints(options.checkpoints):
        check_checkpoint(path)
    data = open_tokens(options.data)
    if data.header.kind != "text":
        raise ValueError(f"{data.path} holds {data.header.kind}; only text can be measured here")
    if options.length:  # else, as the default of --reset, it depends on the checkpoints
        make_plan(replace(plan_settings(options), reset=options.reset or 1), data, [])


def plan_settings(options: argparse.Namespace) -> PlanSettings:
    from tttvideo.measures.plan import PlanSettings

    return PlanSettings(
        **{field.name: getattr(options, field.name) for field in fields(PlanSettings)}
    )
