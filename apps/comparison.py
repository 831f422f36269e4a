"""`tttvideo compare TRAIN VALIDATION --out DIR`: mixers trained on equal tokens, and measured.

Each run is trained in short windows first and then at the whole context, and is a folder of its
own, DIR/MIXER_SEED. What is finished is not done again, and what was cut off goes on.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

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


def main(arguments: list[str]) -> None:
    options = parser().parse_args(arguments[1:])
    plan = new_plan(options)
    runs = [
        Run(mixer, seed, Path(options.out), options)
        for seed, mixer in product(options.seeds, plan.mixers)
    ]
    with ThreadPoolExecutor(plan.jobs) as pool:
        for _ in pool.map(lambda run: run.train(plan), runs):
            pass
    from . import evaluate

    checkpoints = [f"{run.mixer}={run.checkpoint(len(plan.stages) - 1)}" for run in runs]
    evaluate.main(
        ["evaluate", "text", *checkpoints, options.validation, "--out", options.out]
        + ["--length", str(plan.stages[1].window), "--reset", str(plan.stages[0].window)]
    )


def new_plan(options: argparse.Namespace) -> Plan:
    plan = PLANS[best_device()]
    tokens = options.tokens or [stage.tokens for stage in plan.stages]
    windows = options.windows or [stage.window for stage in plan.stages]
    for name, counts in (("tokens", tokens), ("windows", windows), ("jobs", [options.jobs or 1])):
        if min(counts) < 1:
            raise ValueError(f"--{name} {' '.join(map(str, counts))} must be 1 or more")
    stages = tuple(
        Stage(window, stage.batch, count, stage.lr)
        for stage, window, count in zip(plan.stages, windows, tokens, strict=True)
    )
    mixers = tuple(options.mixers or plan.mixers)
    return Plan(plan.size, mixers, stages, options.jobs or plan.jobs)


class Run:
    """One mixer with one seed."""

    def __init__(self, mixer: str, seed: int, out: Path, options: argparse.Namespace):
        self.mixer, self.seed, self.options = mixer, seed, options
        self.folder = out / f"{mixer}_{seed}"

    def checkpoint(self, stage: int) -> Path:
        return self.folder / f"stage_{stage}" / "last.ckpt"

    def train(self, plan: Plan) -> None:
        for number, stage in enumerate(plan.stages):
            arguments = self.arguments(plan, number, stage)
            record = self.folder / f"stage_{number}" / "done.json"
            if record.is_file() and json.loads(record.read_text())["arguments"] == arguments:
                print(f"{self.folder}, stage {number}: done before", flush=True)
                continue
            seconds = self.fit(arguments, self.folder / f"stage_{number}.log")
            partial = record.with_suffix(".partial")
            partial.write_text(json.dumps({"arguments": arguments, "seconds": seconds}) + "\n")
            os.replace(partial, record)
            rate = stage.steps * stage.window * stage.batch / seconds
            print(
                f"{self.folder}, stage {number}: {stage.steps} steps of {stage.batch} x "
                f"{stage.window} tokens in {seconds:,.0f} s, {rate:,.0f} tokens/s",
                flush=True,
            )

    def arguments(self, plan: Plan, number: int, stage: Stage) -> list[str]:
        """Of `tttvideo fit`."""
        found = ["--config", plan.size, "--config", f"mixer/{self.mixer}"]
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
            found.append(f"--model.start_from={self.checkpoint(number - 1)}")
        return found

    def fit(self, arguments: list[str], log: Path) -> float:
        """Train in a process of its own; the seconds it took. ValueError with its last words."""
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-P", "-m", "tttvideo.apps.cli", "fit", *arguments]
        start = time.monotonic()
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
        return time.monotonic() - start
