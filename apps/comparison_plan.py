"""The runs that `tttvideo compare` trains and measures on a device."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path


MIXERS = "ttt_linear", "ttt_mlp", "attention", "sliding_window"


@dataclass(frozen=True)
class Stage:
    """A part of a run: `tokens` tokens, in windows of `window`, `batch` windows per step."""

    window: int
    batch: int
    tokens: int
    lr: float

    @property
    def steps(self) -> int:
        return max(1, round(self.tokens / (self.window * self.batch)))


@dataclass(frozen=True)
class Plan:
    """The packaged configs and the stages of every run on a device."""

    size: str
    mixers: tuple[str, ...]
    stages: tuple[Stage, Stage]
    jobs: int


PLANS = {
    "cpu": Plan(
        "text_tiny",
        (*MIXERS, "mamba_8"),
        (Stage(1024, 2, 1_638_400, 3e-3), Stage(8192, 1, 1_474_560, 3e-3)),
        jobs=2,
    ),
    "cuda": Plan(
        "text_125m",
        (*MIXERS, "mamba_24"),
        (Stage(1024, 64, 105_000_000, 3e-3), Stage(8192, 8, 94_000_000, 3e-3)),
        jobs=1,
    ),
}


def new_plan(options: argparse.Namespace, device: str) -> Plan:
    """The plan of a device, "cpu" or "cuda", changed by the options."""
    plan = PLANS[device]
    short, long = plan.stages
    if options.windows:
        short, long = map(lambda stage, n: replace(stage, window=n), (short, long), options.windows)
    if options.tokens:
        short, long = map(lambda stage, n: replace(stage, tokens=n), (short, long), options.tokens)
    mixers = tuple(dict.fromkeys(options.mixers or plan.mixers))
    return replace(plan, mixers=mixers, stages=(short, long), jobs=options.jobs or plan.jobs)


def pairs(options: argparse.Namespace, plan: Plan) -> list[tuple[str, int]]:
    """Mixer and seed of each run."""
    return [(mixer, seed) for seed in dict.fromkeys(options.seeds) for mixer in plan.mixers]


def measurement(options: argparse.Namespace, plan: Plan) -> list[str]:
    """Arguments of `evaluate text` for all runs."""
    names = [(mixer, f"{mixer}_{seed}") for mixer, seed in pairs(options, plan)]
    return [
        *(f"{mixer}={Path(options.out, name)}/stage_1/last.ckpt" for mixer, name in names),
        *(options.validation, "--out", options.out),
        *("--length", str(plan.stages[1].window), "--reset", str(plan.stages[0].window)),
        *("--targets", "2"),  # in each document; more take long and add little
    ]
