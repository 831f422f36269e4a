"""`tttvideo prepare text|video INPUT... --out OUT`: files in, files of tokens out.

`tttvideo prepare recall --out FILE` writes text to learn recalling from.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttvideo.files import replacing
from tttvideo.progress import progress

from .device import best_device


if TYPE_CHECKING:
    import numpy as np

    from tttvideo.video.frame_tokenizer import FrameTokenizer


EXAMPLE = "example: tttvideo prepare text books/train --out out/books --validation 0.05"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tttvideo prepare",
        description="Turn text or video files into files of tokens.",
        epilog=EXAMPLE,
    )
    kinds = top.add_subparsers(dest="kind", required=True)
    add_text(kinds)
    add_video(kinds)
    add_recall(kinds)
    return top


def add_text(kinds: "argparse._SubParsersAction") -> None:
    text = kinds.add_parser(
        "text",
        help="documents of .txt, .jsonl (.gz, .zst) and .parquet files, or of Python's own library",
        description="Turn documents into a corpus: a folder with shards of tokens for training and "
        "validation, the tokenizer, and a manifest. A killed run goes on when started again.",
        epilog=EXAMPLE,
    )
    text.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="files, folders or globs of .txt (a document each), .jsonl, .jsonl.gz, .jsonl.zst and "
        ".parquet; or the word stdlib: the sources of the Python that runs, with validation "
        "documents of its own",
    )
    text.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    text.add_argument(
        "--field",
        default="text",
        metavar="NAME",
        help="JSON field, or column, that holds the text (default: text)",
    )
    vocabulary = text.add_mutually_exclusive_group()
    vocabulary.add_argument(
        "--tokenizer", default="bytes", metavar="FILE", help="a tokenizer.json (default: bytes)"
    )
    vocabulary.add_argument(
        "--train-bpe", type=int, metavar="N", help="train a tokenizer of N tokens on the text"
    )
    text.add_argument(
        "--validation",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the documents to hold out; equal documents stay together (default: 0)",
    )
    text.add_argument("--seed", type=int, default=0, help="of what is held out (default: 0)")
    text.add_argument(
        "--shard-tokens",
        type=int,
        default=1 << 26,
        metavar="N",
        help="tokens after which a new shard begins (default: 67108864)",
    )
    text.add_argument(
        "--max-bad",
        type=float,
        default=0.001,
        metavar="SHARE",
        help="share of lines without a text that is let pass (default: 0.001)",
    )
    text.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="processes (default: as many as there are cores)",
    )


def add_video(kinds: "argparse._SubParsersAction") -> None:
    video = kinds.add_parser(
        "video",
        help="every frame of videos",
        description="Turn every frame of video files into tokens; each file is a document.",
        epilog="example: tttvideo prepare video clip.mp4 "
        "--frame-tokenizer out/frame_tokenizer_tiny/last.ckpt --out out/clip.bin",
    )
    video.add_argument("inputs", nargs="+", metavar="INPUT", help="video files, or folders of them")
    video.add_argument("--out", required=True, metavar="FILE", help="token file to write")
    video.add_argument(
        "--frame-tokenizer", required=True, metavar="CKPT", help="trained by `tttvideo fit`"
    )
    video.add_argument(
        "--end", type=float, metavar="SECONDS", help="leave out what comes after (default: nothing)"
    )


def add_recall(kinds: "argparse._SubParsersAction") -> None:
    recall = kinds.add_parser(
        "recall",
        help="generated text with facts and questions, to learn recalling from",
        description="Write generated text, as JSON lines for `tttvideo prepare text`: facts, other "
        "text, and questions that only the facts answer.",
        epilog="example: tttvideo prepare recall --out out/recall.jsonl",
    )
    recall.add_argument("--out", required=True, metavar="FILE", help=".jsonl file to write")
    recall.add_argument(
        "--size", type=int, default=20_000_000, metavar="BYTES", help="(default: 20000000)"
    )
    recall.add_argument(
        "--length",
        type=int,
        default=1024,
        metavar="BYTES",
        help="of the longest document (default: 1024)",
    )
    recall.add_argument(
        "--tasks",
        nargs="+",
        choices=("needle", "mqar", "variables"),
        default=("needle", "mqar", "variables"),
        metavar="TASK",
        help="needle, mqar (pairs of a key and a value) and variables (default: all)",
    )
    recall.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")


def main(arguments: list[str]) -> None:
    options = parser().parse_args(arguments[1:])
    if options.kind == "text":
        prepare_text(options)
    elif options.kind == "recall":
        prepare_recall(options)
    else:
        prepare_video(options.inputs, Path(options.out), options.frame_tokenizer, options.end)


def prepare_text(options: argparse.Namespace) -> None:
    from tttvideo.data.text import corpus

    manifest, before = corpus.prepare_text(
        options.inputs,
        Path(options.out),
        corpus.Vocabulary(options.tokenizer, options.train_bpe),
        corpus.Options(options.field, options.validation, options.seed, options.shard_tokens),
        options.workers,
        options.max_bad,
    )
    if before:
        print(f"{options.out} was prepared before")
    for part, total in manifest["totals"].items():
        if total["documents"]:
            counts = ", ".join(f"{count:,} {name}" for name, count in total.items())
            print(f"{options.out}/{part}: {counts}")
    report(manifest)
    print(f"hash {manifest['hash']}")


def report(manifest: dict[str, Any]) -> None:
    """What was wrong in the input, on standard error."""
    wrong = (("malformed", "lines left out"), ("damaged", "files with bytes that are no UTF-8"))
    for name, what in wrong:
        count, first = manifest[name]["count"], manifest[name]["first"][:3]
        if count:
            more = "; ..." if count > len(first) else ""
            print(f"{count:,} {what}: {'; '.join(first)}{more}", file=sys.stderr)
    if manifest["empty"]:
        print(f"{manifest['empty']:,} empty documents left out", file=sys.stderr)


def prepare_video(inputs: list[str], out: Path, checkpoint: str, end: float | None) -> None:
    from tttvideo.data.modules import VIDEO_SUFFIXES
    from tttvideo.data.text.documents import find_files
    from tttvideo.data.tokens import Header, TokenWriter
    from tttvideo.data.video.reader import probe
    from tttvideo.weights.checkpoints import load_frame_tokenizer

    tokenizer = load_frame_tokenizer(checkpoint).to(best_device())
    files = find_files(inputs, VIDEO_SUFFIXES)
    infos = [probe(path) for path in files]
    rates = {round(info.fps, 3) for info in infos}
    header = Header(
        kind="video",
        tokenizer=tokenizer.fingerprint(),
        vocab_size=tokenizer.config.vocab_size,
        grid=tokenizer.config.grid,
        fps=infos[0].fps if len(rates) == 1 else None,
    )
    total = sum(
        info.frames if end is None else min(info.frames, int(end * info.fps)) for info in infos
    )
    frames = 0
    with TokenWriter(out, header) as writer, progress("tokenising", total, "frames") as advance:
        for path in files:
            writer.start_document()
            for tokens in tokenise(path, tokenizer, end):
                writer.write(tokens)
                advance(len(tokens))
                frames += len(tokens)
        if not frames:
            raise ValueError(f"--end {end} leaves no frame; choose a later one")
    print(f"{out}: {frames:,} frames of {len(files)} videos, {header.frame} tokens each")


def tokenise(path: Path, tokenizer: "FrameTokenizer", end: float | None) -> Iterator["np.ndarray"]:
    """Tokens (N, P) of every frame before `end` seconds, at most 64 frames at a time."""
    import torch

    from tttvideo.data.video.reader import VideoReader, batches

    device = next(tokenizer.parameters()).device
    frames = VideoReader(path, tokenizer.config.size)
    before_end = takewhile(lambda frame: end is None or frame.time < end, frames)
    for images in batches(before_end, 64):
        yield tokenizer.encode(torch.from_numpy(images).to(device)).cpu().numpy()


def prepare_recall(options: argparse.Namespace) -> None:
    from tttvideo.data.recall.texts import recall_documents

    out, size = Path(options.out), options.size
    if out.suffix != ".jsonl":
        raise ValueError(f"--out {out} does not end in .jsonl, as what is written there has to")
    if size < 1:
        raise ValueError(f"--size {size} must be 1 or more")
    written, count = 0, 0
    with (
        replacing(out) as partial,
        open(partial, "w", encoding="utf-8") as file,
        progress("drawing", size, "B") as advance,
    ):
        for text in recall_documents(options.length, options.seed, options.tasks):
            file.write(json.dumps({"text": text}) + "\n")
            advance(len(text))
            written, count = written + len(text), count + 1
            if written >= size:
                break
    print(f"{out}: {count:,} documents, {written:,} bytes")
