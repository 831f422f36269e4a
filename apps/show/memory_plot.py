"""The table and the picture of `tttvideo evaluate memory`."""

import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tttvideo.apps.report import markdown_table, save_figure, style_panel


OLD = "8 or more"
COLUMNS = ("memory", "state, bytes", "parameters", "steps", "own state", "another's", "fresh")
SWAPS = ("own", "other", "fresh")


def groups(record: dict[str, Any]) -> dict[str, list[Any]]:
    """The runs by label, in the order in which they were first run."""
    found: dict[str, list[Any]] = {}
    for run in record["runs"]:
        found.setdefault(run["label"], []).append(run)
    return found


def bits(runs: list[Any], memory: str) -> list[float]:
    """Bits per token of old cells of each run, NaN where there are none or they diverged."""
    values = (run["bits"][memory].get(OLD) for run in runs)
    return [math.nan if value is None else value for value in values]


def memory_page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    settings = record["settings"]
    rows = []
    for label, runs in groups(record).items():
        steps = sum(run["steps"] for run in runs) / len(runs)
        cells = (mean_and_range(bits(runs, memory)) for memory in SWAPS)
        numbers = f"{runs[0]['state_bytes']:,}", f"{runs[0]['parameters']:,}", f"{steps:,.0f}"
        rows.append((label, *numbers, *cells))
    parts = [
        "# tttvideo evaluate memory",
        f"`{record['command']}`\n{record['date']}, {record['device']}, commit {record['commit']}.",
        f"Bits per token of cells last seen {OLD} frames ago, in worlds of "
        f"{settings['size']} x {settings['size']} cells of {settings['colours']} colours "
        f"({math.log2(settings['colours']):.3g} bits), frames {settings['seen'] + 1} to "
        f"{settings['seen'] + settings['scored']}. Each model was trained for "
        f"{settings['seconds']:g} s of CPU time on windows of {settings['frames']} frames. Mean of "
        "the seeds, and their range.",
        markdown_table(COLUMNS, rows),
    ]
    return "\n\n".join(parts) + "\n"


def mean_and_range(values: list[float]) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1 or math.isnan(mean):
        return f"{mean:.3f}"
    return f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})"


def draw_memories(record: dict[str, Any], path: Path) -> None:
    """Bits per token of old cells by bytes of state; no memory stands at 1,024 bytes."""
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    panel = figure.subplots()
    marks = {"own": "o", "other": "x", "fresh": "_"}
    for n, (label, runs) in enumerate(groups(record).items()):
        x = [max(1024, run["state_bytes"]) for run in runs]
        for memory, mark in marks.items():
            name = label if memory == "own" else None
            y = [max(1e-4, value) for value in bits(runs, memory)]
            panel.plot(x, y, mark, color=f"C{n}", label=name, markersize=7, alpha=0.8)
    panel.set(xscale="log", yscale="log", xlabel="bytes of state of one world")
    panel.set_ylabel(f"bits per token, cells last seen {OLD} frames ago")
    panel.axhline(math.log2(record["settings"]["colours"]), color="#999999", linewidth=0.8)
    name = "dot: own state; cross: another world's; bar: fresh; line: knowing nothing"
    panel.set_title(name, fontsize=9)
    style_panel(panel)
    panel.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)
