"""The work of one run of `tttvideo compare`, in a process of one thread: train and measure."""

import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch

from tttvideo.apps.commands import invoke
from tttvideo.data.tokens import open_tokens
from tttvideo.data.work_items import end_with_parent, without_interrupts
from tttvideo.files import read_json, write_json
from tttvideo.measures.scaling_runs import read_losses
from tttvideo.measures.target_curve import curve_plan, measure_curve
from tttvideo.weights.checkpoints import load_step_time

from .comparison_plan import FAR, Plan, Run, far_documents, grows, target_plan
from .device import best_device
from .report import run_conditions, write_record


@dataclass(frozen=True)
class Job:
    """A run, and all that its folder and its numbers depend on."""

    run: Run
    plan: Plan
    folder: Path
    settings: dict[str, Any]
    arguments: list[str]
    """Of `tttvideo fit`."""
    validation: str | None
    """The data to measure it on; None: it is not measured."""
    length: int
    """Tokens read of each document."""

    @property
    def record(self) -> Path:
        return self.folder / "run.json"

    @property
    def measured(self) -> Path:
        return self.folder / "targets.json"

    def records(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """What was recorded of the finished run, and of its measurement, if it has one."""
        remedy = f"delete {self.folder}"
        measured = read_json(self.measured, remedy) if self.measured.is_file() else None
        return read_json(self.record, remedy), measured

    def do(self) -> str:
        """Train and measure, unless that is done; returns what was done, in words."""
        trained = not self.is_trained()
        if trained:
            self.train()
        if self.records()[0]["loss"] is None:
            return "diverged"
        measured = self.validation is not None and self.measure(self.validation)
        if not trained and not measured:
            return "done before"
        words = [f"{self.run.steps:,} steps"] * trained + ["measured"] * measured
        return ", ".join(words)

    def is_trained(self) -> bool:
        """Whether the run is finished; ValueError if the folder holds a run of other settings."""
        if not self.record.is_file():
            return False
        before = read_json(self.record, f"delete {self.folder}")
        if before["settings"] != self.settings:
            raise ValueError(f"{self.folder} holds another run; delete it, or choose another --out")
        return before["done"]

    def train(self) -> None:
        record: dict[str, Any] = {"settings": self.settings, "done": False}
        write_json(self.record, record)
        loss = self.fit()
        seconds = load_step_time(self.folder / "last.ckpt")
        tokens = self.run.steps * self.plan.batch * self.plan.window
        record |= {"loss": loss, "step_seconds": seconds, "tokens": tokens, "done": True}
        write_record(self.record, {**record, "trained": run_conditions(best_device())})

    def fit(self) -> float:
        """Train, or resume; returns the validation loss after the last step."""
        with logged(self.folder / "fit.log"):
            invoke("fit", self.arguments)
        losses = read_losses(self.folder)
        if self.run.steps not in losses:
            raise ValueError(f"{self.folder} was not validated; {self.folder}/fit.log says more")
        return losses[self.run.steps]

    def measure(self, validation: str) -> bool:
        """Measure the fixed targets; returns whether that was not done before."""
        data, last, plan = open_tokens(validation), self.folder / "last.ckpt", self.plan
        documents = far_documents(plan, self.run.mixer)
        targets = target_plan(plan, self.length, data)
        curve = curve_plan(targets, FAR * plan.window, documents, whole=grows(self.run.mixer))
        key = curve.key(last, data)
        _, before = self.records()
        if before and before["key"] == key:
            return False
        found = measure_curve(last, data, curve, best_device())
        about = {"key": key, "measured": run_conditions(best_device())}
        write_record(self.measured, {**found, **about})
        return True


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Add what is printed to a file."""
    with open(path, "a") as log, redirect_stdout(log), redirect_stderr(log):
        yield


class Workers(AbstractContextManager):
    """Processes that do jobs, and end with this one however it ends."""

    def __init__(self, count: int):
        self.others = active_children()
        self.pool = ProcessPoolExecutor(count, get_context("spawn"), start_worker)

    def all(self, jobs: Mapping[Run, Job]) -> Iterator[tuple[Run, str]]:
        """The runs as their jobs end, with what was done. Raises the first error of a job."""
        with without_interrupts():
            futures = {self.pool.submit(job.do): run for run, job in jobs.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise ValueError(
                "a process that trained died, perhaps from lack of memory; the same command "
                "resumes, with fewer --jobs if need be"
            ) from error

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            for child in set(active_children()) - set(self.others):
                child.kill()
        self.pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process stops the workers
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # a CPU takes a hundred times longer over numbers below 1e-38
