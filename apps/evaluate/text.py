"""`tttvideo evaluate text`: loss by token index and on fixed targets, by length of context."""

import argparse
from dataclasses import replace
from pathlib import Path

from tttvideo.apps.commands.evaluate_text import plan_settings
from tttvideo.apps.commands.options import named_checkpoints
from tttvideo.apps.device import best_device
from tttvideo.apps.report import run_conditions
from tttvideo.apps.show.text_plots import draw_text_figures
from tttvideo.apps.show.text_report import write_text_report
from tttvideo.data.tokens import Tokens, open_tokens
from tttvideo.measures.meter import Measured, Meter, read_cache, write_cache
from tttvideo.measures.plan import Plan, make_plan
from tttvideo.measures.subjects import (
    Subject,
    byte_lengths,
    load_for,
    read_subjects,
    training_windows,
)
from tttvideo.progress import progress


def evaluate_text(options: argparse.Namespace) -> None:
    data = open_tokens(options.data)
    subjects = read_subjects(named_checkpoints(options.checkpoints), data)
    plan = make_plan(plan_settings(options), data, training_windows(subjects))
    out = Path(options.out)
    results = [measure_or_read(subject, plan, data, out) for subject in subjects]
    page = write_text_report(out, results, plan, data)
    draw_text_figures(out, results, plan)
    print(page)
    print(*sorted(out.glob("*.*")), sep="\n")


def measure_or_read(
    subject: Subject, plan: Plan, data: Tokens, out: Path
) -> tuple[Subject, Measured]:
    """Measure a checkpoint, or read the result of an earlier run of equal data and settings."""
    cache = out / "cache" / f"{plan.key(subject.sha256, data.fingerprint)}.json"
    if cache.is_file():
        print(f"{subject.path}: read from {cache}")
        measured, about = read_cache(cache)
        return replace(subject, cached=True, measured=about), measured
    checkpoint = load_for(subject.path, data)
    lengths = byte_lengths(checkpoint, data)
    device = best_device()
    backbone = checkpoint.backbone.to(device)
    ttt = backbone.config.mixer == "ttt"
    work = plan.work(backbone.config.resolved.mini_batch_size if ttt else None)
    with progress(subject.label, work, "tokens") as advance:
        measured = Meter(backbone, data, lengths, plan, advance).measure()
    about = run_conditions(device)
    write_cache(cache, measured, about)
    return replace(subject, measured=about), measured
