"""The page and the picture of `tttvideo evaluate length`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tttvideo.apps.report import markdown_table, save_figure, style_panel
from tttvideo.measures.document_stats import Estimate
from tttvideo.measures.length import SHOWN, SWAPPED
from tttvideo.measures.length_stats import ALLOWED, LengthStats, interval, over_videos


COLUMNS = (
    *("model", "frames of context", "bits per frame", "change, %"),
    *("own memory is worth, bits per frame", f"at most {ALLOWED:.0%} more"),
)


def all_stats(record: dict[str, Any]) -> dict[str, LengthStats]:
    """By the name of the model."""
    batches = record["batches"]
    return {
        name: LengthStats.of([[batch[path] for path in paths] for batch in batches])
        for name, paths in record["settings"]["models"].items()
    }


def length_page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    settings = record["settings"]
    rows = [row for name, stats in all_stats(record).items() for row in table_rows(name, stats)]
    videos = settings["videos"]
    parts = [
        "# tttvideo evaluate length",
        f"`{record['command']}`\n{record['date']}, {record['device']}, commit {record['commit']}.",
        about_models(settings),
        f"The last {settings['targets']:,} frames of {len(videos):,} videos, scored by streams "
        "that begin so many frames before them (a stream scores at most as many targets as its "
        "context has frames). 95 % intervals over videos, by Student's t; changes are paired, "
        "against the first context; seeds of one name are averaged video by video. Own memory: "
        f"bits of the first {SWAPPED} targets of a stream with another video's memory, less those "
        "with its own. Where its interval reaches 0, no memory is shown to be in use, and a model "
        "without any holds trivially.",
        markdown_table(COLUMNS, rows),
    ]
    if settings["left_out"]:
        left = ", ".join(f"{context:,}" for context in settings["left_out"])
        short = f"the shortest video has {min(settings['lengths']):,} frames"
        parts.append(f"Contexts of {left} frames were left out: {short}.")
    return "\n\n".join(parts) + "\n"


def table_rows(name: str, stats: LengthStats) -> Iterator[tuple[str, ...]]:
    for place, context in enumerate(stats.contexts):
        change = shown(stats.change(place), 100, "+.2f") if place else ""
        bits, gain = shown(stats.mean(place), 1, ".4g"), shown(stats.gain(place), 1, ".3g")
        yield name, f"{context:,}", bits, change, gain, stats.verdict(place) if place else ""


def about_models(settings: dict[str, Any]) -> str:
    lines = []
    for name, paths in settings["models"].items():
        lines.append(f"{name}: {settings['names'][paths[0]]} ({', '.join(paths)})")
    return "  \n".join(lines)


def shown(estimate: Estimate | None, factor: float, form: str) -> str:
    """Such as 1.23 (1.20 to 1.26)."""
    if estimate is None:
        return "needs two videos"
    low, high = (format(factor * x, form) for x in interval(estimate))
    value = format(factor * estimate.value, form)
    return value if estimate.margin is None else f"{value} ({low} to {high})"


def draw_lengths(record: dict[str, Any], path: Path) -> None:
    """Left: bits by the frame's index; right: the change on fixed targets, by context."""
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (name, stats) in enumerate(all_stats(record).items()):
        by_index = [over_videos(column) for column in stats.bins.T]
        draw_line(left, stats.ends, by_index, 1, f"C{number}", name)
        changes = [stats.change(place) for place in range(len(stats.contexts))]
        draw_line(right, stats.contexts, changes, 100, f"C{number}", name)
    right.axhline(100 * ALLOWED, color="#999999", linewidth=0.8, linestyle="--")
    right.set_title("the same frames after more context", fontsize=9)
    right.set_ylabel("change of bits, %", fontsize=8)
    left.set_title(f"frames by index, the last {SHOWN} of each doubling", fontsize=9)
    left.set_ylabel("bits per frame", fontsize=8)
    for panel, name in ((left, "frame index"), (right, "frames of context")):
        panel.set_xscale("log")
        panel.set_xlabel(name, fontsize=8)
        style_panel(panel)
    left.legend(fontsize=8, frameon=False)
    save_figure(figure, path)


def draw_line(
    panel: Axes, x: list[int], estimates: list[Estimate], factor: float, colour: str, name: str
) -> None:
    """A line with its 95 % band."""
    panel.plot(x, [factor * e.value for e in estimates], "o-", color=colour, ms=3, label=name)
    low, high = (factor * np.array(ends) for ends in zip(*map(interval, estimates), strict=True))
    if np.isfinite(low).all():
        panel.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
