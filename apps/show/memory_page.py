"""The page of `tttvideo evaluate memory`."""

from collections.abc import Sequence
from typing import Any

from tttvideo.apps.report import format_number, markdown_table
from tttvideo.measures import memory_gain as gain
from tttvideo.measures.document_stats import Estimate
from tttvideo.measures.remembered import GROUPS, OLD


Record = dict[str, Any]
Runs = list[Any]

COMPARED = gain.LATER, gain.OLDEST


def models(record: Record) -> dict[str, Runs]:
    """The runs by name, in the order in which they were given."""
    found: dict[str, Runs] = {}
    for run in record["runs"]:
        found.setdefault(run["name"], []).append(run)
    return found


def control(record: Record) -> Runs:
    """The runs of the first model that sees its window alone; [] for none."""
    found = models(record).values()
    return next((runs for runs in found if runs[0]["window_only"]), [])


def memory_page(record: Record) -> str:
    """The record as Markdown."""
    settings = record["settings"]
    parts = [
        "# tttvideo evaluate memory",
        f"`{record['command']}`\n{record['date']}, {record['device']}, commit {record['commit']}.",
        f"{len(settings['names'])} videos of {settings['frames']} frames. At {settings['swaps']} "
        f"frames of the second half of each, memories are replaced, and the next "
        f"{settings['scored']} frames are scored. Counted are tokens whose last sight was before "
        "that, those that the last frame shows (age 1), and those never seen. The window of the "
        "last frames stays the video's own. Means over seeds and 95 % intervals over them, of a "
        "single seed over videos.",
        "Bits per token by the frames since what it shows was last seen:",
        markdown_table(("model", "memory", *GROUPS), list(bits_rows(record))),
        *swap_parts(record),
        *gain_parts(record),
    ]
    return "\n\n".join(parts) + "\n"


def bits_rows(record: Record) -> list[Sequence[str]]:
    first = record["runs"][0]
    counts = [sum(first["memories"]["own"][name]["tokens"]) for name in GROUPS]
    rows: list[Sequence[str]] = [("tokens", "", *(f"{count:,.0f}" for count in counts))]
    for name, runs in models(record).items():
        for memory in runs[0]["memories"]:
            found = [gain.over_seeds(runs, gain.mean_bits, memory, [group]) for group in GROUPS]
            rows.append((name, memory, *map(interval, found)))
    return rows


def interval(found: Estimate, form: str = ".3f") -> str:
    """A mean with its margin; "" where there is nothing."""
    if found.value != found.value:
        return ""
    margin = "" if found.margin is None else f" ± {found.margin:{form}}"
    return format_number(found.value, form) + margin


def swap_parts(record: Record) -> list[str]:
    """Replaced memories less own, of each model that has a memory."""
    rows = []
    for name, runs in models(record).items():
        if runs[0]["window_only"]:
            continue
        for memory in (m for m in runs[0]["memories"] if m != "own" and "copying" not in m):
            found = [gain.over_seeds(runs, gain.more_bits, memory, ages) for ages in COMPARED]
            rows.append((name, f"{memory} less own", *map(interval, found)))
        shares = [gain.over_seeds(runs, gain.own_share, ages) for ages in COMPARED]
        rows.append((name, "own over other", *(interval(share, ".1%") for share in shares)))
    names = "model", "bits per token", f"{OLD} or more", gain.OLDEST[0]
    title = (
        "What replacing the memory costs. Another's misleads and may cost more than a guess; where "
        "fresh less own is not above 0, the memory knows nothing:"
    )
    return [title, markdown_table(names, rows)] if rows else []


def gain_parts(record: Record) -> list[str]:
    """First sights less later ones, and the same less the control's."""
    control_runs, rows = control(record), []
    for name, runs in models(record).items():
        bits = gain.over_seeds(runs, gain.later_bits)
        own = gain.seeds_of([gain.gains(run) for run in runs])
        row = [name, interval(bits), interval(own)]
        if control_runs and not runs[0]["window_only"]:
            for above, form in ((gain.gains_above, ".3f"), (gain.later_above, ".1%")):
                values = above(runs, control_runs)
                row += [
                    interval(measure(values), form) for measure in (gain.seeds_of, gain.over_videos)
                ]
        rows.append([*row, *[""] * (7 - len(row))])
    title = f"Whole videos: first sights less those after {OLD} or more frames"
    if not control_runs:
        rows = [row[:3] for row in rows]
        note = "; no model with mixer null is given, so there is no control to compare with."
        return [title + note, markdown_table(GAIN_COLUMNS[:3], rows)]
    note = f", and what they are above {control_runs[0]['name']}, which has no memory."
    return [title + note, markdown_table(GAIN_COLUMNS, rows)]


GAIN_COLUMNS = (
    "model",
    "bits of later sights",
    "first less later",
    "above the control, over seeds",
    "over videos",
    "fewer bits of later sights, over seeds",
    "over videos",
)
