"""`tttvideo prepare pan`: worlds seen through a moving window, as tokens with conditions."""

import argparse
from pathlib import Path

from tttvideo.data.tokens import Header, token_writer
from tttvideo.data.video.drawn.pan import STEPS, pan_worlds
from tttvideo.progress import progress
from tttvideo.video.frame_codec import PATCH
from tttvideo.video.palette import PaletteConfig, PaletteTokenizer
from tttvideo.weights.checkpoints import save_palette

from . import alone


AT_ONCE = 500  # worlds


@alone
def run(options: argparse.Namespace) -> None:
    out, worlds, frames = Path(options.out), options.worlds, options.frames
    palette = PaletteTokenizer(PaletteConfig(options.view * PATCH, options.colours))
    header = Header(
        kind="video",
        tokenizer=palette.fingerprint(),
        vocab_size=options.colours,
        grid=palette.config.grid,
        fps=10,
        conditions=("actions", "poses", "ages"),
        action_kinds=len(STEPS),
        pose_periods=(options.size, options.size),
    )
    save_palette(palette, out / "palette.ckpt")
    with (
        token_writer(out / "tokens.bin", header) as writer,
        progress("drawing", worlds, "worlds") as advance,
    ):
        for first in range(0, worlds, AT_ONCE):
            count = min(AT_ONCE, worlds - first)
            seed = (options.seed, first)
            pan = pan_worlds(count, frames, options.size, options.colours, options.view, seed)
            known = [getattr(pan, name).astype("<i4") for name in header.conditions]
            for tokens, *rows in zip(pan.tokens, *known, strict=True):
                writer.start_document()
                writer.write(tokens, **dict(zip(header.conditions, rows, strict=True)))
            advance(count)
    print(
        f"{out}/tokens.bin: {worlds:,} worlds, {frames} frames each; {out}/palette.ckpt: the frame "
        "tokenizer"
    )
