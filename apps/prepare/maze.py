"""`tttvideo prepare maze`: walks through mazes of Doom, with actions and poses."""

import argparse
from dataclasses import fields
from pathlib import Path

from tttvideo.apps.show.maze_sheet import draw_mazes
from tttvideo.data.video.mazes_folder import MazeOptions, prepare_mazes

from . import alone


@alone
def run(options: argparse.Namespace) -> None:
    out, settings = Path(options.out), vars(options)
    chosen = MazeOptions(**{field.name: settings[field.name] for field in fields(MazeOptions)})
    manifest = prepare_mazes(out, chosen, options.workers)
    paths = [out / video["file"] for video in manifest["videos"]]
    sheet = f"; see {out}/sheet.png" if draw_mazes(paths, options.size, out / "sheet.png") else ""
    print(
        f"{out}: {options.videos:,} videos in train, {options.held_out:,} in held_out, "
        f"{options.frames:,} frames each; {manifest['revisited']:.1%} of the frames show a place "
        f"that was first seen 150 or more frames before{sheet}"
    )
