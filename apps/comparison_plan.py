"""The runs that `tttvideo compare` trains and measures on a device."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from .config_files import find_config, read_config


if TYPE_CHECKING:
    from tttvideo.data.tokens import Tokens
    from tttvideo.measures import plan as targets


MIXERS = (
    *("ttt_linear_forget", "ttt_linear", "ttt_mlp_forget", "ttt_mlp"),
    *("gated_delta", "linear_attention", "sliding_window", "attention", "attention_rope_500k"),
)
PARTS = {
    "tokens": "equal tokens",
    "seconds": "equal time of training steps",
    "lanes": "equal tokens, the state carried from window to window",
}
RATES = "rates"
"""The part of the short runs that choose a learning rate."""
HELD_OUT_SEED = 100
"""Of the short runs, and of no others."""
SHORT = 4
"""A short run has one part in so many of the tokens."""
LEAST = 8
"""Steps of any run: the first three are not timed."""
SHARE_FRESH = 0.1
"""Share of the lanes that get a fresh state at each step, to learn to start."""
FAR = 8
"""Training windows up to which all fixed targets are measured; longer contexts are expensive."""
TARGETS = 4
"""Fixed targets of a document, at most."""
FEW = 4
"""Attention to all tokens is measured beyond FAR windows on one document in so many."""


@dataclass(frozen=True)
class Plan:
    """The packaged configs, and the size of every run on a device."""

    size: str
    mixers: tuple[str, ...]
    baseline: str
    """The mixer that others are compared with, or the first one where it is not among them."""
    window: int
    """Tokens of a training window."""
    batch: int
    """Windows of a step."""
    tokens: int
    """Tokens of a run."""
    seconds: float
    """Time of the training steps of a run of equal time, as training/step_clock.py counts it."""
    rates: tuple[float, ...]
    """Peak learning rates, of which each mixer gets its best."""
    jobs: int
    documents: int
    """Documents that are measured, at most."""

    def steps(self, tokens: float) -> int:
        return round(tokens / (self.window * self.batch))

    @property
    def short_steps(self) -> int:
        return self.steps(self.tokens / SHORT)


PLANS = {
    "cpu": Plan(
        "text_tiny",
        (*MIXERS, "mamba_8", "mamba2_8"),
        "mamba_8",
        *(1024, 2, 409_600, 80.0, (1.5e-3, 3e-3, 6e-3), 2, 2),
    ),
    "cuda": Plan(
        "text_125m",
        (*MIXERS, "mamba_24", "mamba2_24"),
        "mamba_24",
        *(1024, 64, 105_000_000, 1200.0, (1.5e-3, 3e-3, 6e-3), 1, 8),
    ),
}


@dataclass(frozen=True)
class Run:
    """One training run of `tttvideo fit`, in a folder of its own."""

    part: str
    """A key of PARTS, or RATES."""
    mixer: str
    seed: int
    lr: float
    steps: int

    @property
    def name(self) -> str:
        last = f"{self.lr:g}" if self.part == RATES else f"{self.seed}"
        return f"{self.part}/{self.mixer}_{last}"


@dataclass(frozen=True)
class Choice:
    """What the short runs of a mixer showed."""

    lr: float | None
    """None if all of them diverged."""
    step_seconds: float
    losses: dict[str, float | None]
    """Validation loss, nats per token, by learning rate; None if the run diverged."""


@dataclass(frozen=True)
class Finished:
    """A run that is trained, and its measurement; None if it diverged or is a short run."""

    run: Run
    record: dict[str, Any]
    measured: dict[str, Any] | None


def new_plan(options: argparse.Namespace, device: str) -> Plan:
    """The plan of a device, "cpu" or "cuda", changed by the options.

    Raises ValueError for mixers without a config and for runs that are too short.
    """
    plan = PLANS[device]
    names = "window", "tokens", "seconds", "jobs", "documents"
    given = {name: getattr(options, name) for name in names}
    changes = {name: value for name, value in given.items() if value is not None}
    mixers = tuple(dict.fromkeys(options.mixers or plan.mixers))
    plan = replace(plan, mixers=mixers, rates=tuple(options.rates or plan.rates), **changes)
    for mixer in mixers:
        find_config(f"mixer/{mixer}")
    if plan.short_steps < LEAST:
        least = SHORT * LEAST * plan.window * plan.batch
        raise ValueError(
            f"--tokens {plan.tokens} must be {least} or more: the runs that choose a learning rate "
            f"have 1/{SHORT} of them, and need {LEAST} steps of {plan.batch} windows"
        )
    return replace(plan, baseline=plan.baseline if plan.baseline in mixers else mixers[0])


def short_runs(plan: Plan, mixers: Sequence[str]) -> list[Run]:
    """The runs that choose the learning rates of mixers, and measure the time of their steps.

    Rate by rate, so that all mixers are timed beside about the same other work of the machine.
    """
    pairs = product(plan.rates, mixers)
    return [Run(RATES, mixer, HELD_OUT_SEED, lr, plan.short_steps) for lr, mixer in pairs]


def members(part: str, plan: Plan) -> list[str]:
    """The mixers of a part; lanes are for states that do not grow."""
    return [mixer for mixer in plan.mixers if part != "lanes" or not grows(mixer)]


def grows(mixer: str) -> bool:
    """Whether the state of a mixer grows with the tokens read, as that of attention does."""
    keys = {setting.key: setting.value for setting in read_config(find_config(f"mixer/{mixer}"))}
    backbone = "model.backbone"
    attention = keys.get(f"{backbone}.mixer") == "attention"
    return attention and keys.get(f"{backbone}.attention.window") is None


def wanted_parts(options: argparse.Namespace, plan: Plan) -> list[str]:
    """The parts that have a mixer; ValueError for none."""
    found = [part for part in dict.fromkeys(options.parts) if members(part, plan)]
    if not found:
        raise ValueError(
            f"--parts lanes has no mixer: the state of {' and '.join(plan.mixers)} grows, and "
            "lanes never end; name others with --mixers"
        )
    return found


def runs_of(
    part: str, options: argparse.Namespace, plan: Plan, choices: dict[str, Choice]
) -> Iterator[Run]:
    """The runs of a part with the learning rates of their mixers, seed by seed.

    Raises ValueError where --seconds are fewer than LEAST steps.
    """
    for seed in dict.fromkeys(options.seeds):
        for mixer in members(part, plan):
            choice = choices[mixer]
            if choice.lr is None:
                continue
            steps = plan.steps(plan.tokens)
            if part == "seconds":
                steps = round(plan.seconds / choice.step_seconds)
            if steps < LEAST:
                raise ValueError(
                    f"--seconds {plan.seconds:g} are {steps} steps of {mixer}, and it needs "
                    f"{LEAST}: give {LEAST * choice.step_seconds:.0f} or more with another --out"
                )
            yield Run(part, mixer, seed, choice.lr, steps)


def target_plan(plan: Plan, length: int, data: Tokens) -> targets.Plan:
    """The fixed targets, and contexts from a quarter of a window on.

    Raises ValueError for a length that has no room for FAR windows, and for too short documents.
    """
    from tttvideo.measures.plan import PlanSettings, make_plan, target_span

    full = length - target_span(length)
    if full < FAR * plan.window:
        raise ValueError(
            f"--length {length} must hold {FAR} windows of {plan.window} and the targets after "
            f"them: choose {FAR * plan.window * 8 // 7 + 1} or more, or a smaller --window"
        )
    quarter = max(1, plan.window // 4)
    doublings = (quarter << n for n in range(full.bit_length()))
    contexts = [0, *(context for context in doublings if context < full), full]
    settings = PlanSettings(
        length=length,
        reset=plan.window,
        targets=TARGETS,
        documents=plan.documents,
        contexts=[*contexts, FAR * plan.window],
    )
    return make_plan(settings, data, [plan.window])


def far_documents(plan: Plan, mixer: str) -> int:
    """Documents in which contexts beyond FAR windows are measured."""
    return max(1, plan.documents // FEW) if grows(mixer) else plan.documents


def fixed_settings(options: argparse.Namespace, plan: Plan, data: dict[str, str]) -> dict[str, Any]:
    """What all runs of a comparison share; mixers, seeds and parts may be added to it.

    data: hashes of the training and the validation data.
    """
    free = "mixers", "baseline", "jobs"
    values = {name: value for name, value in asdict(plan).items() if name not in free}
    return {**values, "rates": list(plan.rates), "length": options.length, **data}


def fit_arguments(run: Run, options: argparse.Namespace, plan: Plan, folder: str) -> list[str]:
    """Arguments of `tttvideo fit`."""
    lanes = run.part == "lanes"
    return [
        *("--config", plan.size, "--config", f"mixer/{run.mixer}"),
        *(f"--seed_everything={run.seed}", f"--data.seed={run.seed}"),
        f"--data.train={options.train}",
        f"--data.validation={options.validation}",
        *(f"--data.window={plan.window}", f"--data.batch_size={plan.batch}"),
        *(f"--data.lanes={str(lanes).lower()}", f"--data.share_fresh={SHARE_FRESH}"),
        *(f"--model.optim.lr={run.lr}", f"--trainer.max_steps={run.steps}"),
        *("--trainer.accumulate_grad_batches=1", "--trainer.enable_progress_bar=false"),
        *(f"--trainer.val_check_interval={run.steps}", "--trainer.limit_val_batches=20"),
        *("--trainer.log_every_n_steps=10", "--trainer.devices=1"),
        f"--out={folder}",
    ]
