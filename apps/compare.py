"""`tttvideo compare`: train mixers on equal tokens and measure them.

Each run is trained in short windows first and then at the whole context, in a folder of its own,
DIR/MIXER_SEED. A finished stage is not trained again, and a stopped one resumes.
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

from tttvideo.apps.commands import invoke
from tttvideo.data.tokens import open_tokens
from tttvideo.files import read_json, write_json
from tttvideo.progress import progress

from .comparison_plan import Plan, Stage, measurement, new_plan, pairs
from .device import best_device


def run(options: argparse.Namespace) -> None:
    plan = new_plan(options, best_device())
    data = [open_tokens(path).fingerprint for path in (options.train, options.validation)]
    runs = [Run(*pair, options, plan, data) for pair in pairs(options, plan)]
    total = len(runs) * sum(stage.tokens for stage in plan.stages)
    steps = sum(stage.steps for stage in plan.stages)
    print(f"{len(runs)} runs of {steps:,} steps, {plan.jobs} at once", flush=True)
    with ThreadPoolExecutor(plan.jobs) as pool, progress("training", total, "tokens") as advance:
        for _ in pool.map(lambda run: run.train(advance), runs):
            pass
    invoke("evaluate text", measurement(options, plan))


@dataclass(frozen=True)
class Run:
    """One mixer with one seed; `data`: fingerprints of the training and validation tokens."""

    mixer: str
    seed: int
    options: argparse.Namespace
    plan: Plan
    data: list[str]

    @property
    def folder(self) -> Path:
        return Path(self.options.out) / f"{self.mixer}_{self.seed}"

    def train(self, advance: Callable[[int], None]) -> None:
        """Train the stages that are not finished; `advance` gets the tokens of each at its end."""
        settings = list(self.data)
        for number, stage in enumerate(self.plan.stages):
            settings = settings + self.arguments(number, stage)
            record = self.folder / f"stage_{number}.json"
            words = f"{self.folder}, stage {number}:"
            if self.is_done(record, settings):
                print(f"{words} done before", flush=True)
                advance(stage.tokens)
                continue
            write_record(record, settings, done=False)
            start = time.monotonic()
            self.fit(self.arguments(number, stage), self.folder / f"stage_{number}.log")
            write_record(record, settings, done=True)
            words += f" {stage.steps:,} steps of {stage.batch} x {stage.window:,} tokens"
            print(f"{words} in {time.monotonic() - start:,.0f} s", flush=True)
            advance(stage.tokens)

    def is_done(self, record: Path, settings: list[str]) -> bool:
        """Is this stage finished? ValueError if it was started with other settings."""
        if not record.is_file():
            return False
        before = read_json(record, f"delete {self.folder}")
        if before["told"] != settings:
            both = zip_longest(before["told"], settings)
            old, new = next(pair for pair in both if len(set(pair)) > 1)
            raise ValueError(
                f"{self.folder} holds a run with {old}, not {new}; choose another --out"
            )
        return before["done"]

    def arguments(self, number: int, stage: Stage) -> list[str]:
        """Arguments of `tttvideo fit` for a stage."""
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
        """Train in a process of its own. Raises ValueError with the last line of its log."""
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


def write_record(path: Path, settings: list[str], done: bool) -> None:
    """Record a stage; "told" is the name of the settings in files of earlier versions too."""
    write_json(path, {"told": settings, "done": done})
