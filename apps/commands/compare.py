"""`tttvideo compare TRAIN VALIDATION --out DIR`: train mixers on equal tokens and measure them."""

import argparse

from tttvideo.apps.comparison_plan import MIXERS, measurement, new_plan
from tttvideo.apps.config_files import find_config

from . import parse
from .evaluate_text import plan_settings
from .options import Parser, check_folder


PROGRAM = "tttvideo.apps.compare:run"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo compare",
        description="Train mixers on equal tokens and draw their loss by token index and on fixed "
        "targets. A comparison that is started again resumes where it stopped.",
        epilog="example: tttvideo compare out/stdlib/train out/stdlib/validation --out out/compare",
    )
    top.add_argument("train", metavar="TRAIN", help="tokens to train on, from `tttvideo prepare`")
    top.add_argument("validation", metavar="VALIDATION", help="tokens to measure on")
    top.add_argument("--out", required=True, metavar="DIR", help="folder of all runs and results")
    top.add_argument(
        "--mixers",
        nargs="+",
        metavar="NAME",
        help=f"packaged configs mixer/NAME (default: {' '.join(MIXERS)}, and Mamba)",
    )
    top.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1],
        metavar="N",
        help="seeds of the runs of each mixer (default: 0 1)",
    )
    top.add_argument(
        "--tokens",
        nargs=2,
        type=int,
        metavar=("SHORT", "LONG"),
        help="tokens of each run in short windows and at the whole context (default: 1.6M and 1.5M "
        "on a CPU, where the models have about 1M parameters; 105M and 94M on a GPU, where they "
        "have 125M)",
    )
    top.add_argument(
        "--windows",
        nargs=2,
        type=int,
        metavar=("SHORT", "LONG"),
        help="tokens per window in the two stages (default: 1024 8192)",
    )
    top.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs in parallel, one CPU thread each (default: 2 on a CPU, 1 on a GPU)",
    )
    return top


def check(options: argparse.Namespace) -> None:
    """Refuse what would stop the training or the measurement, before hours of training."""
    from tttvideo.data.tokens import open_tokens
    from tttvideo.measures.plan import make_plan

    for name in ("tokens", "windows", "jobs"):
        value = getattr(options, name)
        counts = value if isinstance(value, list) else [1 if value is None else value]
        if min(counts) < 1:
            raise ValueError(f"--{name} {' '.join(map(str, counts))} must be 1 or more")
    plan = new_plan(options, "cpu")  # the sizes that are checked are those of a GPU too
    for name in (plan.size, *(f"mixer/{mixer}" for mixer in plan.mixers)):
        find_config(name)
    check_folder(options.out)
    open_tokens(options.train)
    evaluation = plan_settings(parse("evaluate text", measurement(options, plan)))
    make_plan(evaluation, open_tokens(options.validation), plan.stages[1].window)
