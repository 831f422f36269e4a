"""`tttvideo prepare glyphs`: clips of bouncing shapes, an mp4 each."""

import argparse
from pathlib import Path

from tttvideo.data.video.drawn import bouncing_glyphs
from tttvideo.data.video.writer import write_video
from tttvideo.progress import progress


FPS = 30


def run(options: argparse.Namespace) -> None:
    counts = {"train": options.clips, "held_out": options.held_out}
    with progress("drawing", sum(counts.values()), "clips") as advance:
        for part, count in counts.items():
            folder = Path(options.out) / part
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                seed = (options.seed, number, part == "held_out")
                frames = bouncing_glyphs(options.frames, options.size, options.glyphs, seed)
                write_video(folder / f"{number:05}.mp4", frames, FPS, lossless=True)
                advance(1)
    print(f"{options.out}: {options.clips:,} clips in train, {options.held_out:,} in held_out")
