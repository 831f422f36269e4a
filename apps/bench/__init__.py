"""`tttvideo bench WHAT`: kernels and layers against their peers, as tables and plots."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .cases import Case
    from .report import Report


WHATS = {
    "kernels": "the inner loop, forward, and forward + backward, over context",
    "decode": "one token at a time, over context",
    "layers": "blocks of every mixer, and the TTT layer alone, forward + backward, over context",
    "memory": "peak memory of forward + backward, and what a decoder carries, over context",
    "generation": "a whole model's time and memory per token, over context",
    "bars": "what must be reached, as must, aim and reached",
}
CONTEXTS = {  # tokens, by device and by what is measured
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
DEFAULTS = {"inner": ("linear", "mlp"), "mini_batch": 16, "limit": 10.0}  # known as given or not
PAPER = {  # the two figures on speed of arXiv 2407.04620, of models of 1.3b
    "kernels": {"batch": 16, "tokens": (2048, 4096, 8192, 16384, 32768), "size": "1.3b"},
    "decode": {"batch": 512, "tokens": (1024, 2048, 4096, 8192, 16384), "size": "1.3b"},
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tttvideo bench",
        description="Measure speed and memory of the inner loop and of layers, beside others that "
        "are there (PyTorch's attention, fla, mamba_ssm). Each is checked against float64 first.",
        epilog="example: tttvideo bench kernels --device cpu",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whats = "; ".join(f"{name}: {help}" for name, help in WHATS.items())
    top.add_argument("what", choices=WHATS, metavar="WHAT", help=whats)
    top.add_argument("--device", choices=("cpu", "cuda"), help="(default: a GPU if there is one)")
    top.add_argument(
        "--preset", choices=("paper",), help="kernels or decode as in the paper's figures on speed"
    )
    top.add_argument(
        "--checkpoint",
        metavar="CKPT",
        help="of text, for generation (default: untrained ones as in text_tiny, or of --size)",
    )
    top.add_argument("--inner", nargs="+", choices=("linear", "mlp"), help="(default: both)")
    top.add_argument("--tokens", nargs="+", type=int, metavar="T", help="contexts, in tokens")
    top.add_argument("--batch", type=int, metavar="B", help="sequences (default: by what, device)")
    top.add_argument(
        "--size",
        choices=("125m", "350m", "760m", "1.3b"),
        help="heads and widths of the paper's models (default: 125m on a CPU, 1.3b on a GPU; "
        "for generation that of text_tiny)",
    )
    top.add_argument("--heads", type=int, metavar="H", help="in place of the size's")
    top.add_argument("--head-dim", type=int, metavar="D", help="in place of the size's")
    top.add_argument("--mini-batch", type=int, metavar="M", help="(default: 16)")
    top.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="(default: float32 on a CPU, bfloat16 on a GPU)",
    )
    top.add_argument("--repeats", type=int, metavar="N", help="runs (default: 5, on a GPU 30)")
    top.add_argument(
        "--seconds",
        type=float,
        default=3.0,
        help="fewer runs, 3 at the least, where they take longer (default: 3)",
    )
    top.add_argument(
        "--limit",
        type=float,
        metavar="SECONDS",
        help="leave out longer contexts of what takes so long for a run (default: 10)",
    )
    top.add_argument(
        "--skip", nargs="+", default=[], metavar="NAME", help="leave out, e.g. attention"
    )
    top.add_argument(
        "--threads", type=int, default=1, help="CPU threads; with 1 CPU time counts (default: 1)"
    )
    top.add_argument(
        "--out", default="out/bench", metavar="DIR", help="folder to write to (default: out/bench)"
    )
    return top


def run(options: argparse.Namespace) -> None:
    for name, value in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    import torch

    from tttvideo.apps.device import best_device

    options.device = options.device or best_device()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, and there is no CUDA device; use --device cpu")
    torch.set_num_threads(options.threads)
    report = new_report(options)
    try:
        fill(options, report)
    finally:  # what was measured before something broke is kept
        print(report.write(Path(options.out)))
        print(*sorted(Path(options.out).glob(f"{report.name}.*")), sep="\n")
    if report.failures():
        sys.exit("tttvideo bench: a gate failed:\n" + "\n".join(report.failures()))


def check(options: argparse.Namespace) -> None:
    for name in ("batch", "heads", "head_dim", "mini_batch", "repeats", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be 1 or more")
    if options.what == "generation":
        check_generation(options)
    elif options.checkpoint:
        raise ValueError(f"--checkpoint is for generation, not for {options.what}")
    M = options.mini_batch or DEFAULTS["mini_batch"]
    for tokens in options.tokens or ():
        if tokens < M or tokens % M:
            raise ValueError(f"--tokens {tokens} is no multiple of --mini-batch {M}")
    if options.preset and options.what not in PAPER:
        raise ValueError(f"--preset {options.preset} is of {' and '.join(PAPER)} only")


def check_generation(options: argparse.Namespace) -> None:
    for name in ("batch", "heads", "head_dim", "dtype", "skip", "limit"):
        if getattr(options, name) not in (None, []):
            raise ValueError(
                f"--{name.replace('_', '-')} is not for generation, which measures one text of a "
                "whole model in float32, at every context"
            )
    for name in ("inner", "size", "mini_batch") if options.checkpoint else ():
        if getattr(options, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is not for generation by --checkpoint, whose model "
                "has its own; leave one of them out"
            )


def plan(options: argparse.Namespace) -> "tuple[list[Case], int]":
    """Cases as the options say, else the preset, else as suits the device; a SwiGLU's width."""
    from .cases import Case, backbone_size

    key = options.device, options.what
    preset = PAPER[options.what] if options.preset else {}
    cuda = options.device == "cuda"
    size = backbone_size(options.size or preset.get("size") or ("1.3b" if cuda else "125m"))
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


def new_report(options: argparse.Namespace) -> "Report":
    from .contenders import caveats
    from .measure import Clock, ceilings
    from .report import Report

    what, device = options.what, options.device
    name = "-".join(filter(None, (what, options.preset)))
    title = f"tttvideo bench {what}: {WHATS[what]}"
    case = plan(options)[0][0]
    speeds = ceilings(device, case.dtype)
    return Report(name, title, device, Clock(device).name, speeds, notes=caveats(case))


def fill(options: argparse.Namespace, report: "Report") -> None:
    """Measure into the report, with a bar of progress."""
    from tttvideo.progress import progress

    from . import bars, generation, runs

    cases, mlp_width = plan(options)
    what, device = options.what, options.device
    if what == "generation":
        generation.generation(report, options, sorted({case.tokens for case in cases}))
        return
    repeats = options.repeats or (30 if device == "cuda" else 5)
    total = bars.runs(device) if what == "bars" else runs.runs(what, cases)
    with progress(f"measuring {what}", total * repeats, "runs") as advance:
        settings = (repeats, options.seconds, options.limit, tuple(options.skip), advance)
        bench = runs.Bench(report, *settings)
        if what == "bars":
            (bars.cpu_bars if device == "cpu" else bars.gpu_bars)(bench)
        elif what == "layers":
            runs.layers(bench, cases, mlp_width)
        else:
            getattr(runs, what)(bench, cases)
