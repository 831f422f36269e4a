"""`tttvideo evaluate codec`: code videos, decode them, and compare the bytes with the bits."""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tttvideo.apps.codec import count, read_code, ready_model, write_code
from tttvideo.apps.device import best_device
from tttvideo.apps.report import run_conditions, write_record
from tttvideo.apps.show.codec_page import codec_page, draw_codec
from tttvideo.files import read_json, write_text
from tttvideo.measures.codec import reset_bits, stated_bits, xz_bits
from tttvideo.measures.token_batches import token_batches
from tttvideo.progress import progress
from tttvideo.sampling.code_file import CodeFile
from tttvideo.sampling.frame_coder import TokenBatch, hash_of, model_hash
from tttvideo.weights.video_checkpoints import VideoCheckpoint


FPS = 25.0  # of videos whose rate nobody knows


def evaluate_codec(options: argparse.Namespace) -> None:
    """Each row is recorded when it is measured, and not measured again."""
    out = Path(options.out)
    path = out / "codec.json"
    record = read_json(path, f"delete {path}") if path.is_file() else {"rows": []}
    model = ready_model(options.checkpoint)
    batches = token_batches(options.data, model)
    before = [row for row in record["rows"] if row["name"] == options.name]
    if not before:
        conditions = run_conditions(best_device())
        facts = {"name": options.name, "checkpoint": options.checkpoint, "data": options.data}
        row = facts | measure(model, batches, out / f"{options.name}.code", options.checkpoint)
        record = write_record(path, {**conditions, "rows": [*record["rows"], row]})
    elif before[0]["hashes"] != hashes(model, batches):
        raise ValueError(
            f"{path} has a row {options.name} of another model or other videos; name "
            "this one, NAME=CKPT, or choose another --out"
        )
    page = codec_page(record)
    write_text(out / "codec.md", page)
    draw_codec(record, out / "codec.png")
    print(page)
    print(*sorted(out.glob("codec.*")), sep="\n")


def hashes(model: VideoCheckpoint, batches: Sequence[TokenBatch]) -> list[str]:
    """What a row is of: the hashes of the model and of the tokens."""
    return [model_hash(model.network), hash_of([batch.frames for batch in batches])]


def measure(
    model: VideoCheckpoint, batches: Sequence[TokenBatch], path: Path, checkpoint: str
) -> dict[str, Any]:
    """Numbers of a row; bits are those of all frames. The decoder loads model and code anew."""
    network, frames = model.network, count(batches)
    begin = time.perf_counter()
    sizes = write_code(model, batches, path)
    middle = time.perf_counter()
    found = read_code(ready_model(checkpoint), CodeFile.read(path), path)
    end = time.perf_counter()
    for batch, decoded in zip(batches, found, strict=True):
        assert torch.equal(batch.frames, decoded)
    every = max(2, round(model.fps or FPS))
    with progress("scoring", 2 * frames, "frames") as advance:
        stated = stated_bits(network, batches, advance)
        reset = reset_bits(network, batches, every, advance)
    V = network.config.vocab_size
    return {
        "hashes": hashes(model, batches),
        "videos": sum(len(batch.frames) for batch in batches),
        "frames": frames,
        "reset_frames": every,
        "bits": {
            "equal": frames * batches[0].frames.shape[2] * math.log2(V),
            "xz": xz_bits(batches, V),
            "reset": reset,
            "stated": stated,
            "code": 8 * sizes["code"],
            "file": 8 * sum(sizes.values()),
        },
        "bytes": sizes,
        "frames_per_second": {
            "encode": frames / (middle - begin),
            "decode": frames / (end - middle),
        },
    }
