"""Recall as maps, in a picture and in tables: a column for each length."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from tttvideo.apps.report import DIVERGED, markdown_table, save_figure, short
from tttvideo.data.recall.questions import TASKS, chance


TITLES = {
    "needle": "needle in a haystack",
    "mqar": "multi-query associative recall",
    "variables": "variable tracking",
}


def exact_grid(record: dict[str, Any], task: str) -> tuple[list[int], list[float], np.ndarray]:
    """Lengths, rows, and the share of exact answers (rows, lengths), nan without a question."""
    cells = {(c["row"], c["length"]): c["exact"] for c in record["cells"] if c["task"] == task}
    rows, lengths = (sorted({key[n] for key in cells}) for n in (0, 1))
    return lengths, rows, np.array([[cells[r, n] for n in lengths] for r in rows], dtype=float)


def diverged(record: dict[str, Any], task: str) -> list[int]:
    """Lengths at which the bits of some answers are not finite; those count as wrong."""
    cells = (c for c in record["cells"] if c["task"] == task)
    return sorted({c["length"] for c in cells if c["answers"] and c["bits"] is None})


def row_name(task: str, row: float) -> str:
    return f"{row:.0%}" if task == "needle" else f"{row:g}"


def by_chance(record: dict[str, Any], task: str, row: float) -> str:
    """The share of exact answers from repeating any value of the text."""
    return f"{chance(task, row, record['settings']['distractors']):.0%}"


def window(record: dict[str, Any]) -> int | None:
    """Tokens of a training window, if the checkpoint records it."""
    return record["trained"]["window"] if record["trained"] else None


def about_model(record: dict[str, Any]) -> str:
    known = window(record)
    trained = f", trained on windows of {known:,} tokens" if known else ""
    return f"{record['mixer']}, {record['parameters'] / 1e6:.2f} M parameters{trained}"


def draw_maps(record: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(13.5, 3.9), layout="constrained")
    panels = figure.subplots(1, len(TASKS))
    images = [draw_map(panel, record, task) for panel, task in zip(panels, TASKS, strict=True)]
    form = "{x:.0%}"
    figure.colorbar(images[0], ax=panels, label="exact answers", shrink=0.85, format=form)
    figure.suptitle(f"Recall of {record['name']}: {about_model(record)}", fontsize=11)
    line = "{samples} texts per cell, seed {seed}, ".format(**record["settings"])
    line += "{device}, {date}, commit {commit}".format(**record)
    figure.supxlabel(line, fontsize=7, color="#666")
    save_figure(figure, path)


def draw_map(panel: Axes, record: dict[str, Any], task: str) -> AxesImage:
    """Red to green: the exact share; grey: no room; the line: the end of the training window."""
    lengths, rows, exact = exact_grid(record, task)
    panel.set_facecolor("#dddddd")
    image = panel.imshow(exact, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    for (row, column), share in np.ndenumerate(exact):
        if not np.isnan(share):
            panel.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=7)
    known = window(record)
    inside = sum(length <= known for length in lengths) if known else len(lengths)
    if inside < len(lengths):
        panel.axvline(inside - 0.5, color="black", linestyle="--", linewidth=1.5)
        panel.text(inside - 0.45, -0.56, "beyond training", fontsize=7, va="bottom")
    panel.set_xticks(range(len(lengths)), [short(n) for n in lengths], fontsize=8)
    names = [f"{row_name(task, row)} ({by_chance(record, task, row)})" for row in rows]
    panel.set_yticks(range(len(rows)), names, fontsize=8)
    wrong = ", ".join(map(short, diverged(record, task)))
    note = f"; {DIVERGED}: {wrong}" if wrong else ""
    panel.set_xlabel(f"length, tokens{note}", fontsize=8)
    panel.set_ylabel(f"{TASKS[task]} (by chance)", fontsize=8)
    panel.set_title(TITLES[task], fontsize=9, pad=14)
    return image


def recall_page(records: list[dict[str, Any]], about: dict[str, Any]) -> str:
    parts = [
        "# tttvideo evaluate recall: exact answers",
        f"`{about['command']}`\n{about['device']}, {about['date']}, commit {about['commit']}.",
        "Each answer's tokens are predicted from the true text before them; it is exact when all "
        "are. Lengths are in tokens; * marks those beyond the training window; empty: no room. By "
        "chance: the share from repeating any value of the text.",
    ]
    for record in records:
        parts.append(f"## {record['name']}\n\n{about_model(record)}; measured {record['date']}.")
        for task, rows in TASKS.items():
            parts += [f"### {TITLES[task]}, by {rows}", map_table(record, task)]
            if wrong := diverged(record, task):
                lengths = ", ".join(f"{n:,}" for n in wrong)
                parts.append(
                    f"{record['name']} {DIVERGED} on texts of {lengths} tokens: the cost of an "
                    "answer was not finite there, and such an answer counts as wrong."
                )
    return "\n\n".join(parts) + "\n"


def map_table(record: dict[str, Any], task: str) -> str:
    lengths, rows, exact = exact_grid(record, task)
    known = window(record)
    columns = [short(n) + "*" * bool(known and n > known) for n in lengths]
    lines = []
    for row, shares in zip(rows, exact, strict=True):
        cells = ("" if np.isnan(x) else f"{x:.0%}" for x in shares)
        lines.append((row_name(task, row), by_chance(record, task, row), *cells))
    return markdown_table((TASKS[task], "by chance", *columns), lines)
