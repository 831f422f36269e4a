"""The picture of a benchmark: curves over the context, or reached figures over required ones."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from tttvideo.apps.report import log_axis, save_figure

from .cases import TITLES
from .records import Bar, Report, Row


COLOURS = {
    "triton": "#d62728",
    "dual": "#f58518",
    "reference": "#b279a2",
    "plain loop": "#4c78a8",
    "dense sum": "#4c78a8",
    "compiled loop": "#72b7b2",
    "attention": "#54a24b",
    "fla fused": "#9d755d",
    "fla chunk": "#bab0ac",
    "Mamba-2 scan": "#eeca3b",
    "TTT state": "#f58518",
    "KV cache": "#54a24b",
    "TTT layer": "#f58518",
    "TTT block": "#d62728",
    "attention block": "#54a24b",
    "mamba block": "#eeca3b",
    "mamba2 block": "#9d755d",
}
VERDICTS = {"aim reached": "#2f7d32", "reached": "#8bc34a", "MISSED": "#d62728"}


def threads(about: dict[str, Any]) -> str:
    return f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"


def draw_report(report: Report, about: dict[str, Any], path: Path) -> None:
    figure = draw_bars(report.bars) if report.bars else draw_curves(report.rows)
    sizes = "" if report.bars else f", {report.rows[0].case.sizes}"
    figure.suptitle(f"tttvideo bench {report.name.replace('-', ', ')}{sizes}", fontsize=11)
    device = about["device"] + (f", {threads(about)}" if report.device == "cpu" else "")
    line = f"{device}, {about['clock']}, {about['date']}, commit {about['commit']}"
    figure.supxlabel(line, fontsize=7, color="#666")
    save_figure(figure, path)


def draw_curves(rows: list[Row]) -> Figure:
    """A panel per quantity and inner model, a curve per contender."""
    across = list(dict.fromkeys(row.case.inner for row in rows))
    down = list(dict.fromkeys((row.what, row.unit) for row in rows))
    size = (1 + 4.4 * len(across), 1.2 + 3 * len(down))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(down), len(across), squeeze=False, sharex=True, sharey="row")
    for panels, (what, unit) in zip(axes, down, strict=True):
        panels[0].set_ylabel("microseconds per token" if unit == "s" else unit, fontsize=8)
        for panel, inner in zip(panels, across, strict=True):
            mine = [r for r in rows if (r.case.inner, r.what, r.unit) == (inner, what, unit)]
            draw_panel(panel, mine)
            panel.set_title(f"{TITLES.get(inner, inner)}, {what}", fontsize=9)
    for panel in axes[-1]:
        panel.set_xlabel("tokens of context", fontsize=8)
    return figure


def draw_panel(panel: Axes, rows: list[Row]) -> None:
    for who in dict.fromkeys(row.who for row in rows):
        curve = sorted((r for r in rows if r.who == who), key=lambda r: r.case.tokens)
        x = [r.case.tokens for r in curve]
        scale = [1e6 / (r.tokens * r.case.batch) if r.unit == "s" else 1.0 for r in curve]
        y, low, high = np.array([(r.middle, *r.spread) for r in curve]).T * scale
        failed = any(r.wrong for r in curve)
        colour, line = COLOURS.get(who, "#333333"), "o:" if failed else "o-"
        label = f"{who} (gate failed)" if failed else who
        panel.plot(x, y, line, color=colour, markersize=4, linewidth=1.6, label=label)
        panel.fill_between(x, low, high, alpha=0.2, color=colour, linewidth=0)
    panel.set_yscale("log")
    log_axis(panel, "")
    panel.set_xticks(sorted({row.case.tokens for row in rows}))
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    panel.legend(fontsize=7, frameon=False)


def draw_bars(bars: list[Bar]) -> Figure:
    """Reached over must: bars that pass the dashed line meet their bound."""
    figure = Figure(figsize=(10, 1.4 + 0.42 * len(bars)), layout="constrained")
    panel = figure.subplots()
    for place, bar in enumerate(reversed(bars)):
        name, left = f"{bar.what}\n{bar.shape}", panel.get_yaxis_transform()
        panel.text(-0.01, place, name, transform=left, fontsize=7, ha="right", va="center")
        aim = bar.must / bar.aim if bar.most else bar.aim / bar.must
        panel.plot([aim, aim], [place - 0.36, place + 0.36], color="#333333", linewidth=1.5)
        if bar.reached is None or bar.wrong:
            panel.text(0.02, place, bar.verdict[:90], fontsize=7, color="#d62728", va="center")
            continue
        length = bar.must / bar.reached if bar.most else bar.reached / bar.must
        panel.barh(place, length, height=0.6, color=VERDICTS[bar.verdict])
        panel.text(max(length, aim) + 0.02, place, f"{bar.reached:.3g}", fontsize=8, va="center")
    panel.axvline(1, color="#d62728", linestyle="--", linewidth=1)
    panel.set_yticks([])
    panel.set_xlim(0)
    panel.set_xlabel("reached over must (dashed: must; black: aim)", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    return figure
