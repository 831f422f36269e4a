"""`tttvideo prepare text INPUT... --out DIR`: the options."""

import argparse

from .corpus_options import add_corpus, check_corpus
from .options import Parser, add_marks


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
    help = (
        "files, folders or globs of .txt and .md (a document each), .jsonl and .ndjson (a record "
    )
    help += (
        "or string in each line), .json (a list of them, or one after another), .csv (the first "
    )
    help += "row names the columns) and .parquet; all but .parquet also packed: .gz, .zst, .xz, "
    help += ".bz2. Text is UTF-8. Or the word stdlib: the sources of the running Python, with its "
    help += "own validation documents"
    add("inputs", nargs="+", metavar="INPUT", help=help)
    add("--out", required=True, metavar="DIR", help="folder to write")
    help = "JSON field, or column, that holds the text; meta.text is the field text inside meta "
    help += "(default: text)"
    add("--field", default="text", metavar="NAME", help=help)
    either = top.add_mutually_exclusive_group()
    help = "a tokenizer.json (default: bytes)"
    either.add_argument("--tokenizer", default="bytes", metavar="FILE", help=help)
    help = "train a tokenizer of N tokens on the text"
    either.add_argument("--train-bpe", type=int, metavar="N", help=help)
    add_marks(top)
    add_corpus(
        top, "documents to hold out, 0 to 1; equal documents", "documents without a text", 0.001
    )
    return top


def check(options: argparse.Namespace) -> None:
    check_corpus(options)
    if (options.bos or options.eos) and (options.tokenizer == "bytes" or options.train_bpe):
        raise ValueError(
            "--bos and --eos name tokens of a given tokenizer.json; give --tokenizer FILE, since "
            "bytes and a trained BPE have marks of their own"
        )
    if options.part and options.train_bpe is not None:
        raise ValueError(
            "--part needs a tokenizer that all parts share, and --train-bpe trains one on the "
            "whole text: prepare it without --part first, then give its tokenizer.json as "
            "--tokenizer"
        )
