"""A picture of mazes: places as they were first seen, and below as they were seen again."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tttvideo.data.tokens import condition_path
from tttvideo.data.video.mazes import first_met, revisits
from tttvideo.data.video.reader import VideoReader
from tttvideo.files import replacing


SIDE, GAP, TEXT = 128, 4, 12  # pixels; small videos are enlarged
COLUMNS, COLOURS = 5, 32


def draw_mazes(paths: Sequence[Path], size: int, out: Path) -> bool:
    """Draw a column for each of the first videos in which a place returns; False for none."""
    found = ((path, best_return(condition_path(path, "poses"))) for path in paths)
    returns = list(islice(((path, frames) for path, frames in found if frames), COLUMNS))
    if not returns:
        return False
    side = max(1, SIDE // size) * size
    width, height = len(returns) * (side + GAP) + GAP, 2 * (side + TEXT) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (path, frames) in enumerate(returns):
        left = GAP + column * (side + GAP)
        for row, (frame, image) in enumerate(zip(frames, read(path, frames, size), strict=True)):
            top = row * (side + TEXT)
            draw.text((left, top), f"frame {frame:,}", "black")
            tile = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (left, top + TEXT))
    with replacing(out) as partial:
        sheet.quantize(COLOURS).save(partial, format="png", optimize=True)
    return True


def best_return(path: Path) -> tuple[int, int] | None:
    """Of the frames that show a place again, the one of the most similar pose, after the first."""
    poses = np.load(path)
    again = np.flatnonzero(revisits(poses))
    if not len(again):
        return None
    first = first_met(poses)[again]
    x, y, angle = np.abs(poses[again] - poses[first]).T
    best = np.argmin(x + y + np.minimum(angle, 360 - angle) / 90)
    return int(first[best]), int(again[best])


def read(path: Path, frames: tuple[int, int], size: int) -> list[np.ndarray]:
    """Two frames of a video, in order."""
    shown = islice(VideoReader(path, size), frames[1] + 1)
    return [frame.image for number, frame in enumerate(shown) if number in frames]
