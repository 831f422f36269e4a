"""`tttvideo compare`: train mixers on equal tokens and for equal time, and measure them.

    DIR/choices.json        the settings of the comparison, and the learning rate of each mixer
    DIR/rates/MIXER_LR/     short runs of another seed, which choose it and time the steps
    DIR/PART/MIXER_SEED/    the runs of a part: last.ckpt, run.json, targets.json
    DIR/comparison.*, DIR/fixed_targets.png

After a kill the same command resumes: what is finished is not made again.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from statistics import median

from tttvideo.apps.show.comparison_page import write_comparison
from tttvideo.data.tokens import open_tokens
from tttvideo.files import locked, read_json, write_json
from tttvideo.progress import progress

from .comparison_plan import (
    PARTS,
    RATES,
    Choice,
    Finished,
    Plan,
    Run,
    fit_arguments,
    fixed_settings,
    new_plan,
    runs_of,
    short_runs,
    wanted_parts,
)
from .comparison_runs import Job, Workers
from .device import best_device


def run(options: argparse.Namespace) -> None:
    plan = new_plan(options, best_device())
    parts = wanted_parts(options, plan)
    with locked(Path(options.out) / "lock"), Workers(plan.jobs) as workers:
        comparison = Comparison(options, plan, workers)
        choices = comparison.choose()
        found: dict[str, list[Finished]] = {}
        for part in parts:
            runs = list(runs_of(part, options, plan, choices))
            found[part] = comparison.make(PARTS[part], runs)
            page = write_comparison(Path(options.out), found, choices, plan)
    print(page)


class Comparison:
    """The runs of a folder, and the settings that all of them share."""

    def __init__(self, options: argparse.Namespace, plan: Plan, workers: Workers):
        self.options, self.plan, self.workers = options, plan, workers
        self.out = Path(options.out)
        self.path = self.out / "choices.json"
        data = {name: open_tokens(getattr(options, name)) for name in ("train", "validation")}
        hashes = {name: tokens.fingerprint for name, tokens in data.items()}
        self.settings = fixed_settings(options, plan, hashes)
        self.choices = self.read_choices()

    def read_choices(self) -> dict[str, Choice]:
        """Those of earlier runs of the command; ValueError if its settings were others."""
        if not self.path.is_file():
            return {}
        before = read_json(self.path, f"delete {self.out}")
        for name, new in self.settings.items():
            if (old := before["settings"].get(name)) != new:
                raise ValueError(
                    f"{self.out} holds a comparison with {name} {old}, and now it is {new}; give "
                    "the same, or choose another --out"
                )
        return {mixer: Choice(**values) for mixer, values in before["choices"].items()}

    def choose(self) -> dict[str, Choice]:
        """The learning rate of each mixer, of the lowest loss, and the time of its steps."""
        missing = [mixer for mixer in self.plan.mixers if mixer not in self.choices]
        self.save()
        found = self.make("learning rates", short_runs(self.plan, missing))
        for mixer in missing:
            own = [one for one in found if one.run.mixer == mixer]
            losses = {one.run.lr: one.record["loss"] for one in own}
            finite = {lr: loss for lr, loss in losses.items() if loss is not None}
            self.choices[mixer] = Choice(
                lr=min(finite, key=lambda lr: finite[lr]) if finite else None,
                step_seconds=median(one.record["step_seconds"] for one in own),
                losses={f"{lr:g}": loss for lr, loss in losses.items()},
            )
        self.save()
        return {mixer: self.choices[mixer] for mixer in self.plan.mixers}

    def save(self) -> None:
        chosen = {mixer: asdict(choice) for mixer, choice in self.choices.items()}
        write_json(self.path, {"settings": self.settings, "choices": chosen})

    def make(self, title: str, runs: list[Run]) -> list[Finished]:
        """Train and measure the runs that are not finished; the records of all."""
        if runs:
            print(f"{title}: {len(runs)} runs, {self.plan.jobs} in parallel", flush=True)
        jobs = {run: self.job(run) for run in runs}
        total = sum(run.steps for run in runs)
        with progress("training", total, "steps") as advance:
            for run, done in self.workers.all(jobs):
                print(f"{jobs[run].folder}: {done}", flush=True)
                advance(run.steps)
        return [Finished(run, *jobs[run].records()) for run in runs]

    def job(self, run: Run) -> Job:
        """What a worker does of a run."""
        folder = self.out / run.name
        return Job(
            run=run,
            plan=self.plan,
            folder=folder,
            settings={**self.settings, "run": asdict(run)},
            arguments=fit_arguments(run, self.options, self.plan, str(folder)),
            validation=None if run.part == RATES else self.options.validation,
            length=self.options.length,
        )
