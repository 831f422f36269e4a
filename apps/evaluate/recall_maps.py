"""Recall as maps, in a picture and in tables: a column for each length."""

import os
from pathlib import Path
from typing import Any

import matplotlib


matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  after the choice of a backend without a screen
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from tttvideo.data.recall_cells import TASKS  # noqa: E402

from ..bench.report import table  # noqa: E402


TITLES = {
    "needle": "needle in a haystack",
    "mqar": "multi-query associative recall",
    "variables": "variable tracking",
}


def grid(record: dict[str, Any], task: str) -> tuple[list[int], list[float], np.ndarray]:
    """Lengths, rows, and the share of exact answers (rows, lengths), nan where none was asked."""
    cells = {(c["row"], c["length"]): c["exact"] for c in record["cells"] if c["task"] == task}
    rows, lengths = (sorted({key[n] for key in cells}) for n in (0, 1))
    return lengths, rows, np.array([[cells[r, n] for n in lengths] for r in rows], dtype=float)


def row_name(task: str, row: float) -> str:
    return f"{row:.0%}" if task == "needle" else f"{row:g}"


def window(record: dict[str, Any]) -> int | None:
    """Tokens of a training window, if the checkpoint tells."""
    return record["trained"]["window"] if record["trained"] else None


def short(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)


def about_model(record: dict[str, Any]) -> str:
    known = window(record)
    trained = f", trained on windows of {known:,} tokens" if known else ""
    return f"{record['mixer']}, {record['parameters'] / 1e6:.2f} M parameters{trained}"


def draw_maps(record: dict[str, Any], path: Path) -> None:
    options = {"figsize": (13.5, 3.9), "layout": "constrained"}
    figure, panels = plt.subplots(1, len(TASKS), **options)
    for panel, task in zip(panels, TASKS, strict=True):
        image = draw_map(panel, record, task)
    figure.colorbar(
        image, ax=panels, label="exact answers", shrink=0.85, format=lambda x, _: f"{x:.0%}"
    )
    figure.suptitle(f"Recall of {record['name']}: {about_model(record)}", fontsize=11)
    line = f"{record['settings']['samples']} texts per cell, seed {record['settings']['seed']}, "
    line += f"{record['device']}, {record['date']}, commit {record['commit']}"
    figure.supxlabel(line, fontsize=7, color="#666")
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, dpi=130)
    plt.close(figure)
    os.replace(partial, path)


def draw_map(panel: Axes, record: dict[str, Any], task: str) -> Any:
    """Red to green by the share that is exact, grey without room; the line ends the window."""
    lengths, rows, exact = grid(record, task)
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
    panel.set_yticks(range(len(rows)), [row_name(task, row) for row in rows], fontsize=8)
    panel.set_xlabel("length, tokens", fontsize=8)
    panel.set_ylabel(TASKS[task], fontsize=8)
    panel.set_title(TITLES[task], fontsize=9, pad=14)
    return image


def markdown(records: list[dict[str, Any]], about: dict[str, Any]) -> str:
    parts = [
        "# tttvideo evaluate recall: exact answers",
        f"`{about['command']}`\n{about['device']}, {about['date']}, commit {about['commit']}.",
        "Each answer's tokens are predicted from the true text before them; it is exact when all "
        "are. Lengths are in tokens; * marks those beyond the training window; empty: no room.",
    ]
    for record in records:
        parts.append(f"## {record['name']}\n\n{about_model(record)}; measured {record['date']}.")
        for task, rows in TASKS.items():
            parts += [f"### {TITLES[task]}, by {rows}", map_table(record, task)]
    return "\n\n".join(parts) + "\n"


def map_table(record: dict[str, Any], task: str) -> str:
    lengths, rows, exact = grid(record, task)
    known = window(record)
    columns = [short(n) + "*" * bool(known and n > known) for n in lengths]
    cells = [
        (row_name(task, row), *("" if np.isnan(x) else f"{x:.0%}" for x in shares))
        for row, shares in zip(rows, exact, strict=True)
    ]
    return table((TASKS[task], *columns), cells)
