"""`tttvideo evaluate facts`: models of all mixers learn to recall facts, and are measured."""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from tttvideo.apps.commands.evaluate_facts import SETTINGS
from tttvideo.apps.report import run_conditions, runs_before, wanted_runs, write_record
from tttvideo.apps.show.facts_plot import draw_facts, facts_page
from tttvideo.files import write_text
from tttvideo.measures.facts import FactSettings, measure
from tttvideo.progress import progress
from tttvideo.weights.checkpoints import save_tokens_model


def evaluate_facts(options: argparse.Namespace) -> None:
    """Each run is recorded when it ends, and not run again."""
    out = Path(options.out)
    torch.set_num_threads(1)
    chosen = {name: getattr(options, name) for name in SETTINGS}
    settings = FactSettings(**chosen, seconds=options.seconds)
    record = {**run_conditions("cpu"), "settings": asdict(settings)}
    record["runs"] = runs_before(out / "facts.json", record["settings"])
    done = {(run["mixer"], run["seed"]) for run in record["runs"]}
    wanted = dict.fromkeys((name, seed) for seed in options.seeds for name in options.mixers)
    missing = [pair for pair in wanted if pair not in done]
    with progress("training", int(settings.seconds) * len(missing), "CPU seconds") as advance:
        for name, seed in missing:
            model, run = measure(name, settings, seed, advance)
            save_tokens_model(model, out / f"{name}_{seed}.ckpt")
            record["runs"].append(run)
            write_record(out / "facts.json", record)
    record = wanted_runs(out / "facts.json", wanted, "mixer", "seed")
    page = facts_page(record)
    write_text(out / "facts.md", page)
    draw_facts(record, out / "facts.png")
    print(page)
    print(*sorted(out.glob("facts.*")), sep="\n")
