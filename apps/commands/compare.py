"""`tttvideo compare TRAIN VALIDATION --out DIR`: train mixers alike and measure them."""

import argparse
import math

from tttvideo.apps.comparison_plan import (
    HELD_OUT_SEED,
    MIXERS,
    PARTS,
    new_plan,
    target_plan,
    wanted_parts,
)
from tttvideo.apps.config_files import find_config

from .options import Parser, add_run_seeds, check_folder, check_run_seeds, refuse_unless


PROGRAM = "tttvideo.apps.compare:run"
LONGEST = 66_560
"""Tokens read of each document: a context of 65,536, and targets of 1,024."""
NUMBERS = {
    "window": "tokens of a training window (default: 1024)",
    "tokens": "tokens of a run (default: 409,600 on a CPU, where the models have about 1M "
    "parameters; 105M on a GPU, where they have 125M)",
    "seconds": "time of the training steps of a run of equal time: processor time on a CPU, wall "
    "time on a GPU (default: 80, on a GPU 1200)",
    "length": "tokens read of each document when models are measured (default: 66560, for "
    "contexts of up to 65,536, or what 8 documents have)",
    "documents": "documents that are measured, with four targets each, at most (default: 2; on a "
    "GPU 8)",
    "jobs": "runs in parallel, one CPU thread each (default: 2 on a CPU, 1 on a GPU)",
}


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo compare",
        description="Train mixers on equal tokens and for equal time of their training steps, and "
        "draw their loss on fixed targets by the length of context, far beyond the training "
        "window, beside a control with the state reset. Each mixer gets the learning rate that is "
        "best in short runs of another seed, which also measure the time of its steps. Writes "
        "comparison.md, comparison.json and fixed_targets.png. The default, a first picture, takes "
        "about 3.5 hours of processor time on a Xeon core, estimated from measured speeds, or half "
        "of that by the clock on two cores; --tokens 1638400 --seconds 400 --documents 4 about 12. "
        "Lanes take about half as much again. After a kill the same command resumes; more "
        "--mixers, --seeds and --parts may be added to a comparison later.",
        epilog="example: tttvideo compare out/stdlib/train out/stdlib/validation --out out/compare",
    )
    add = top.add_argument
    add("train", metavar="TRAIN", help="tokens to train on, from `tttvideo prepare text`")
    add("validation", metavar="VALIDATION", help="tokens to measure on")
    add("--out", required=True, metavar="DIR", help="folder of all runs and results")
    help = f"packaged configs mixer/NAME (default: {' '.join(MIXERS)}, Mamba and Mamba-2)"
    add("--mixers", nargs="+", metavar="NAME", help=help)
    add_run_seeds(top, f"each mixer, not {HELD_OUT_SEED}, which chooses the learning rates")
    help = "what to make equal: tokens; seconds; or tokens in lanes, which carry the state from "
    help += "window to window, not for attention to all tokens, whose state grows (default: tokens "
    help += "seconds)"
    add("--parts", nargs="+", choices=[*PARTS], default=[*PARTS][:2], metavar="PART", help=help)
    help = "learning rates to choose from (default: 0.0015 0.003 0.006)"
    add("--rates", nargs="+", type=float, metavar="LR", help=help)
    for name, text in NUMBERS.items():
        add(f"--{name}", type=float if name == "seconds" else int, metavar="N", help=text)
    return top


def check(options: argparse.Namespace) -> None:
    """Refuse what would stop the training or the measurement, before hours of training."""
    from tttvideo.data.tokens import difference, open_tokens
    from tttvideo.measures.plan import default_length

    for name in NUMBERS:
        value = getattr(options, name)
        good = value is None or (value >= 1 and math.isfinite(value))
        refuse_unless(good, name, value, "1 or more, and finite")
    check_rates(options.rates or [])
    check_run_seeds(options)
    held_out = HELD_OUT_SEED not in options.seeds
    refuse_unless(held_out, "seeds", HELD_OUT_SEED, "another: it chooses the learning rates")
    plan = new_plan(options, "cpu")  # sizes that a GPU has too, but for --tokens
    find_config(plan.size)
    wanted_parts(options, plan)
    check_folder(options.out)
    train, validation = open_tokens(options.train), open_tokens(options.validation)
    if train.header.kind != "text":
        raise ValueError(f"{train.path} holds {train.header.kind}; only text is compared here")
    if found := difference(train.header, validation.header):
        raise ValueError(f"{train.path} and {validation.path} differ: {found}")
    options.length = options.length or default_length(validation, LONGEST // 4, join=False)
    target_plan(plan, options.length, validation)


def check_rates(rates: list[float]) -> None:
    """Refuse rates that are no learning rates, or two of one name."""
    for rate in rates:
        refuse_unless(0 < rate < math.inf, "rates", rate, "above 0, and finite")
    names = [f"{rate:g}" for rate in rates]
    twice = next((name for name in names if names.count(name) > 1), "")
    refuse_unless(not twice, "rates", twice, "given once (six digits count)")
