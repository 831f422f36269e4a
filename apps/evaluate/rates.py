"""`tttvideo evaluate rates`: whether dense frames predict an instant better than sparse ones."""

import argparse
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch

from tttvideo.apps.commands.evaluate_rates import SETTINGS
from tttvideo.apps.report import run_conditions, runs_before, wanted_runs, write_record
from tttvideo.apps.show.rates_plot import draw_rates, rates_page
from tttvideo.files import write_text
from tttvideo.measures.rates import RateSettings, both_walks, effort, measure
from tttvideo.progress import progress


def evaluate_rates(options: argparse.Namespace) -> None:
    """Each run is recorded when it ends, and not run again."""
    out = Path(options.out)
    torch.set_num_threads(1)
    settings = RateSettings(**{n: getattr(options, n) for n in (*SETTINGS, "walks", "held_out")})
    if "maze" in options.worlds:
        both_walks(settings)  # before any training
    record = {**run_conditions("cpu"), "settings": asdict(settings)}
    record["runs"] = runs_before(out / "rates.json", record["settings"])
    done = {(run["world"], run["rate"], run["seed"]) for run in record["runs"]}
    chosen = product(options.seeds, options.worlds, options.rates)
    wanted = dict.fromkeys((world, rate, seed) for seed, world, rate in chosen)
    missing = [run for run in wanted if run not in done]
    total = sum(effort(world, settings) for world, _, _ in missing)
    with progress("training", round(total / 1e9), "GFLOP") as advance:
        for world, rate, seed in missing:
            record["runs"].append(measure(world, rate, settings, seed, advance))
            write_record(out / "rates.json", record)
    record = wanted_runs(out / "rates.json", wanted, "world", "rate", "seed")
    page = rates_page(record)
    write_text(out / "rates.md", page)
    draw_rates(record, out / "rates.png")
    print(page)
    print(*sorted(out.glob("rates.*")), sep="\n")
