"""The report of `tttvideo evaluate text`: evaluation.json and evaluation.md."""

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tttvideo.apps.device import best_device
from tttvideo.apps.report import (
    DIVERGED,
    format_number,
    markdown_table,
    run_conditions,
    write_record,
)
from tttvideo.data.tokens import Tokens
from tttvideo.files import write_text
from tttvideo.measures.document_stats import Estimate, Tally, log_bins
from tttvideo.measures.meter import Measured
from tttvideo.measures.plan import Plan, rules
from tttvideo.measures.subjects import Subject, group_by_label, training_windows


Results = list[tuple[Subject, Measured]]


def write_text_report(out: Path, results: Results, plan: Plan, data: Tokens) -> str:
    """Write evaluation.json and evaluation.md to `out`; return the text of the latter."""
    about = run_conditions(best_device())
    about |= {"data": str(data.path), "fingerprint": data.fingerprint}
    told = rules(plan, data, training_windows(subject for subject, _ in results))
    record = {
        **about,
        "tokenizer": data.header.tokenizer,
        "rules": told,
        "length": plan.length,
        "reset": plan.reset,
        "contexts": plan.contexts,
        "target_tokens": plan.span,
        "targets": len(plan.places),
        "documents": len(plan.begins),
        "models": [asdict(subject) | results_record(found, plan) for subject, found in results],
    }
    write_record(out / "evaluation.json", record)
    text = text_page(results, plan, about, told)
    write_text(out / "evaluation.md", text)
    return text


def results_record(measured: Measured, plan: Plan) -> dict[str, Any]:
    def by_bin(t: Tally) -> list[dict[str, Any]]:
        ends = enumerate(bin_ends(plan))
        return [{"first": first, "last": last, **sums_record(t, k)} for k, (first, last) in ends]

    return {
        "whole": {name: sums_record(t) for name, t in measured.by_index.items()},
        "by_index": {name: by_bin(t) for name, t in measured.by_index.items()},
        "fixed_targets": {c: sums_record(t) for c, t in measured.fixed.items()},
        "fixed_targets_shuffled": {c: sums_record(t) for c, t in measured.shuffled.items()},
        "fixed_targets_reset": sums_record(measured.fixed_reset),
        "differences": {
            name: {
                "nats_per_token": estimate_record(d.nats_per_token()),
                "bits_per_byte": estimate_record(d.bits_per_byte()),
            }
            for name, d in differences(measured, plan).items()
        },
        "inner_loss": measured.inner and [asdict(layer) for layer in measured.inner],
        "not_finite": measured.not_finite,
    }


def bin_ends(plan: Plan) -> list[tuple[int, int]]:
    """The first and the last token index of each bin."""
    edges = log_bins(plan.length)
    return list(zip(edges[:-1].tolist(), (edges[1:] - 1).tolist(), strict=True))


def differences(measured: Measured, plan: Plan) -> dict[str, Tally]:
    """Differences in the cost of the same tokens; below 0 the first of the two is better."""
    fixed, by_index, full = measured.fixed, measured.by_index, plan.contexts[-1]
    others = {f"context {c:,}": fixed[c] for c in (plan.reset, 0)}
    others["reset control"] = measured.fixed_reset
    if measured.shuffled:
        others[f"shuffled context {full:,}"] = measured.shuffled[full]
    found = {f"context {full:,} - {name}": fixed[full].minus(t) for name, t in others.items()}
    found["whole documents: carried - reset"] = by_index["carried"].minus(by_index["reset"])
    return found


def sums_record(t: Tally, bins: slice | int = slice(None)) -> dict[str, Any]:
    nats = t.nats_per_token(bins)
    return {
        "tokens": int(t.over(t.tokens, bins).sum()),
        "bytes": int(t.over(t.bytes, bins).sum()),
        "nats_per_token": estimate_record(nats),
        "bits_per_byte": estimate_record(t.bits_per_byte(bins)),
        "perplexity": perplexity(nats),
    }


def perplexity(nats: Estimate) -> float:
    return math.exp(nats.value) if nats.value < 700 else math.nan  # more has no float


def estimate_record(e: Estimate) -> dict[str, Any]:
    interval = None if e.margin is None else [e.value - e.margin, e.value + e.margin]
    numbers = {"error": e.error, "interval": interval, "z": e.z, "documents": e.documents}
    return {"value": e.value, **numbers}


def text_page(results: Results, plan: Plan, about: dict[str, Any], lines: Iterable[str]) -> str:
    found = group_by_label(results)
    where = f"Written {about['date']}, with commit {about['commit']}"
    caption = f"`{about['command']}`\n{where}. Data: {about['data']}, {about['fingerprint'][:12]}."
    differ = [row for label, some in found.items() for row in difference_rows(label, some, plan)]
    parts = [
        "# tttvideo evaluate text: how models use context",
        caption,
        "\n".join(f"- {line}" for line in lines),
        "## Models",
        markdown_table(MODEL_COLUMNS, [model_row(*result) for result in results]),
        *(diverged(*result) for result in results if result[1].not_finite),
        "## Differences, of the same tokens: below 0 the first is better",
        markdown_table(DIFFERENCE_COLUMNS, differ),
        "## Fixed targets by context, bits per byte",
        fixed_table(found, plan),
        "## By token index, bits per byte (nats per token)",
        index_table(found, plan),
    ]
    if any(measured.inner for _, measured in results):
        parts += ["## Inner loss, of the first and of the last mini-batches", inner_table(found)]
    return "\n\n".join(parts) + "\n"


