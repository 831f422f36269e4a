"""`tttvideo bench WHAT`: the program."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tttvideo.apps.commands.bench import MINI_BATCH, PRESETS, WHATS
from tttvideo.apps.device import best_device
from tttvideo.measures.speed import Clock, ceilings
from tttvideo.progress import progress

from .bars import count_bar_runs, measure_cpu_bars, measure_gpu_bars
from .cases import DTYPES, Case, load_backbone
from .contenders import Contender, caveats, decode_contenders, kernel_contenders
from .generation import measure_generation
from .records import Report
from .report import write_report
from .runs import DIRECTIONS, Bench, layer_contenders, measure_memory, measure_times


CONTEXTS = {  # tokens, by device and WHAT
    ("cpu", "kernels"): (512, 1024, 2048, 4096),
    ("cpu", "decode"): (512, 2048),
    ("cpu", "layers"): (256, 1024, 4096),
    ("cpu", "memory"): (512, 2048, 8192),
    ("cpu", "generation"): (1024, 4096, 16384, 65536, 131072),
    ("cuda", "kernels"): (2048, 8192, 32768, 131072),
    ("cuda", "decode"): (2048, 8192, 32768, 131072),
    ("cuda", "layers"): (2048, 8192, 32768),
    ("cuda", "memory"): (2048, 8192, 32768),
    ("cuda", "generation"): (1024, 4096, 16384, 65536, 131072),
}
BATCHES = {("cpu", "decode"): 32, ("cuda", "decode"): 32, ("cuda", "kernels"): 4}
DEFAULTS = {"inner": ("linear", "mlp"), "mini_batch": MINI_BATCH, "limit": 10.0}


def run_benchmark(options: argparse.Namespace) -> None:
    """Measure, write the report to --out, and print it; exit code 1 when a gate fails."""
    for name, value in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.device = options.device or best_device()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, and there is no CUDA device; use --device cpu")
    torch.set_num_threads(options.threads)
    cases, mlp_width = choose_cases(options)
    report = new_report(options, cases[0])
    try:
        measure(options, report, cases, mlp_width)
    finally:  # keep the measurements made before an error
        print(write_report(report, Path(options.out)))
        print(*sorted(Path(options.out).glob(f"{report.name}.*")), sep="\n")
    if report.failures():
        sys.exit("tttvideo bench: a gate failed:\n" + "\n".join(report.failures()))


def choose_cases(options: argparse.Namespace) -> tuple[list[Case], int]:
    """Cases from the options, else the preset, else the device; and the width of a SwiGLU."""
    key = options.device, options.what
    preset: dict[str, Any] = PRESETS[options.what] if options.preset else {}
    cuda = options.device == "cuda"
    size = load_backbone(options.size or preset.get("size") or ("1.3b" if cuda else "125m"))
    heads = options.heads or size["heads"]
    shared = Case(
        batch=options.batch or preset.get("batch") or BATCHES.get(key, 1),
        heads=heads,
        head_dim=options.head_dim or size["width"] // size["heads"],
        mini_batch=options.mini_batch,
        dtype=options.dtype or ("bfloat16" if cuda else "float32"),
        device=options.device,
    )
    contexts = options.tokens or preset.get("tokens") or CONTEXTS.get(key, (2048,))
    cases = [replace(shared, inner=i, tokens=T) for i in options.inner for T in sorted(contexts)]
    return cases, size["mlp_width"]


def new_report(options: argparse.Namespace, case: Case) -> Report:
    what, device = options.what, options.device
    name = "-".join(filter(None, (what, options.preset)))
    title = f"tttvideo bench {what}: {WHATS[what]}"
    speeds = ceilings(device, DTYPES[case.dtype])
    return Report(name, title, device, Clock(device).name, speeds, notes=caveats(case))


def measure(options: argparse.Namespace, report: Report, cases: list[Case], mlp_width: int) -> None:
    """Add measurements to the report, with a progress bar."""
    what, device = options.what, options.device
    if what == "generation":
        measure_generation(report, options, sorted({case.tokens for case in cases}))
        return
    repeats = options.repeats or (30 if device == "cuda" else 5)
    layers = partial(layer_contenders, mlp_width=mlp_width)
    timed: dict[str, Callable[[Case], list[Contender]]]
    timed = {"kernels": kernel_contenders, "decode": decode_contenders, "layers": layers}
    if what in timed:
        total = sum(len(DIRECTIONS[what]) * len(timed[what](case)) for case in cases)
    else:
        total = count_bar_runs(device) if what == "bars" else len(cases)
    with progress(f"measuring {what}", total * repeats, "runs") as advance:
        settings = (repeats, options.seconds, options.limit, tuple(options.skip), advance)
        bench = Bench(report, *settings)
        if what in timed:
            measure_times(bench, cases, DIRECTIONS[what], timed[what])
        elif what == "memory":
            measure_memory(bench, cases)
        else:
            (measure_cpu_bars if device == "cpu" else measure_gpu_bars)(bench)
