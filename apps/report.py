"""Parts of the reports of commands: run conditions, tables, JSON and figures."""

import math
import platform
import subprocess
import sys
from collections.abc import Container, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tttvideo.files import read_json, replacing, write_json


LIBRARIES = ("torch", "triton", "fla-core", "mamba-ssm")
DIVERGED = "diverged"


def run_conditions(device: str) -> dict[str, Any]:
    """Device, threads, date, versions, commit and command of this run, with the keys of reports."""
    found = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "command": "tttvideo " + " ".join(sys.argv[1:]),
        "python": platform.python_version(),
    }
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = None
    if device == "cuda":
        found["cuda"] = torch.version.cuda
    return found


def device_name(device: str) -> str:
    """The model of the GPU, or of the CPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, CPU"


def commit() -> str:
    """The commit of the running code, with a plus if its files have changed since."""
    command = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        head, changed = (
            subprocess.run([*command, *words], capture_output=True, text=True, check=True).stdout
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "-uno"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("+" if changed.strip() else "")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are padded, so that its source reads as a table too."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def format_number(number: float | None, form: str) -> str:
    """A number for a table by a format; "" for None, "diverged" for one that is not finite."""
    if number is None:
        return ""
    return format(number, form) if math.isfinite(number) else DIVERGED


def write_record(path: Path, record: Any) -> Any:
    """Write a record as JSON, with null for numbers that are not finite; returns it so."""
    record = replace_infinite(record)
    write_json(path, record)
    return record


def runs_before(path: Path, settings: dict[str, Any]) -> list[Any]:
    """The runs of an earlier record; ValueError if its settings were others."""
    if not path.is_file():
        return []
    before = read_json(path, f"delete {path}")
    if before["settings"] != settings:
        raise ValueError(f"{path} holds runs with other settings; choose another --out")
    return before["runs"]


def wanted_runs(path: Path, wanted: Container[Any], *names: str) -> Any:
    """The record of a file, of its runs only those whose values of `names` are wanted."""
    record = read_json(path, f"delete {path}")
    runs = [run for run in record["runs"] if tuple(run[name] for name in names) in wanted]
    return record | {"runs": runs}


def replace_infinite(record: Any) -> Any:
    """A copy with None for numbers that are not finite, which JSON cannot hold."""
    if isinstance(record, dict):
        return {name: replace_infinite(x) for name, x in record.items()}
    if isinstance(record, (list, tuple)):
        return [replace_infinite(x) for x in record]
    return None if isinstance(record, float) and not math.isfinite(record) else record


def short(tokens: float) -> str:
    for size, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:g}"


def style_panel(panel: Axes) -> None:
    panel.grid(alpha=0.25)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def log_axis(panel: Axes, name: str) -> None:
    """A logarithmic axis of tokens."""
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(lambda value, _: short(value))
    panel.minorticks_off()
    panel.set_xlabel(name, fontsize=8)
    style_panel(panel)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
