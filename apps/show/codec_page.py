"""The table and the picture of `tttvideo evaluate codec`."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tttvideo.apps.report import markdown_table, save_figure, style_panel


NAMES = {
    "equal": "all tokens equally likely",
    "xz": "xz of the tokens",
    "reset": "model, memory reset every second",
    "stated": "model, as stated",
    "code": "model, bytes of its code",
    "file": "model, its whole file",
}
"""What is compared, in the order of the table and of the picture."""


def codec_page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    columns = "", *(row["name"] for row in record["rows"])
    lines = [
        [name, *(f"{row['bits'][key] / row['frames']:,.4g}" for row in record["rows"])]
        for key, name in NAMES.items()
    ]
    parts = [
        "# tttvideo evaluate codec",
        f"The last row was measured by `{record['command']}`, {record['date']}, "
        f"{record['device']}, commit {record['commit']}.",
        "Bits per frame, mean of all frames. Each code was decoded by the model, loaded anew, and "
        "every token came back: the stated bits are bytes that a decoder can read. They are no "
        "proof of a good model; a model that knows nothing passes too, at the bits of the first "
        "row. A whole file also holds the actions and poses that the model reads, which xz does "
        "without, and a header.",
        markdown_table(columns, lines),
        *map(sentence, record["rows"]),
    ]
    return "\n\n".join(parts) + "\n"


def sentence(row: dict[str, Any]) -> str:
    """What a row's file holds, and how far its code is from the stated bits."""
    sizes, rates, bits = row["bytes"], row["frames_per_second"], row["bits"]
    return (
        f"{row['name']}: {row['videos']:,} videos, {row['frames']:,} frames; {row['checkpoint']}, "
        f"{row['data']}. Code {sizes['code']:,} bytes, {difference(bits):+.3%} of the stated "
        f"{bits['stated'] / 8:,.1f}; conditions {sizes['conditions']:,} bytes; header "
        f"{sizes['header']:,} bytes. A second has {row['reset_frames']} frames. Coded at "
        f"{rates['encode']:,.0f} frames per second, decoded at {rates['decode']:,.0f}."
    )


def difference(bits: dict[str, float]) -> float:
    """The code less the stated bits, as a share of these."""
    return bits["code"] / bits["stated"] - 1


def draw_codec(record: dict[str, Any], path: Path) -> None:
    """Bits per frame, a panel for each row."""
    rows = record["rows"]
    figure = Figure(figsize=(7.5, 0.4 + 1.9 * len(rows)), layout="constrained")
    for row, panel in zip(rows, figure.subplots(len(rows), squeeze=False)[:, 0], strict=True):
        values = [row["bits"][key] / row["frames"] for key in NAMES]
        colours = ["#bbbbbb", "#bbbbbb", "C1", "C0", "C0", "C0"]
        panel.scatter(values, list(NAMES.values()), color=colours)
        for name, value in zip(NAMES.values(), values, strict=True):
            beside: Any = {"xytext": (7, -3), "textcoords": "offset points", "fontsize": 8}
            panel.annotate(f"{value:,.4g}", (value, name), **beside)
        panel.margins(y=0.12)
        panel.invert_yaxis()
        panel.set(xscale="log", xlim=(0.6 * min(values), 3 * max(values)))
        panel.set_title(f"{row['name']}: bits per frame", fontsize=9)
        style_panel(panel)
    save_figure(figure, path)
