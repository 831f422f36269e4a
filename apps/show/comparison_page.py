"""The page and the picture of `tttvideo compare`: its parts side by side.

Found: the finished runs of each part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tttvideo.apps.comparison_plan import (
    FAR,
    HELD_OUT_SEED,
    PARTS,
    SHARE_FRESH,
    SHORT,
    Choice,
    Finished,
    Plan,
    grows,
)
from tttvideo.apps.device import best_device
from tttvideo.apps.report import (
    DIVERGED,
    log_axis,
    markdown_table,
    run_conditions,
    save_figure,
    short,
    write_record,
)
from tttvideo.files import write_text
from tttvideo.measures.document_stats import Estimate
from tttvideo.measures.target_curve import over_seeds

from .text_plots import COLOURS


Found = dict[str, list[Finished]]


def write_comparison(out: Path, found: Found, choices: dict[str, Choice], plan: Plan) -> str:
    """Write comparison.json, .md and fixed_targets.png to `out`; returns the page."""
    about = run_conditions(best_device())
    curves = {part: part_curves(runs, plan) for part, runs in found.items()}
    record = {
        **about,
        "plan": asdict(plan),
        "choices": {mixer: asdict(choice) for mixer, choice in choices.items()},
        "runs": [asdict(one) for runs in found.values() for one in runs],
        "parts": {part: [row_record(row) for row in rows(some)] for part, some in curves.items()},
    }
    write_record(out / "comparison.json", record)
    page = comparison_page(found, curves, about, choices, plan)
    write_text(out / "comparison.md", page)
    save_figure(draw(curves), out / "fixed_targets.png")
    return page


@dataclass(frozen=True)
class Curves:
    """The measured runs of a part, by mixer and seed, of which diverged ones are left out.

    bits: mixer to seed to (contexts,) bits per byte; reset: mixer to seed to those of the control.
    """

    runs: dict[str, list[Finished]]
    contexts: list[int]
    bits: dict[str, dict[int, np.ndarray]]
    reset: dict[str, dict[int, float]]
    plan: Plan

    @property
    def near(self) -> int:
        return FAR * self.plan.window

    def shared(self, one: str, other: str) -> int:
        """The number of seeds that both mixers have."""
        return len(self.bits.get(one, {}).keys() & self.bits.get(other, {}).keys())

    def at(self, mixer: str, context: int) -> dict[int, float]:
        """Bits per byte after so many tokens, by seed."""
        place = self.contexts.index(context)
        return {seed: float(curve[place]) for seed, curve in self.bits[mixer].items()}


def part_curves(runs: list[Finished], plan: Plan) -> Curves:
    mixers: dict[str, list[Finished]] = {}
    for one in runs:
        mixers.setdefault(one.run.mixer, []).append(one)
    measured = [one.measured for one in runs if one.measured]
    contexts = sorted(map(int, measured[0]["bits_per_byte"])) if measured else []
    bits: dict[str, dict[int, np.ndarray]] = {mixer: {} for mixer in mixers}
    reset: dict[str, dict[int, float]] = {mixer: {} for mixer in mixers}
    for one in runs:
        if one.measured:
            values = [one.measured["bits_per_byte"][str(c)] for c in contexts]
            bits[one.run.mixer][one.run.seed] = np.array(values, float)
            reset[one.run.mixer][one.run.seed] = float(np.array(one.measured["reset"], float))
    return Curves(mixers, contexts, bits, reset, plan)


NONE = over_seeds([])
Row = tuple[str, str, dict[str, Estimate]]
"""A mixer, how many of its seeds count, and its numbers."""


def rows(curves: Curves) -> list[Row]:
    """Means over seeds; differences are of the same seeds."""
    return [(mixer, seeds(runs), row(curves, mixer)) for mixer, runs in curves.runs.items()]


def row(curves: Curves, mixer: str) -> dict[str, Estimate]:
    base, reset, trained = curves.plan.baseline, curves.reset[mixer], curves.runs[mixer]
    contexts = [c for c in (curves.plan.window, curves.near, *curves.contexts[-1:])]
    contexts = sorted({c for c in contexts if c in curves.contexts})
    found = {
        "M tokens": over_seeds([one.record["tokens"] / 1e6 for one in trained]),
        "minutes": over_seeds([one.record["step_seconds"] * one.run.steps / 60 for one in trained]),
        **{f"after {c:,}": over_seeds([*curves.at(mixer, c).values()]) for c in contexts},
        "state reset": over_seeds([*reset.values()]),
    }
    later = [c for c in contexts if c > curves.plan.window]
    found |= {f"{c:,} minus reset": minus(curves.at(mixer, c), reset) for c in later}
    if base in curves.bits and base != mixer:
        for c in later:
            found[f"{c:,} minus {base}"] = minus(curves.at(mixer, c), curves.at(base, c))
    return found


def minus(one: dict[int, float], other: dict[int, float]) -> Estimate:
    """The mean of the differences of the seeds that both have."""
    return over_seeds([value - other[seed] for seed, value in one.items() if seed in other])


def seeds(runs: list[Finished]) -> str:
    good = sum(one.measured is not None for one in runs)
    return f"{good}" + (f", {len(runs) - good} {DIVERGED}" if good < len(runs) else "")


def row_record(row: Row) -> dict[str, Any]:
    mixer, count, values = row
    numbers = {name: {**asdict(e), "margin": e.margin} for name, e in values.items()}
    return {"mixer": mixer, "seeds": count, **numbers}


def interval(e: Estimate, form: str) -> str:
    """The mean and half of its 95 % interval; "diverged" where a seed has no finite loss."""
    if not e.documents:
        return ""
    if e.value != e.value:
        return DIVERGED
    return f"{e.value:{form}}" + ("" if e.margin is None else f" ± {e.margin:{form.lstrip('+')}}")


def comparison_page(
    found: Found,
    curves: dict[str, Curves],
    about: dict[str, Any],
    choices: dict[str, Choice],
    plan: Plan,
) -> str:
    parts = [
        "# tttvideo compare: mixers on equal tokens and for equal time",
        f"`{about['command']}`\n{about['date']}, {about['device']}, commit {about['commit']}.",
        "![Bits per byte by length of context, and minus those with the state reset]"
        "(fixed_targets.png)",
        *(sentence for part, some in curves.items() for sentence in sentences(part, some)),
        rules(found, plan),
        "## Learning rates and speed",
        choice_table(choices, plan),
    ]
    for part, some in curves.items():
        title = PARTS[part]
        parts += [f"## {title[0].upper()}{title[1:]}", note(part, plan), part_table(some)]
    parts += ["## Runs", run_table(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def sentences(part: str, curves: Curves) -> Iterator[str]:
    """The first mixer against the baseline, and what context gains with and without forgetting."""
    first, base, near = next(iter(curves.runs), ""), curves.plan.baseline, curves.near
    if first != base and (count := curves.shared(first, base)):
        last = curves.contexts[-1]
        gains = [minus(curves.at(first, c), curves.at(base, c)) for c in (near, last)]
        yield (
            f"**At {PARTS[part]}, {first} minus {base}**: {interval(gains[0], '+.3f')} bits per "
            f"byte after {near:,} tokens of context, {interval(gains[1], '+.3f')} after {last:,} "
            f"({over(count)})."
        )
    for mixer in dict.fromkeys([first, first.removesuffix("_forget")]):
        if count := curves.shared(mixer, mixer):
            gain = minus(curves.at(mixer, near), curves.reset[mixer])
            yield (
                f"**At {PARTS[part]}, {mixer}, carried minus reset**: {interval(gain, '+.4f')} "
                f"bits per byte after {near:,} tokens, {FAR} training windows "
                f"({over(count)})."
            )


def over(seeds: int) -> str:
    if seeds == 1:
        return "one seed"
    return f"95 % interval over {seeds} seeds, differences of the same seed"


def rules(found: Found, plan: Plan) -> str:
    """How the numbers are made."""
    measured = [one.measured for runs in found.values() for one in runs if one.measured]
    if not measured:
        return "All runs diverged."
    most = max(one["far_targets"] for one in measured)
    few = min(one["far_targets"] for one in measured)
    some = f"{most} of them" + (f", attention to all tokens on {few}" if few < most else "")
    one, near = measured[0], FAR * plan.window
    lines = [
        f"Training: windows of {plan.window:,} tokens, {plan.batch} a step. Minutes are the time "
        "of the training steps alone (forward, backward, optimizer): processor time of one thread "
        "on a CPU, wall time on a GPU.",
        f"Targets: {one['targets']} spans of {one['target_tokens']:,} tokens in held-out "
        "documents, the same for all mixers and contexts; `after N`: a fresh state reads the N "
        "tokens before them.",
        f"What contexts beyond {near:,} tokens add is measured on {some}, as the difference to "
        f"{near:,} on the same ones.",
        f"Reset: the same targets with a fresh state every {plan.window:,} tokens.",
        "Means over seeds with 95 % intervals over seeds, by Student's t; they do not cover the "
        "choice of the targets. Differences are of the same seeds and targets; below 0 the first "
        "is better. Diverged runs are left out.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def note(part: str, plan: Plan) -> str:
    """What is peculiar to a part."""
    if part != "lanes":
        return ""
    left = [mixer for mixer in plan.mixers if grows(mixer)]
    out = (
        f" {' and '.join(left)}: left out, because the state grows with every token."
        if left
        else ""
    )
    return (
        f"A lane reads on through the corpus; {SHARE_FRESH:.0%} of the lanes get a fresh state at "
        f"each step, to learn to start.{out}"
    )


def part_table(curves: Curves) -> str:
    found = rows(curves)
    names = list(dict.fromkeys(name for _, _, values in found for name in values))
    cells = [
        (mixer, count, *(interval(values.get(n, NONE), form(n)) for n in names))
        for mixer, count, values in found
    ]
    return markdown_table(("mixer", "seeds", *names), cells)


def form(name: str) -> str:
    if name.endswith("minus reset"):
        return "+.4f"
    return "+.3f" if " minus " in name else ".2f" if name == "minutes" else ".3f"


def choice_table(choices: dict[str, Choice], plan: Plan) -> str:
    """The validation loss of the short runs, by learning rate."""
    lines = []
    for mixer, choice in choices.items():
        losses = [DIVERGED if x is None else f"{x:.4f}" for x in choice.losses.values()]
        chosen = DIVERGED if choice.lr is None else f"{choice.lr:g}"
        speed = plan.window * plan.batch / choice.step_seconds
        lines.append(
            (mixer, *losses, chosen, f"{1000 * choice.step_seconds:,.0f}", f"{speed:,.0f}")
        )
    rates = sorted(plan.rates)
    ends = [m for m, c in choices.items() if len(rates) > 1 and c.lr in (rates[0], rates[-1])]
    at_end = f" At an end of the range, so perhaps not the best: {', '.join(ends)}." if ends else ""
    columns = "mixer", *(f"{lr:g}" for lr in plan.rates), "chosen", "ms a step", "tokens a second"
    return (
        f"Validation loss in nats per token of runs with 1/{SHORT} of the tokens and seed "
        f"{HELD_OUT_SEED}, which no other run has.{at_end}\n\n{markdown_table(columns, lines)}"
    )


def run_table(found: Found) -> str:
    """When and with which commit each run was trained and measured."""
    lines = []
    for one in (one for runs in found.values() for one in runs):
        about, loss = one.record["trained"], one.record["loss"]
        measured = one.measured and one.measured["measured"]
        lines.append(
            (
                one.run.name,
                f"{one.run.lr:g}",
                f"{one.run.steps:,}",
                DIVERGED if loss is None else f"{loss:.4f}",
                f"{about['date']}, {about['commit']}",
                f"{measured['date']}, {measured['commit']}" if measured else "",
            )
        )
    columns = "run", "learning rate", "steps", "validation loss", "trained", "measured"
    return markdown_table(columns, lines)


def draw(found: dict[str, Curves]) -> Figure:
    """A column for each part. Above: the loss; below: minus that with the state reset."""
    figure = Figure(figsize=(1.5 + 4.6 * len(found), 8), layout="constrained")
    panels = figure.subplots(2, len(found), squeeze=False, sharex="col", sharey="row")
    styles = line_styles([mixer for curves in found.values() for mixer in curves.runs])
    limits = [Limits(), Limits()]
    for (part, curves), column in zip(found.items(), panels.T, strict=True):
        for mixer, some in curves.bits.items():
            draw_mixer(column, limits, curves, mixer, styles[mixer]) if some else None
        column[0].set_title(PARTS[part], fontsize=10)
        finish(column, curves)
    for row_of_panels, limit in zip(panels, limits, strict=True):
        limit.apply(row_of_panels[0])
    title = "Lines: means of the seeds; bands: their range;\nvertical: the training window"
    if any(grows(mixer) for mixer in styles):
        title += ", beyond which attention to all tokens may leave the picture"
    figure.suptitle(title, fontsize=9)
    panels[0, 0].set_ylabel("bits per byte")
    panels[1, 0].set_ylabel("minus those with the state reset every window")
    lines = {line.get_label(): line for panel in panels[0] for line in panel.get_lines()}
    handles = {name: line for name, line in lines.items() if name in styles}
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )
    return figure


class Limits:
    """The range of a row of panels, which curves of growing states may leave."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, curve: np.ndarray, bounded: np.ndarray) -> None:
        self.values += curve[bounded & np.isfinite(curve)].tolist()

    def apply(self, panel: Axes) -> None:
        if self.values:
            low, high = min(self.values), max(self.values)
            room = 0.06 * (high - low) or 0.01
            panel.set_ylim(low - room, high + room)


