"""`tttvideo prepare text`: documents in, a corpus of token files out."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tttvideo.data.corpus import Run
from tttvideo.data.text import corpus

from . import alone


@alone
def run(options: argparse.Namespace) -> None:
    manifest, before = corpus.prepare_text(
        options.inputs,
        Path(options.out),
        options.tokenizer if options.train_bpe is None else options.train_bpe,
        corpus.Options(
            options.field,
            options.validation,
            options.seed,
            options.shard_tokens,
            options.bos,
            options.eos,
        ),
        new_run(options),
    )
    show_totals(options, manifest, before)
    report(manifest)


def new_run(options: argparse.Namespace) -> Run:
    merge = None if options.merge is None else [Path(folder) for folder in options.merge]
    return Run(options.workers, options.max_bad, options.part, merge)


def show_totals(options: argparse.Namespace, manifest: dict[str, Any], before: bool) -> None:
    """Print what a corpus holds."""
    if "hash" not in manifest:
        part, parts = options.part
        return print(f"part {part} of {parts} of {options.out} is prepared")
    if before:
        print(f"{options.out} is already prepared")
    for part, total in manifest["totals"].items():
        if total["documents"]:
            counts = ", ".join(f"{count:,} {name}" for name, count in total.items())
            print(f"{options.out}/{part}: {counts}")
    print(f"hash {manifest['hash']}")


def report(manifest: dict[str, Any]) -> None:
    """Print what is wrong in the input, on standard error."""
    wrong = {
        "malformed": "documents left out",
        "damaged": "documents with bytes that are no UTF-8 (kept where tokens are bytes, else "
        "replaced; convert other encodings first, as with iconv -f LATIN1 -t UTF-8)",
    }
    for name, what in wrong.items():
        count, first = manifest[name]["count"], manifest[name]["first"][:3]
        if count:
            more = "; ..." if count > len(first) else ""
            print(f"{count:,} {what}: {'; '.join(first)}{more}", file=sys.stderr)
    if manifest["empty"]:
        print(f"{manifest['empty']:,} empty documents left out", file=sys.stderr)
