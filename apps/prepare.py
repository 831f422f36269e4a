"""`tttvideo prepare text|video INPUT... --out FILE`: files in, one token file out."""

import argparse
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from tttvideo.data.progress import progress

from .device import best_device


if TYPE_CHECKING:
    import numpy as np

    from tttvideo.frame_tokenizer import FrameTokenizer


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tttvideo prepare",
        description="Turn text or video files into one token file.",
        epilog="example: tttvideo prepare text books/train --out out/books/train.bin",
    )
    kinds = top.add_subparsers(dest="kind", required=True)
    text = kinds.add_parser(
        "text",
        help="bytes of .txt files",
        description="Turn text files into a file of byte tokens; each file is a document.",
        epilog="example: tttvideo prepare text books/train --out out/books/train.bin",
    )
    text.add_argument("inputs", nargs="+", metavar="INPUT", help=".txt files, or folders of them")
    text.add_argument("--out", required=True, metavar="FILE", help="token file to write")
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
    return top


def main(arguments: list[str]) -> None:
    options = parser().parse_args(arguments[1:])
    if options.kind == "text":
        prepare_text(options.inputs, Path(options.out))
    else:
        prepare_video(options.inputs, Path(options.out), options.frame_tokenizer, options.end)


def prepare_text(inputs: list[str], out: Path) -> None:
    from tttvideo.data.text import BYTES, find_files, read_bytes
    from tttvideo.data.tokens import TokenWriter

    files = find_files(inputs, (".txt",))
    total = sum(path.stat().st_size for path in files)
    with TokenWriter(out, BYTES) as writer, progress("reading", total, "B") as advance:
        for path in files:
            writer.start_document()
            for tokens in read_bytes(path):
                writer.write(tokens)
                advance(len(tokens))
    print(f"{out}: {writer.count:,} bytes of {len(files)} documents")


def prepare_video(inputs: list[str], out: Path, checkpoint: str, end: float | None) -> None:
    from tttvideo.checkpoints import load_frame_tokenizer
    from tttvideo.data.frames import probe
    from tttvideo.data.module import VIDEO_SUFFIXES
    from tttvideo.data.text import find_files
    from tttvideo.data.tokens import Header, TokenWriter

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

    from tttvideo.data.frames import VideoReader, batches

    device = next(tokenizer.parameters()).device
    frames = VideoReader(path, tokenizer.config.size)
    before_end = takewhile(lambda frame: end is None or frame.time < end, frames)
    for images in batches(before_end, 64):
        yield tokenizer.encode(torch.from_numpy(images).to(device)).cpu().numpy()
