"""`tttvideo prepare drawn`: lossless videos of a drawn world, with conditions beside them."""

import argparse
from pathlib import Path

from tttvideo.data.video.drawn import (
    WORLDS,
    DrawnVideo,
    claim_folder,
    draw_videos,
    missing_videos,
)
from tttvideo.progress import progress
from tttvideo.video.palette import PaletteConfig, PaletteTokenizer
from tttvideo.weights.checkpoints import save_palette

from . import alone


PALETTE = "palette.ckpt"


@alone
def run(options: argparse.Namespace) -> None:
    out, world, size = Path(options.out), WORLDS[options.world], options.size
    size = size or world.size
    given = {name: getattr(options, name) for name in world.options}
    own = {n: default if given[n] is None else given[n] for n, default in world.options.items()}
    counts = {"train": options.videos, "held_out": options.held_out}
    facts = {name: getattr(options, name) for name in ("world", "frames", "seed")}
    claim_folder(out, facts | {"size": size} | own, counts)
    colours, palette = own.pop("colours", None), None
    if colours:
        tokenizer = PaletteTokenizer(PaletteConfig(size, world.greys + colours, world.greys))
        palette = tokenizer.palette.numpy()
        if not options.texture:
            save_palette(tokenizer, out / PALETTE)

    def draw(which: tuple[int, bool]) -> DrawnVideo:
        return world.draw(options.frames, size, (options.seed, *which), palette, **own)

    frames = len(missing_videos(out, counts)) * options.frames
    with progress("drawing", frames, "frames") as advance:
        draw_videos(out, counts, draw, world.fps, advance)
    print(f"{out}: {options.videos:,} videos in train, {options.held_out:,} in held_out")
    if (out / PALETTE).is_file():
        print(f"{out}/{PALETTE}: the frame tokenizer, which loses nothing")
    if cells := own.get("cells"):
        print(f"for a model: --model.frame_model.address.periods '[{cells}, {cells}]'")
