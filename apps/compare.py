"""`tttvideo compare TRAIN VALIDATION --out DIR`: mixers trained on equal tokens, and measured.

Each run is trained in short windows first and then at the whole context, and is a folder of its
own, DIR/MIXER_SEED. What is finished is not done again, and what was cut off goes on.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from tttvideo.apps.commands import invoke, parse
from tttvideo.files import read_json, write_json
from tttvideo.progress import progress

from .device import best_device


MIXERS = "ttt_linear", "ttt_mlp", "attention", "sliding_window"


@dataclass(frozen=True)
class Stage:
    """A part of a run: `tokens` tokens in windows of `window`, `batch` windows to a step."""

    window: int
    batch: int
    tokens: int
    lr: float

    @property
    def steps(self) -> int:
        return max(1, round(self.tokens / (self.window * self.batch)))


@dataclass(frozen=True)
class Plan:
    """What fits a device: packaged configs, and the two stages of every run."""

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


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tttvideo compare",
        description="Train mixers on equal tokens and draw their loss by token index and on fixed "
        "targets. Started again, it goes on where it stopped.",
        epilog="example: tttvideo compare out/stdlib/train out/stdlib/validation --out out/compare",
    )
    top.add_argument("train", metavar="TRAIN", help="tokens to learn from, of `tttvideo prepare`")
    top.add_argument("validation", metavar="VALIDATION", help="tokens to measure on")
    top.add_argument("--out", required=True, metavar="DIR", help="folder of all runs and results")
    top.add_argument(
        "--mixers",
        nargs="+",
        metavar="NAME",
        help=f"packaged configs mixer/NAME (default: {' '.join(MIXERS)}, and Mamba)",
    )
    top.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1], metavar="N", help="(default: 0 1)"
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
        help="their sizes in tokens (default: 1024 8192)",
    )
    top.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at once, one CPU thread each (default: 2 on a CPU, 1 on a GPU)",
    )
    return top


def run(options: argparse.Namespace) -> None:
    plan = new_plan(options)
    seeds = dict.fromkeys(options.seeds)
    pairs = [(mixer, seed) for seed in seeds for mixer in plan.mixers]
    measure = [
        *(f"{mixer}={checkpoint(options, mixer, seed, plan)}" for mixer, seed in pairs),
        *(options.validation, "--out", options.out),
        *("--length", str(plan.stages[1].window), "--reset", str(plan.stages[0].window)),
        *("--targets", "2"),  # in each document; more take longer than they tell
    ]
    data = check(options, plan, measure)
    runs = [Run(mixer, seed, options, plan, data) for mixer, seed in pairs]
    total = len(runs) * sum(stage.tokens for stage in plan.stages)
    with ThreadPoolExecutor(plan.jobs) as pool, progress("training", total, "tokens") as advance:
        for _ in pool.map(lambda run: run.train(advance), runs):
            pass
    invoke("evaluate text", measure)


def new_plan(options: argparse.Namespace) -> Plan:
    plan = PLANS[best_device()]
    tokens = options.tokens or [stage.tokens for stage in plan.stages]
    windows = options.windows or [stage.window for stage in plan.stages]
    jobs = plan.jobs if options.jobs is None else options.jobs
    for name, counts in (("tokens", tokens), ("windows", windows), ("jobs", [jobs])):
        if min(counts) < 1:
            raise ValueError(f"--{name} {' '.join(map(str, counts))} must be 1 or more")
    stages = tuple(
        Stage(window, stage.batch, count, stage.lr)
        for stage, window, count in zip(plan.stages, windows, tokens, strict=True)
    )
    mixers = tuple(dict.fromkeys(options.mixers or plan.mixers))
    return Plan(plan.size, mixers, stages, jobs)


def checkpoint(options: argparse.Namespace, mixer: str, seed: int, plan: Plan) -> Path:
    last = len(plan.stages) - 1
    return Path(options.out) / f"{mixer}_{seed}" / f"stage_{last}" / "last.ckpt"


def check(options: argparse.Namespace, plan: Plan, measure: list[str]) -> list[str]:
    """Find out before hours of training what would stop it or the measuring; what the data is."""
    from tttvideo.data.tokens import open_tokens
    from tttvideo.measures.plan import make_plan

    from .config_files import find_config

    for name in (plan.size, *(f"mixer/{mixer}" for mixer in plan.mixers)):
        find_config(name)
    train, validation = open_tokens(options.train), open_tokens(options.validation)
    make_plan(parse("evaluate text", measure), validation, plan.stages[1].window)
    return [train.fingerprint, validation.fingerprint]


@dataclass(frozen=True)
class Run:
    """One mixer with one seed; `data`: fingerprints of what is learned from and measured on."""

    mixer: str
    seed: int
    options: argparse.Namespace
    plan: Plan
    data: list[str]

    @property
    def folder(self) -> Path:
        return Path(self.options.out) / f"{self.mixer}_{self.seed}"

    def train(self, advance: Callable[[int], None]) -> None:
        """Train what is not done yet; `advance` hears of the tokens of each stage at its end."""
        told = list(self.data)
        for number, stage in enumerate(self.plan.stages):
            told = told + self.arguments(number, stage)
            record = self.folder / f"stage_{number}.json"
            if self.begun(record, told):
                print(f"{self.folder}, stage {number}: done before", flush=True)
                advance(stage.tokens)
                continue
            write_record(record, told, done=False)
            start = time.monotonic()
            self.fit(self.arguments(number, stage), self.folder / f"stage_{number}.log")
            write_record(record, told, done=True)
            print(
                f"{self.folder}, stage {number}: {stage.steps} steps of {stage.batch} x "
                f"{stage.window} tokens, {time.monotonic() - start:,.0f} s",
                flush=True,
            )
            advance(stage.tokens)

    def begun(self, record: Path, told: list[str]) -> bool:
        """Is this stage done? ValueError if it was begun in another way."""
        if not record.is_file():
            return False
        before = read_json(record, f"delete {self.folder}")
        if before["told"] != told:
            old, new = next(
                pair for pair in zip_longest(before["told"], told) if len(set(pair)) > 1
            )
            raise ValueError(
                f"{self.folder} holds a run that was told {old} and not {new}; choose another --out"
            )
        return before["done"]

    def arguments(self, number: int, stage: Stage) -> list[str]:
        """Of `tttvideo fit`."""
        found = ["--config", self.plan.size, "--config", f"mixer/{self.mixer}"]
        found += [f"--seed_everything={self.seed}", f"--data.seed={self.seed}"]
        found += [f"--data.train={self.options.train}"]
        found += [f"--data.validation={self.options.validation}"]
        found += [f"--data.window={stage.window}", f"--data.batch_size={stage.batch}"]
        found += [f"--model.optim.lr={stage.lr}", f"--trainer.max_steps={stage.steps}"]
        found += ["--trainer.accumulate_grad_batches=1", "--trainer.enable_progress_bar=false"]
        found += [f"--trainer.val_check_interval={stage.steps}", "--trainer.limit_val_batches=20"]
        found += ["--trainer.log_every_n_steps=10", "--trainer.devices=1"]
        found += [f"--out={self.folder / f'stage_{number}'}"]
        if number:
            before = self.folder / f"stage_{number - 1}" / "last.ckpt"
            found.append(f"--model.start_from={before}")
        return found

    def fit(self, arguments: list[str], log: Path) -> None:
        """Train in a process of its own; ValueError with its last words."""
        command = [sys.executable, "-P", "-m", "tttvideo.apps.cli", "fit", *arguments]
        with open(log, "w") as file:
            done = subprocess.run(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        if done.returncode:
            *_, last = ["", *log.read_text().strip().splitlines()]
            raise ValueError(f"the run {self.folder} failed: {last} (see {log})")


def write_record(path: Path, told: list[str], done: bool) -> None:
    write_json(path, {"told": told, "done": done})
