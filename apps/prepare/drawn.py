"""`tttvideo prepare drawn`: lossless videos of a drawn world, with conditions beside them."""

import argparse
from pathlib import Path

from tttvideo.data.video.drawn import WORLDS, DrawnVideo, claim_folder, draw_videos
from tttvideo.progress import progress
from tttvideo.video.palette import PaletteConfig, PaletteTokenizer
from tttvideo.weights.checkpoints import save_palette


PALETTE = "palette.ckpt"
OWN = "glyphs", "cells", "texture", "wait", "symbols", "distractors"  # options of one world


def run(options: argparse.Namespace) -> None:
    out, world, size = Path(options.out), WORLDS[options.world], options.size
    size = size or world.size
    own = {name: value for name in OWN if (value := getattr(options, name)) is not None}
    counts = {"train": options.videos, "held_out": options.held_out}
    facts = ("world", "frames", "colours", "seed")
    settings = {name: getattr(options, name) for name in facts} | {"size": size} | counts | own
    claim_folder(out, settings)
    colours = None
    if world.palette:
        palette = PaletteTokenizer(PaletteConfig(size, world.greys + options.colours, world.greys))
        colours = palette.palette.numpy()
        if not options.texture:
            save_palette(palette, out / PALETTE)

    def draw(which: tuple[int, bool]) -> DrawnVideo:
        return world.draw(options.frames, size, (options.seed, *which), colours, **own)

    with progress("drawing", sum(counts.values()), "videos") as advance:
        draw_videos(out, counts, draw, world.fps, advance)
    print(f"{out}: {options.videos:,} videos in train, {options.held_out:,} in held_out")
    if (out / PALETTE).is_file():
        print(f"{out}/{PALETTE}: the frame tokenizer, which loses nothing")
