"""`tttvideo reproduce NAME`: run the commands of a plan, each once and in a process of its own.

A process of its own: so that neither memory nor the number of threads carries over.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tttvideo.files import locked, read_json, write_json

from .config_files import split
from .device import best_device
from .figure_plans import FigurePlan
from .report import run_conditions
from .stages import Stages


RECORDS = "lock", "stages.json", "reproduce.json"


def run(options: argparse.Namespace) -> None:
    if not options.name:
        return print(listing(options.plans))
    device = best_device()
    commands = options.plan.commands(
        options.out, "gpu" if device == "cuda" else "cpu", options.changes
    )
    print(
        f"{options.plan.title}\nAbout {options.plan.minutes} minutes on two CPU cores. "
        "Ctrl-C stops; the same command resumes.",
        flush=True,
    )
    with locked(options.out / "lock") as lock:
        Figure(options.plan, options.out, device, lock).make(commands)
    print("\nDone.", *pages(options.out), options.out / "reproduce.json", sep="\n  ")


def listing(plans: Sequence[FigurePlan]) -> str:
    lines = [f"  {plan.path.stem:<13}{plan.title} ({plan.minutes} minutes)" for plan in plans]
    return "\n".join(["Figures, and their time on two CPU cores:", *lines])


def pages(out: Path) -> list[Path]:
    """The pages and pictures that the commands wrote."""
    places = [f"{folder}*.{kind}" for folder in ("", "*/") for kind in ("md", "png")]
    return sorted(path for place in places for path in out.glob(place))


class Figure:
    """The commands of a figure, which are run in `out`; `lock`: an open file, see `locked`."""

    def __init__(self, plan: FigurePlan, out: Path, device: str, lock: int):
        self.out, self.device, self.lock = out, device, lock
        self.path = out / "reproduce.json"
        before = read_json(self.path, f"delete {out}") if self.path.is_file() else {"steps": []}
        self.record: dict[str, Any] = {
            "plan": plan.path.stem,
            "title": plan.title,
            "steps": before["steps"],
        }

    def make(self, commands: list[list[str]]) -> None:
        """Run the commands that are not done; see `Stages`."""
        stages = Stages(self.out / "stages.json", len(commands))
        outs = [written(words, self.out) for words in commands]
        for number, words in enumerate(commands):
            stages.once(f"clear {number}", words, partial(self.clear, outs[number], outs[:number]))
            title = f"tttvideo {shlex.join(words)}"
            stages.do(f"run {number}", words, title, partial(self.step, number, words))

    def clear(self, path: Path | None, kept: Sequence[Path | None]) -> None:
        """Remove what a command wrote with other arguments, unless an earlier one wrote there."""
        if path is None or any(path == other or path in other.parents for other in kept if other):
            return
        for one in self.out.glob("*") if path == self.out else [path]:
            if one.is_dir():
                shutil.rmtree(one)
            elif one.name not in RECORDS:
                one.unlink(missing_ok=True)

    def step(self, number: int, words: list[str]) -> None:
        """Run a command and record its time, with that of runs of it that were stopped before."""
        command = shlex.join(["tttvideo", *words])
        before = self.record["steps"][number:][:1]
        stopped = [one for one in before if one["command"] == command and not one["finished"]]
        start = time.monotonic() - sum(one["seconds"] for one in stopped)
        conditions, finished = run_conditions(self.device), False
        try:
            run_command(words, self.lock)
            finished = True
        finally:
            seconds = time.monotonic() - start
            new = {"command": command, "seconds": round(seconds, 1), "finished": finished}
            new = {**conditions, **new}
            self.record["steps"] = [*self.record["steps"][:number], new]
            write_json(self.path, self.record)
        print(f"done in {seconds:,.0f} s", flush=True)


def written(words: list[str], out: Path) -> Path | None:
    """What a command writes, by its option --out: `out` or below it; None for another place."""
    path = dict(split(words)).get("--out")
    return Path(path) if path and out in (Path(path), *Path(path).parents) else None


def run_command(words: list[str], lock: int) -> None:
    """Run a command in a process, which holds the lock too. Raises ValueError if it fails."""
    command = [sys.executable, "-P", "-m", "tttvideo.apps.cli", *words]
    with subprocess.Popen(command, pass_fds=[lock]) as process:
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # Ctrl-C has reached it too, a signal to this process has not
            raise
    if code in (130, -2):
        raise KeyboardInterrupt
    if code:
        raise ValueError(
            f"`tttvideo {shlex.join(words)}` failed (exit code {code}); its last line says why. "
            "The same command resumes with it"
        )
