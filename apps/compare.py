"""`tttvideo compare`: train mixers on equal tokens and measure them.

Each run has a folder, DIR/MIXER_SEED, and two stages: short windows, then the whole context. A
finished stage is not trained again, and a stopped one resumes.
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
    print(f"{len(runs)} runs of {steps:,} steps, {plan.jobs} in parallel", flush=True)
    with ThreadPoolExecutor(plan.jobs) as pool, progress("training", total, "tokens") as advance:
        list(pool.map(lambda run: run.train(advance), runs))
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
        settings = self.data
        for number, stage in enumerate(self.plan.stages):
            arguments = self.arguments(number, stage)
            settings = settings + arguments
            record = self.folder / f"stage_{number}.json"
            result = "done before"
            if not self.is_done(record, settings):
                write_record(record, settings, done=False)
                start = time.monotonic()
                self.fit(arguments, record.with_suffix(".log"))
                write_record(record, settings, done=True)
                result = f"{stage.steps:,} steps of {stage.batch} x {stage.window:,} tokens"
                result += f" in {time.monotonic() - start:,.0f} s"
            print(f"{self.folder}, stage {number}: {result}", flush=True)
            advance(stage.tokens)

    def is_done(self, record: Path, settings: list[str]) -> bool:
        """Whether a stage is finished; ValueError if it was started with other settings."""
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
        start_from = [f"--model.start_from={self.folder}/stage_{number - 1}/last.ckpt"]
        return [
            *("--config", self.plan.size, "--config", f"mixer/{self.mixer}"),
            *(f"--seed_everything={self.seed}", f"--data.seed={self.seed}"),
            f"--data.train={self.options.train}",
            f"--data.validation={self.options.validation}",
            *(f"--data.window={stage.window}", f"--data.batch_size={stage.batch}"),
            *(f"--model.optim.lr={stage.lr}", f"--trainer.max_steps={stage.steps}"),
            *("--trainer.accumulate_grad_batches=1", "--trainer.enable_progress_bar=false"),
            *(f"--trainer.val_check_interval={stage.steps}", "--trainer.limit_val_batches=20"),
            *("--trainer.log_every_n_steps=10", "--trainer.devices=1"),
            f"--out={self.folder}/stage_{number}",
            *(start_from if number else ()),
        ]

    def fit(self, arguments: list[str], log: Path) -> None:
        """Train in a new process. Raises ValueError with the last line of its log."""
        command = [sys.executable, "-P", "-m", "tttvideo.apps.cli", "fit", *arguments]
        threads = {"OMP_NUM_THREADS": "1"}
        with open(log, "w") as file:
            done = subprocess.run(command, stdout=file, stderr=file, env=os.environ | threads)
        if done.returncode:
            *_, last = ["", *log.read_text().strip().splitlines()]
            raise ValueError(f"the run {self.folder} failed: {last} (see {log})")


def write_record(path: Path, settings: list[str], done: bool) -> None:
    """Record a stage; the key of the settings is "told", as in files of earlier versions."""
    write_json(path, {"told": settings, "done": done})
