"""`tttvideo evaluate harness CKPT --tasks NAMES`: the options."""

import argparse
import re
from importlib.util import find_spec
from pathlib import Path

from .options import Parser, check_checkpoint, check_folder, refuse_unless


PROGRAM = "tttvideo.apps.evaluate.harness:evaluate_harness"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo evaluate harness",
        description="Measure a text model on tasks of lm-evaluation-harness (extra `eval`). No "
        "context is cut off. The library's own tasks download their data.",
        epilog="example: tttvideo evaluate harness out/books/last.ckpt --tasks lambada_openai,piqa "
        "--out out/harness",
    )
    top.add_argument("checkpoint", metavar="CKPT", help="trained by `tttvideo fit` on text")
    top.add_argument("--tasks", required=True, metavar="NAMES", help="names, separated by commas")
    top.add_argument("--include-path", metavar="DIR", help="folder of YAML files of further tasks")
    top.add_argument("--out", required=True, metavar="DIR", help="folder for results.json")
    top.add_argument(
        "--fewshot",
        type=int,
        metavar="N",
        help="examples before a question (default: as in the task)",
    )
    top.add_argument("--limit", type=int, metavar="N", help="questions of each task (default: all)")
    top.add_argument(
        "--batch-size",
        type=int,
        default=32,
        metavar="N",
        help="requests that are read together; only memory and speed depend on it (default: 32)",
    )
    top.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    return top


def check(options: argparse.Namespace) -> None:
    fewshot, limit, device = options.fewshot, options.limit, options.device
    refuse_unless(fewshot is None or fewshot >= 0, "fewshot", fewshot, "0 or more")
    refuse_unless(limit is None or limit >= 1, "limit", limit, "1 or more")
    refuse_unless(options.batch_size >= 1, "batch-size", options.batch_size, "1 or more")
    known = device is None or re.fullmatch(r"cpu|cuda(:\d+)?", device)
    refuse_unless(bool(known), "device", device, "cpu, cuda or cuda:N")
    if options.include_path and not Path(options.include_path).is_dir():
        raise ValueError(f"--include-path {options.include_path} is not a folder")
    if not options.tasks.strip(","):
        raise ValueError("--tasks has no name; `lm-eval ls tasks` lists them")
    check_folder(options.out)
    check_checkpoint(options.checkpoint)
    if find_spec("lm_eval") is None:
        raise ValueError("lm_eval is not installed; use pip install 'tttvideo[eval]'")
