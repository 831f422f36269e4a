"""`tttvideo bench WHAT`: the options."""

import argparse
from typing import Any

from .options import Parser, check_checkpoint, check_folder, refuse_unless


PROGRAM = "tttvideo.apps.bench.program:run_benchmark"
WHATS = {
    "kernels": "the inner loop, forward, and forward + backward, by context",
    "decode": "one token at a time, by context",
    "layers": "blocks of every mixer, and the TTT layer alone, forward + backward, by context",
    "memory": "peak memory of forward + backward, and the size of a decoder's state, by context",
    "generation": "time and memory per token of a whole model, by context",
    "bars": "the required figures, as must, aim and reached",
}
PRESETS: dict[str, dict[str, Any]] = {  # figures on speed of arXiv 2407.04620, 1.3b models
    "kernels": {"batch": 16, "tokens": (2048, 4096, 8192, 16384, 32768), "size": "1.3b"},
    "decode": {"batch": 512, "tokens": (1024, 2048, 4096, 8192, 16384), "size": "1.3b"},
}
MINI_BATCH = 16


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo bench",
        description="Measure speed and memory of the inner loop and of layers, beside other "
        "installed implementations (PyTorch's attention, fla, mamba_ssm). Each is checked against "
        "float64 first. Writes JSON, Markdown and a picture.",
        epilog="example: tttvideo bench kernels --device cpu",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = top.add_argument
    whats = "; ".join(f"{name}: {help}" for name, help in WHATS.items())
    add("what", choices=WHATS, metavar="WHAT", help=whats)
    add("--device", choices=("cpu", "cuda"), help="(default: a GPU if there is one)")
    add("--preset", choices=("paper",), help="kernels or decode as in the paper's figures on speed")
    help = "a text model, for generation (default: untrained, with the size of text_tiny or --size)"
    add("--checkpoint", metavar="CKPT", help=help)
    add("--inner", nargs="+", choices=("linear", "mlp"), help="inner models (default: both)")
    add("--tokens", nargs="+", type=int, metavar="T", help="contexts, in tokens")
    add("--batch", type=int, metavar="B", help="sequences (default: by WHAT and device)")
    help = "heads and widths of the paper's models (default: 125m on a CPU, 1.3b on a GPU; for "
    help += "generation those of text_tiny)"
    add("--size", choices=("125m", "350m", "760m", "1.3b"), help=help)
    add("--heads", type=int, metavar="H", help="overrides the number of heads of --size")
    add("--head-dim", type=int, metavar="D", help="overrides the head dim of --size")
    add("--mini-batch", type=int, metavar="M", help=f"tokens per step (default: {MINI_BATCH})")
    dtypes = ("float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, help="(default: float32 on a CPU, bfloat16 on a GPU)")
    add("--repeats", type=int, metavar="N", help="runs (default: 5, on a GPU 30)")
    help = "fewer runs, but at least 3, when they take longer than this (default: 3)"
    add("--seconds", type=float, default=3.0, metavar="SECONDS", help=help)
    help = "skip longer contexts of an implementation that takes this long per run (default: 10)"
    add("--limit", type=float, metavar="SECONDS", help=help)
    add("--skip", nargs="+", default=[], metavar="NAME", help="leave out, for example attention")
    help = "CPU threads; with 1, CPU time is measured, otherwise wall time (default: 1)"
    add("--threads", type=int, default=1, metavar="N", help=help)
    add("--out", default="out/bench", metavar="DIR", help="folder to write to (default: out/bench)")
    return top


def check(options: argparse.Namespace) -> None:
    for name in ("batch", "heads", "head_dim", "mini_batch", "repeats", "threads"):
        value = getattr(options, name)
        refuse_unless(value is None or value >= 1, name.replace("_", "-"), value, "1 or more")
    for name in ("seconds", "limit"):
        value = getattr(options, name)
        refuse_unless(value is None or value >= 0, name, value, "0 or more")
    if options.what == "generation":
        check_generation(options)
    elif options.checkpoint:
        raise ValueError(f"--checkpoint is for generation, not for {options.what}")
    M = options.mini_batch or MINI_BATCH
    for tokens in options.tokens or ():
        allowed = f"a multiple of --mini-batch {M}"
        refuse_unless(tokens >= M and tokens % M == 0, "tokens", tokens, allowed)
    if options.preset and options.what not in PRESETS:
        raise ValueError(f"--preset {options.preset} is for {' and '.join(PRESETS)} only")
    check_folder(options.out)


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
                f"--{name.replace('_', '-')} is not for generation with --checkpoint, whose model "
                "has its own; leave one of them out"
            )
    if options.checkpoint:
        check_checkpoint(options.checkpoint)
