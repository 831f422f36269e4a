"""`tttvideo prepare video`: every frame of video files in, a corpus of token files out."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tttvideo.data.video import corpus
from tttvideo.data.video.sources import printable
from tttvideo.weights.checkpoints import load_frame_tokenizer

from . import alone
from .text import new_run, show_totals


SHOWN = 20  # bad videos; the manifest lists all


@alone
def run(options: argparse.Namespace) -> None:
    threads = torch.get_num_threads()
    try:
        manifest, before = corpus.prepare_video(
            options.inputs,
            options.found,
            Path(options.out),
            new_codec(options.frame_tokenizer),
            new_options(options),
            new_run(options),
        )
    finally:
        torch.set_num_threads(threads)
    show_totals(options, manifest, before)
    report(manifest)


def new_codec(path: str) -> corpus.Codec:
    tokenizer = load_frame_tokenizer(path)
    about = tokenizer.config
    load = partial(load_encoder, path)
    return corpus.Codec(load, tokenizer.fingerprint(), about.vocab_size, about.size, about.grid)


def load_encoder(path: str) -> corpus.Encode:
    """The encoder on one thread of a CPU: the processes are the parallelism, and give equal bits.

    It takes a fraction of the time in which the same process decodes the frames.
    """
    torch.set_num_threads(1)
    tokenizer = load_frame_tokenizer(path)

    def encode(images: np.ndarray) -> np.ndarray:
        return tokenizer.encode(torch.from_numpy(images)).numpy()

    return encode


def new_options(options: argparse.Namespace) -> corpus.Options:
    return corpus.Options(
        options.validation,
        options.seed,
        options.shard_tokens,
        options.start,
        options.end,
        options.augment,
        options.camera_shift,
        options.seconds,
    )


def report(manifest: dict[str, Any]) -> None:
    """Print the videos that were left out, on standard error."""
    bad = manifest["bad"]
    if bad:
        print(f"{len(bad):,} of {manifest['videos']:,} videos are left out:", file=sys.stderr)
    for clip in bad[:SHOWN]:
        print(f"  {printable(clip['reason'])}", file=sys.stderr)
    if len(bad) > SHOWN:
        print(f"  ... the manifest lists all {len(bad):,}", file=sys.stderr)
    if manifest["empty"]:
        print(f"{manifest['empty']:,} videos have no frame from --start to --end", file=sys.stderr)
