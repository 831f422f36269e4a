"""`tttvideo evaluate capacity`: recall by the number of cells, for memories of equal bytes."""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from tttvideo.apps.commands.evaluate_capacity import SETTINGS
from tttvideo.apps.report import run_conditions, runs_before, wanted_runs, write_record
from tttvideo.apps.show.capacity_plot import capacity_page, draw_capacity
from tttvideo.files import write_text
from tttvideo.measures.capacity import CapacitySettings, measure
from tttvideo.progress import progress


def evaluate_capacity(options: argparse.Namespace) -> None:
    """Each run is recorded when it ends, and not run again."""
    out = Path(options.out)
    torch.set_num_threads(1)
    chosen = {name: getattr(options, name) for name in SETTINGS}
    settings = CapacitySettings(tuple(options.sizes), **chosen, seconds=options.seconds)
    record = {**run_conditions("cpu"), "settings": asdict(settings) | {"sizes": options.sizes}}
    record["runs"] = runs_before(out / "capacity.json", record["settings"])
    done = {(run["memory"], run["seed"]) for run in record["runs"]}
    wanted = dict.fromkeys((name, seed) for seed in options.seeds for name in options.memories)
    missing = [pair for pair in wanted if pair not in done]
    with progress("training", int(settings.seconds) * len(missing), "CPU seconds") as advance:
        for name, seed in missing:
            record["runs"].append(measure(name, settings, seed, advance))
            write_record(out / "capacity.json", record)
    record = wanted_runs(out / "capacity.json", wanted, "memory", "seed")
    page = capacity_page(record)
    write_text(out / "capacity.md", page)
    draw_capacity(record, out / "capacity.png")
    print(page)
    print(*sorted(out.glob("capacity.*")), sep="\n")
