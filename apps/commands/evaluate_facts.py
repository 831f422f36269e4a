"""`tttvideo evaluate facts --out DIR`: the options."""

import argparse

from .options import (
    Parser,
    add_names,
    add_numbers,
    add_run_seeds,
    check_folder,
    check_numbers,
    check_run_seeds,
    refuse_unless,
)


PROGRAM = "tttvideo.apps.evaluate.facts:evaluate_facts"
MIXERS = "ttt_linear", "ttt_mlp", "gated_delta", "mamba", "attention"
"""The keys of tttvideo.measures.facts.MIXERS, without torch."""
SETTINGS = {
    "length": (256, 96, "bytes of the longest texts that are learned"),
    "batch": (2048, 96, "bytes of a training step"),
    "samples": (16, 1, "texts of each kind and length that are measured"),
}


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo evaluate facts",
        description="Train small models of text, one for each mixer, for equal CPU time on one "
        "thread, on texts that state facts and then ask for them: needles, pairs, variables; short "
        "texts with few facts first. Measure how many answers are right in texts up to 16 times as "
        "long, and by the number of pairs, also after another text's facts, which is the control. "
        "The memories have 16 KiB a block, apart from attention's, which grows. Writes facts.json, "
        ".md and .png, and a checkpoint of each model for `evaluate recall`. A run that is started "
        "again resumes where it stopped.",
        epilog="example: tttvideo evaluate facts --seconds 120 --out out/facts",
    )
    top.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    add_names(top, "mixers", MIXERS)
    add_run_seeds(top, "each mixer")
    help = "CPU time of the training of a model (default: 120)"
    top.add_argument("--seconds", type=float, default=120.0, metavar="S", help=help)
    add_numbers(top, SETTINGS)
    return top


def check(options: argparse.Namespace) -> None:
    check_numbers(options, SETTINGS)
    refuse_unless(options.seconds > 0, "seconds", options.seconds, "above 0")
    check_run_seeds(options)
    check_folder(options.out)