def draw_mixer(
    panels: np.ndarray, limits: list[Limits], curves: Curves, mixer: str, style: dict[str, str]
) -> None:
    """The mean of the seeds, and their range."""
    x = np.array(places(curves.contexts))
    levels = np.array(list(curves.bits[mixer].values()))  # (seeds, contexts)
    reset = np.array(list(curves.reset[mixer].values()))[:, None]
    # attention fails beyond its window by so much that no other curve could be told from another
    bounded = np.array(curves.contexts) <= curves.plan.window * (1 if grows(mixer) else 1 << 30)
    for panel, values, limit in zip(panels, (levels, levels - reset), limits, strict=True):
        mean = values.mean(0)
        panel.plot(x, mean, marker=".", linewidth=1.5, label=mixer, **style)
        for edge in (values.min(0), values.max(0)):
            limit.add(edge, bounded)
        panel.fill_between(
            x, values.min(0), values.max(0), color=style["color"], alpha=0.12, linewidth=0
        )


def finish(panels: np.ndarray, curves: Curves) -> None:
    """Axes and marks of a column."""
    for panel in panels:
        panel.axvline(curves.plan.window, color="#999999", linestyle="-.", linewidth=0.8)
        log_axis(panel, "tokens of context before the same targets")
        panel.set_xticks(places(curves.contexts), [short(c) for c in curves.contexts])
        panel.tick_params(axis="x", labelsize=7)
    panels[1].axhline(0, color="#999999", linewidth=0.8)


def places(contexts: list[int]) -> list[float]:
    """Where contexts are drawn on a logarithmic axis; 0 is left of the others."""
    return [max(c, contexts[1] / 4) for c in contexts]


def line_styles(mixers: list[str]) -> dict[str, dict[str, str]]:
    """A colour for each family of mixers; those without forgetting, or of another base, dashed."""
    styles: dict[str, dict[str, str]] = {}
    families: list[str] = []
    for mixer in dict.fromkeys(mixers):
        family = mixer.removesuffix("_forget").removesuffix("_rope_500k")
        dash = "--" if family in families else "-"
        families += [family] * (family not in families)
        colour = COLOURS[families.index(family) % len(COLOURS)]
        styles[mixer] = {"color": colour, "linestyle": dash}
    return styles
