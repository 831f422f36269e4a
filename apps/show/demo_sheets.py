"""Pictures and clips of the demo: roll-outs of clips, and a world remembered and not remembered.

F frames, S pixels of height and width, P tokens per frame.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tttvideo.apps.report import save_figure
from tttvideo.data.video.writer import write_video


TRUTH, PREDICTION, OTHER = "#009e73", "#d55e00", "#666666"  # told apart by the colour-blind too
LABEL = 14  # letters beside a row of pictures
SCALE, BORDER = 3, 4  # of the frames in clips: pixels per pixel, and between frames


def draw_clips(
    path: Path, last: np.ndarray, clips: Mapping[str, tuple[str, np.ndarray]], fps: float
) -> None:
    """Draw a few frames of each of N clips, a row for each of `clips`.

    Arguments:
        last: (N, S, S, 3), the last frame that was read of each clip.
        clips: colour and frames (N, F, S, S, 3) after it, by label.
        fps: frames per second.
    """
    count, frames = next(iter(clips.values()))[1].shape[:2]
    ahead = [n for n in (1, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256) if n <= frames]
    rows, columns = len(clips) * count, 1 + len(ahead)
    figure = Figure(figsize=(1.1 * columns, 1.15 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for clip in range(count):
        for row, (name, (colour, images)) in enumerate(clips.items(), len(clips) * clip):
            label_row(axes[row, 0], name, colour)
            axes[row, 0].imshow(last[clip])
            for axis, n in zip(axes[row, 1:], ahead, strict=True):
                axis.imshow(images[clip, n - 1])
    axes[0, 0].set_title("last read", fontsize=8)
    for axis, n in zip(axes[0, 1:], ahead, strict=True):
        axis.set_title(f"+{n} ({n / fps:.1f} s)", fontsize=8)
    bare(axes)
    save_figure(figure, path)


def write_clips(path: Path, truth: np.ndarray, prediction: np.ndarray, fps: float) -> None:
    """Write a video of N clips side by side, truth above and prediction below."""
    both = zip(np.moveaxis(truth, 1, 0), np.moveaxis(prediction, 1, 0), strict=True)
    write_video(path, (tiled([list(upper), list(lower)]) for upper, lower in both), fps)


@dataclass
class Memory:
    """What the model predicts of a world with one memory."""

    name: str
    colour: str
    frames: np.ndarray
    """(F, S, S, 3)"""
    bits: float | None
    """per token, on the cells that return; None for the truth"""


def draw_world(
    path: Path, rows: Sequence[Memory], returned: np.ndarray, numbers: Sequence[int]
) -> None:
    """Draw frames of a world, a row for the truth and one for each memory, with bits beside.

    Arguments:
        returned: (F, R, R), the cells that return after a long time; they are framed.
        numbers: (F,), the numbers of the frames.
    """
    columns = len(numbers)
    figure = Figure(figsize=(0.95 * columns + 2.6, 1.12 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, memory in zip(axes, rows, strict=True):
        label_row(row[0], memory.name, memory.colour)
        for axis, image, cells in zip(row, memory.frames, returned, strict=True):
            axis.imshow(image)
            frame_cells(axis, cells, image.shape[0] / len(cells))
        if memory.bits is not None:
            beside = f"{memory.bits:.2f} bits\nper token"
            row[-1].text(1.12, 0.5, beside, transform=row[-1].transAxes, va="center", fontsize=9)
    for axis, number in zip(axes[0], numbers, strict=True):
        axis.set_title(f"frame {number}", fontsize=8)
    bare(axes)
    figure.supxlabel("framed: cells that had not been seen for a long time", fontsize=8)
    save_figure(figure, path)


def write_world(path: Path, rows: Sequence[Memory], fps: float) -> None:
    """Write a video of all frames, the rows of `draw_world` side by side."""
    frames = zip(*(memory.frames for memory in rows), strict=True)
    write_video(path, (tiled([list(images)], SCALE * 2) for images in frames), fps)


def frame_cells(axis: Axes, cells: np.ndarray, size: float) -> None:
    """Draw a white frame around each true one of cells (R, R), `size` pixels wide."""
    for row, column in np.argwhere(cells):
        corner = column * size - 0.5 + size / 8, row * size - 0.5 + size / 8
        side = size * 3 / 4
        axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", linewidth=1))


def label_row(axis: Axes, name: str, colour: str) -> None:
    lines = textwrap.wrap(name, LABEL)[:3]
    axis.set_ylabel("\n".join(lines), color=colour, fontweight="bold", fontsize=8)


def bare(axes: np.ndarray) -> None:
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])


def tiled(rows: Sequence[Sequence[np.ndarray]], scale: int = SCALE) -> np.ndarray:
    """Images (S, S, 3) in rows, enlarged, with grey between them."""
    wide = [[np.pad(large(image, scale), PAD, constant_values=64) for image in row] for row in rows]
    return np.concatenate([np.concatenate(row, axis=1) for row in wide])


PAD = (BORDER, BORDER), (BORDER, BORDER), (0, 0)


def large(image: np.ndarray, scale: int) -> np.ndarray:
    return image.repeat(scale, axis=0).repeat(scale, axis=1)
