"""`tttvideo prepare text INPUT... --out DIR`: the options."""

import argparse
import os

from .options import Parser, check_folder


PROGRAM = "tttvideo.apps.prepare.text:run"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo prepare text",
        description="Turn documents into a corpus: a folder with shards of tokens for training and "
        "validation, the tokenizer, and a manifest. A run that was stopped resumes when it is "
        "started again.",
        epilog="example: tttvideo prepare text books/train --out out/books --validation 0.05",
    )
    add = top.add_argument
    help = "files, folders or globs of .txt (a document each), .jsonl, .jsonl.gz, .jsonl.zst and "
    help += ".parquet; or the word stdlib: the sources of the running Python, with its own "
    help += "validation documents"
    add("inputs", nargs="+", metavar="INPUT", help=help)
    add("--out", required=True, metavar="DIR", help="folder to write")
    help = "JSON field, or column, that holds the text (default: text)"
    add("--field", default="text", metavar="NAME", help=help)
    either = top.add_mutually_exclusive_group()
    help = "a tokenizer.json (default: bytes)"
    either.add_argument("--tokenizer", default="bytes", metavar="FILE", help=help)
    help = "train a tokenizer of N tokens on the text"
    either.add_argument("--train-bpe", type=int, metavar="N", help=help)
    help = "share of the documents to hold out, 0 to 1; equal documents stay together (default: 0)"
    add("--validation", type=float, default=0.0, metavar="SHARE", help=help)
    help = "seed of the choice to hold out (default: 0)"
    add("--seed", type=int, default=0, metavar="N", help=help)
    help = "tokens after which a new shard begins (default: 67108864)"
    add("--shard-tokens", type=int, default=1 << 26, metavar="N", help=help)
    help = "share of lines without a text that is accepted (default: 0.001)"
    add("--max-bad", type=float, default=0.001, metavar="SHARE", help=help)
    help = "processes (default: one per core)"
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help=help)
    return top


def check(options: argparse.Namespace) -> None:
    check_folder(options.out)
