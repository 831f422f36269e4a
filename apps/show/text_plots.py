"""The pictures of `tttvideo evaluate text`."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tttvideo.apps.report import log_axis, save_figure, short
from tttvideo.measures.document_stats import Estimate, Tally, log_bins
from tttvideo.measures.inner_loss import Losses
from tttvideo.measures.meter import Measured
from tttvideo.measures.plan import Plan
from tttvideo.measures.subjects import Subject, group_by_label


COLOURS = ("#d62728", "#4c78a8", "#54a24b", "#f58518", "#b279a2", "#72b7b2", "#9d755d", "#333333")
STYLES = {"true": "-", "reset": "--", "shuffled": ":"}
UNITS = {"bits per byte": Tally.bits_per_byte, "nats per token": Tally.nats_per_token}
LAYERS = 8  # panels of a model, at most


def draw_text_figures(out: Path, results: list[tuple[Subject, Measured]], plan: Plan) -> None:
    found = group_by_label(results)
    windows = {subject.window for subject, _ in results if subject.window}
    save_figure(draw_by_index(found, windows, plan), out / "by_index.png")
    save_figure(draw_fixed(found, windows, plan), out / "fixed_targets.png")
    inner = {label: some[0].inner for label, some in found.items() if some[0].inner}
    if inner:
        save_figure(draw_inner(inner, plan), out / "inner_loss.png")


def draw_by_index(found: dict[str, list[Measured]], windows: set[int], plan: Plan) -> Figure:
    """As figure 2, right, of arXiv 2407.04620; dashed: the control with the state reset."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    panels = figure.subplots(1, 2)
    edges = log_bins(plan.length)
    x = np.sqrt(edges[:-1] * (edges[1:] - 1))
    for panel, (unit, measure) in zip(panels, UNITS.items(), strict=True):
        for colour, (label, some) in zip(colours(found), found.items(), strict=True):
            for control, style in (("carried", "true"), ("reset", "reset")):
                curves = [[measure(m.by_index[control], k) for k in range(len(x))] for m in some]
                name = label if style == "true" else f"{label}, reset every {plan.reset:,}"
                line(panel, x, curves, colour, style, name)
        mark_windows(panel, windows)
        log_axis(panel, "token index")
        panel.set_ylabel(unit)
    legend(figure, panels[0])
    figure.suptitle(f"Loss by token index, {len(plan.begins)} documents{bands(found)}", fontsize=11)
    return figure


def draw_fixed(found: dict[str, list[Measured]], windows: set[int], plan: Plan) -> Figure:
    """Left: the loss; right: its difference to the loss after `reset` tokens of true context.

    Losses of documents differ much more than those of contexts, so the bands of the right panel
    are the ones to compare.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = np.array([max(c, plan.contexts[1] / 4) for c in plan.contexts])  # where 0 is drawn
    for colour, (label, some) in zip(colours(found), found.items(), strict=True):
        true = [[m.fixed[c] for c in plan.contexts] for m in some]
        base = [m.fixed[plan.reset] for m in some]
        line(left, x, bits(true), colour, "true", label)
        line(right, x, bits(minus(true, base)), colour, "true", label)
        if some[0].shuffled:
            other = [[m.shuffled[c] for c in plan.contexts if c] for m in some]
            line(left, x[1:], bits(other), colour, "shuffled", f"{label}, shuffled context")
            line(right, x[1:], bits(minus(other, base)), colour, "shuffled", label)
        reset = [[m.fixed_reset] for m in some]
        name = f"{label}, reset every {plan.reset:,}"
        level(left, reset, colour, name)
        level(right, minus(reset, base), colour, name)
    right.axhline(0, color="#999999", linewidth=0.8)
    for panel in (left, right):
        mark_windows(panel, windows)
        log_axis(panel, "tokens of context before the same targets")
        panel.set_xticks(x, [short(c) for c in plan.contexts])
    left.set_ylabel("bits per byte")
    right.set_ylabel(f"bits per byte, minus those after {plan.reset:,} tokens")
    legend(figure, left)
    count = f"{len(plan.places)} targets of {plan.span:,} tokens"
    figure.suptitle(f"Loss by length of context on {count}{bands(found)}", fontsize=11)
    return figure


def draw_inner(inner: dict[str, list[Losses]], plan: Plan) -> Figure:
    """A row for each model with an inner loop, a panel for each layer, at most LAYERS of them."""
    most = max(min(LAYERS, len(layers)) for layers in inner.values())
    size = (0.6 + 2.6 * most, 0.8 + 2.4 * len(inner))
    figure = Figure(figsize=size, layout="constrained")
    rows = figure.subplots(len(inner), most, squeeze=False)
    for panels, (label, layers) in zip(rows, inner.items(), strict=True):
        drawn = np.linspace(0, len(layers) - 1, min(LAYERS, len(layers))).round().astype(int)
        for panel in panels[len(drawn) :]:
            panel.set_axis_off()
        for panel, number in zip(panels, drawn, strict=False):
            losses = layers[number]
            M = plan.inner_length // len(losses.before)
            x = M * np.arange(1, len(losses.before) + 1)
            panel.plot(x, losses.initial, color="#bab0ac", linewidth=1, label="at W0")
            panel.plot(x, losses.before, color="#4c78a8", linewidth=1, label="before the step")
            panel.plot(x, losses.after, color="#d62728", linewidth=1, label="after it")
            panel.set_title(f"{label}, layer {number}", fontsize=8)
            log_axis(panel, "token index")
        panels[0].set_ylabel("inner loss", fontsize=8)
        panels[0].legend(fontsize=7, frameon=False)
    figure.suptitle("Inner loss by mini-batch", fontsize=11)
    return figure


def line(
    panel: Axes, x: np.ndarray, curves: list[list[Estimate]], colour: str, style: str, name: str
) -> None:
    """Plot one checkpoint with its interval, or the mean of several with their range."""
    values = np.array([[e.value for e in curve] for curve in curves])
    y, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
    if len(curves) == 1:
        margins = np.array([e.margin or 0 for e in curves[0]])
        low, high = y - margins, y + margins
    panel.plot(x, y, STYLES[style], marker=".", color=colour, linewidth=1.6, label=name)
    panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def level(panel: Axes, tallies: list[list[Tally]], colour: str, name: str) -> None:
    """Plot a mean that does not depend on the context."""
    y = float(np.mean([e.value for row in bits(tallies) for e in row]))
    panel.axhline(y, color=colour, linestyle=STYLES["reset"], linewidth=1, label=name)


def minus(tallies: list[list[Tally]], base: list[Tally]) -> list[list[Tally]]:
    return [[t.minus(b) for t in row] for row, b in zip(tallies, base, strict=True)]


def bits(tallies: list[list[Tally]]) -> list[list[Estimate]]:
    return [[t.bits_per_byte() for t in row] for row in tallies]


def colours(found: dict[str, list[Measured]]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(found))]


def bands(found: dict[str, list[Measured]]) -> str:
    several = any(len(some) > 1 for some in found.values())
    return "; bands: 95 % over documents" + (", or the range of several runs" if several else "")


def mark_windows(panel: Axes, windows: set[int]) -> None:
    """Mark the training windows: no model was trained on longer ones."""
    for window in sorted(windows):
        panel.axvline(window, color="#999999", linestyle="-.", linewidth=0.8)
        panel.annotate(
            f"training window {short(window)}",
            xy=(window, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, -8),
            textcoords="offset points",
            fontsize=6,
            color="#666666",
        )


def legend(figure: Figure, panel: Axes) -> None:
    """Draw the legend below the panels, where it hides no line."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
