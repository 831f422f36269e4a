"""`tttvideo evaluate scaling`: loss by size and by compute, over the runs of `tttvideo fit`."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tttvideo.apps.report import run_conditions, write_record
from tttvideo.apps.show.scaling_plot import draw_scaling, scaling_page
from tttvideo.files import write_text
from tttvideo.measures.scaling import Best, Point, best_context
from tttvideo.measures.scaling_runs import Group, Run, group_runs, read_run
from tttvideo.progress import progress


def evaluate_scaling(options: argparse.Namespace) -> None:
    runs = read_runs([Path(path) for path in dict.fromkeys(options.runs)])
    groups, best = group_runs(runs), {}
    for mixer in dict.fromkeys(run.mixer for run in runs):
        mine = [Point(r.context, r.flops, r.loss) for r in runs if r.mixer == mixer]
        best[mixer] = best_context(mine)
    about = run_conditions("cpu")
    out = Path(options.out)
    text = scaling_page(groups, best, about)
    write_record(out / "scaling.json", scaling_record(groups, best, about))
    write_text(out / "scaling.md", text)
    draw_scaling(groups, best, about, out / "scaling.png")
    print(text)
    print(*sorted(out.glob("scaling.*")), sep="\n")


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs by mixer, context and operations; ValueError for runs of different tokenizers."""
    runs = []
    with progress("reading runs", len(paths), "runs") as advance:
        for path in paths:
            runs.append(read_run(path))
            advance(1)
    for other in runs[1:]:
        if other.tokenizer != runs[0].tokenizer:
            raise ValueError(
                f"{runs[0].name} reads tokens of {runs[0].tokenizer} and {other.name} of "
                f"{other.tokenizer}; losses per token compare within one tokenizer only"
            )
    return sorted(runs, key=lambda run: (run.mixer, run.context, run.flops))


def scaling_record(
    groups: list[Group], best: dict[str, list[Best]], about: dict[str, Any]
) -> dict[str, Any]:
    """The content of scaling.json."""
    return {
        **about,
        "groups": [asdict(group) for group in groups],
        "best_context": {mixer: [asdict(b) for b in found] for mixer, found in best.items()},
    }