MODEL_COLUMNS = [
    *("name", "checkpoint", "model", "parameters", "trained on", "tokens scored"),
    *("perplexity", "nats per token", "bits per byte", "with reset", "measured"),
]
DIFFERENCE_COLUMNS = ("name", "difference", "bits per byte", "standard error", "z", "documents")
INNER_COLUMNS = ("name", "layer", "mini-batches", "at W0", "before the step", "after it")


def model_row(subject: Subject, measured: Measured) -> tuple[str, ...]:
    carried, reset = measured.by_index["carried"], measured.by_index["reset"]
    trained = subject.trained
    nats = carried.nats_per_token()
    return (
        subject.label,
        subject.path,
        subject.mixer,
        f"{subject.parameters:,}",
        f"{trained['tokens']:,} tokens, {trained['window']:,} at once" if trained else "unknown",
        f"{int(carried.tokens.sum()):,}",
        format_number(perplexity(nats), ",.3f"),
        interval(nats),
        interval(carried.bits_per_byte()),
        interval(reset.bits_per_byte()),
        "{date}, commit {commit}, {device}".format(**subject.measured),
    )


def diverged(subject: Subject, measured: Measured) -> str:
    places = (f"{name} from token index {n:,} on" for name, n in measured.not_finite.items())
    return (
        f"{subject.label}, {subject.path}, diverged. Its loss is not finite in some document: "
        f"{'; '.join(places)}. No average over these tokens is shown."
    )


def interval(e: Estimate, digits: int = 4) -> str:
    """An estimate with its margin, for a table; "" where nothing was counted."""
    if not e.documents:
        return ""
    if not math.isfinite(e.value):
        return DIVERGED
    margin = "" if e.margin is None else f" ± {e.margin:.{digits}f}"
    return f"{e.value:.{digits}f}{margin}"


def difference_rows(label: str, some: list[Measured], plan: Plan) -> list[tuple[str, ...]]:
    """Rows of each checkpoint, and of the mean where there are several."""
    each = [differences(measured, plan) for measured in some]
    rows: list[tuple[str, ...]] = []
    for name in each[0]:
        tallies = [one[name] for one in each]
        named = {label: tallies[0]}
        if len(some) > 1:
            named = {f"{label} {i}": t for i, t in enumerate(tallies, 1)}
            named[f"{label}, mean of {len(some)}"] = Tally.mean(tallies)
        for who, t in named.items():
            e = t.bits_per_byte()
            numbers = zip((e.value, e.error, e.z), ("+.4f", ".4f", "+.1f"), strict=True)
            rows.append((who, name, *(format_number(*x) for x in numbers), str(e.documents)))
    return rows


def fixed_table(found: dict[str, list[Measured]], plan: Plan) -> str:
    def mean_cell(tallies: list[Tally]) -> str:
        return interval(Tally.mean(tallies).bits_per_byte()) if tallies else ""

    rows = []
    for context in plan.contexts:
        row = [f"{context:,}"]
        for some in found.values():
            shuffled = [m.shuffled[context] for m in some if context in m.shuffled]
            row += [mean_cell([m.fixed[context] for m in some]), mean_cell(shuffled)]
        rows.append(row)
    row = [f"reset every {plan.reset:,}"]
    for some in found.values():
        row += [mean_cell([m.fixed_reset for m in some]), ""]
    columns = [c for label in found for c in (label, f"{label}, shuffled")]
    return markdown_table(("context", *columns), [*rows, row])


def index_table(found: dict[str, list[Measured]], plan: Plan) -> str:
    rows = []
    for k, (first, last) in enumerate(bin_ends(plan)):
        row = [f"{first:,} to {last:,}"]
        for some in found.values():
            for control in ("carried", "reset"):
                t = Tally.mean([m.by_index[control] for m in some])
                nats = format_number(t.nats_per_token(k).value, ".3f")
                row.append(f"{interval(t.bits_per_byte(k), 3)} ({nats})")
        rows.append(row)
    columns = [c for label in found for c in (label, f"{label}, reset")]
    return markdown_table(("token index", *columns), rows)


def inner_table(found: dict[str, list[Measured]]) -> str:
    """Means over the first and the last eighth of the mini-batches, at least one."""
    rows = []
    for label, some in found.items():
        for layer, losses in enumerate(some[0].inner or ()):
            count = max(1, len(losses.before) // 8)
            for name, part in (("first", slice(0, count)), ("last", slice(-count, None))):
                curves = (losses.initial, losses.before, losses.after)
                numbers = (format_number(sum(x[part]) / count, ".4f") for x in curves)
                rows.append((label, str(layer), f"{name} {count}", *numbers))
    return markdown_table(INNER_COLUMNS, rows)
