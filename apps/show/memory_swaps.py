"""The picture of `tttvideo evaluate memory`."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tttvideo.apps.report import save_figure, style_panel
from tttvideo.measures import memory_gain as gain
from tttvideo.measures.remembered import GROUPS

from .memory_page import models


STYLES = {"own": "-", "other": ":", "fresh": "--"}


def draw_swaps(record: dict[str, Any], path: Path) -> None:
    """A panel for each model: bits per token by age, a line for each memory."""
    found = models(record)
    figure = Figure(figsize=(1 + 3.6 * len(found), 3.8), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for panel, (name, runs) in zip(panels, found.items(), strict=True):
        for number, memory in enumerate(runs[0]["memories"]):
            draw_memory(panel, runs, memory, f"C{number}")
        panel.set_title(name, fontsize=9)
        panel.set_xticks(range(len(GROUPS)), list(GROUPS), rotation=45, fontsize=8)
        style_panel(panel)
        panel.legend(fontsize=7, frameon=False)
    panels[0].set_ylabel("bits per token")
    figure.supxlabel("frames since what a token shows was last seen", fontsize=9)
    save_figure(figure, path)


def draw_memory(panel: Axes, runs: list[Any], memory: str, colour: str) -> None:
    estimates = [gain.over_seeds(runs, gain.mean_bits, memory, [group]) for group in GROUPS]
    y = [one.value for one in estimates]
    margins = [one.margin or 0.0 for one in estimates]
    x, style = range(len(y)), STYLES.get(memory, "-.")
    panel.errorbar(x, y, margins, color=colour, fmt=style, marker=".", capsize=2, label=memory)
