"""The tables and the picture of `tttvideo evaluate scaling`."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tttvideo.apps.report import markdown_table, save_figure, style_panel
from tttvideo.measures.scaling import Best, PowerLaw
from tttvideo.measures.scaling_runs import Group


RUNS = ("run", "mixer", "parameters", "context", "tokens", "FLOPs", "loss", "fitted", "residual")
BESTS = ("mixer", "FLOPs", "best context", "loss by context")
NO_BEST = "No budget has runs of two contexts."
FITS = ("runs of", "by", "points", "alpha", "95 %", "E", "form")
AXES = {"parameters": "parameters", "flops": "training FLOPs"}


def law_by(group: Group, x: str) -> PowerLaw | None:
    return group.by_parameters if x == "parameters" else group.by_flops


def scaling_page(groups: list[Group], best: dict[str, list[Best]], about: dict[str, Any]) -> str:
    parts = [
        "# tttvideo evaluate scaling",
        f"`{about['command']}`\n{about['date']}, commit {about['commit']}.",
        "Loss is the last validation loss of each run, nats per token; FLOPs of training are "
        "counted, not measured. Fitted and residual (log loss minus log fit) are of the fit by "
        "FLOPs. The fits describe these runs and do not extend to larger ones.",
        markdown_table(RUNS, [run_cells(g, n) for g in groups for n in range(len(g.runs))]),
        "## Fits",
        markdown_table(FITS, [fit_cells(g, x) for g in groups for x in AXES]),
        "## Best context by FLOPs",
    ]
    rows = [best_cells(mixer, b) for mixer, found in best.items() for b in found]
    parts.append(markdown_table(BESTS, rows) if rows else NO_BEST)
    return "\n\n".join(parts) + "\n"


def run_cells(group: Group, n: int) -> tuple[str, ...]:
    run, fit = group.runs[n], group.by_flops
    first = (run.name, run.mixer, f"{run.parameters:,}", f"{run.context:,}", f"{run.tokens:,}")
    fitted = ("", "") if fit is None else (f"{fit(run.flops):.4f}", f"{fit.residuals[n]:+.4f}")
    return (*first, f"{run.flops:.2e}", f"{run.loss:.4f}", *fitted)


def fit_cells(group: Group, x: str) -> tuple[str, ...]:
    fit, count = law_by(group, x), str(len(group.runs))
    if fit is None:
        return (group.name, AXES[x], count, "", "", "", "one size: nothing to fit")
    interval = "" if fit.interval is None else " to ".join(f"{a:.3f}" for a in fit.interval)
    return (group.name, AXES[x], count, f"{fit.alpha:.4f}", interval, f"{fit.E:.3f}", fit.note)


def best_cells(mixer: str, best: Best) -> tuple[str, ...]:
    losses = ", ".join(f"{context:,}: {loss:.4f}" for context, loss in best.losses.items())
    return (mixer, f"{best.flops:.2e}", f"{best.context:,}", losses)


def draw_scaling(
    groups: list[Group], best: dict[str, list[Best]], about: dict[str, Any], path: Path
) -> None:
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    panels = figure.subplots(2, 2)
    colours = {group.name: f"C{n % 10}" for n, group in enumerate(groups)}
    for panel, x in zip(panels[0], ("flops", "parameters"), strict=True):
        for group in groups:
            draw_losses(panel, group, x, colours[group.name])
        panel.set(xlabel=AXES[x], ylabel="validation loss, nats per token", xscale="log")
        panel.set_yscale("log")
        panel.yaxis.set_minor_formatter(lambda y, _: f"{y:.3g}")
        panel.yaxis.set_major_formatter(lambda y, _: f"{y:.3g}")
    panels[0, 0].set_title("lines: fits; thin: each run during training, before its schedule ended")
    draw_residuals(panels[1, 0], groups, colours)
    draw_best(panels[1, 1], best)
    for panel in panels.flat:
        style_panel(panel)
        panel.tick_params(which="minor", labelsize=7)
        for text in (panel.title, panel.xaxis.label, panel.yaxis.label):
            text.set_size(9)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=7, frameon=False)
    figure.suptitle("Loss by compute and size, of these runs", fontsize=11)
    figure.supxlabel(f"{about['date']}, commit {about['commit']}", fontsize=7, color="#666")
    save_figure(figure, path)


def draw_losses(panel: Axes, group: Group, x: str, colour: str) -> None:
    """Plot the runs and the fit over their range, and by FLOPs the curve of each run."""
    places = [getattr(run, x) for run in group.runs]
    panel.plot(places, [run.loss for run in group.runs], "o", color=colour, markersize=5)
    fit, name = law_by(group, x), group.name
    if fit is not None:
        along = np.geomspace(min(places), max(places), 100)
        name += f", alpha {fit.alpha:.3f}"
        panel.plot(along, fit(along), color=colour, linewidth=1.6, label=name)
    else:
        panel.plot([], [], "o", color=colour, label=name)
    if x == "flops":
        for run in group.runs:
            panel.plot(*zip(*run.curve, strict=True), color=colour, linewidth=0.5, alpha=0.6)


def draw_residuals(panel: Axes, groups: list[Group], colours: dict[str, str]) -> None:
    for group in groups:
        if group.by_flops is not None:
            flops = [run.flops for run in group.runs]
            residuals = 100 * np.expm1(group.by_flops.residuals)
            panel.plot(flops, residuals, "o", color=colours[group.name], label=group.name)
    panel.axhline(0, color="#333333", linewidth=0.8)
    panel.set(xlabel=AXES["flops"], ylabel="loss above the fit, %", xscale="log")
    panel.set_title("residuals of the fits by FLOPs")


def draw_best(panel: Axes, best: dict[str, list[Best]]) -> None:
    for mixer, found in best.items():
        if found:
            flops, contexts = zip(*((b.flops, b.context) for b in found), strict=True)
            panel.plot(flops, contexts, "o-", drawstyle="steps-mid", label=mixer, markersize=4)
    panel.set(xlabel=AXES["flops"], ylabel="tokens of context", xscale="log")
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    panel.set_title("best context at each budget")
    if not any(best.values()):
        where = panel.transAxes
        panel.text(0.5, 0.5, NO_BEST, transform=where, ha="center", fontsize=8)
