"""Conditions that are given with a video to the model that reads and continues it.

F frames, A numbers of an action, D numbers of a pose, R rows.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tttvideo.video.conditions import Conditions
from tttvideo.video.frame_model import FrameModelConfig


def conditions_read(config: FrameModelConfig) -> dict[str, bool]:
    """The conditions that a model reads, by their names in data/tokens.py.

    True: it has to have them. Those that training sometimes hid may be missing.
    """
    known, poses = config.conditions, config.address.poses
    read = {
        "actions": poses == "moves" or bool(known.actions or known.action_size),
        "poses": poses in ("shift", "walk"),
        "classes": bool(known.classes),
        "seconds": known.seconds,
    }
    needed = {"actions": poses == "moves" or not known.dropout, "poses": True}
    return {name: needed.get(name, not known.dropout) for name, used in read.items() if used}


def check_fits(config: FrameModelConfig, name: str, rows: np.ndarray, where: object) -> None:
    """Raise ValueError for rows of a condition that are not of the form that the model reads."""
    known, moves = config.conditions, config.address.moves or ()
    kinds = {"actions": len(moves) or known.actions, "classes": known.classes}.get(name)
    if kinds:
        wanted, fits = f"an integer below {kinds}", rows.ndim == 1 and rows.max() < kinds
    else:
        poses = 3 if config.address.poses == "walk" else 2
        columns = {"actions": known.action_size, "poses": poses}[name]
        wanted, fits = f"{columns} numbers", rows.shape[1:] == (columns,)
    if not fits:
        shown = f"{rows.shape[1]} numbers" if rows.ndim > 1 else f"integers up to {rows.max()}"
        raise ValueError(f"{where} has {name} of {shown}; the model reads {wanted} of each frame")


class GivenConditions:
    """Rows of the frames of one video, which are read in order.

    rows: (R, ...) by the name of the condition, for all frames that are read and predicted.
    """

    def __init__(self, rows: Mapping[str, np.ndarray]):
        arrays = {
            name: x.astype(np.int64 if x.dtype.kind == "i" else np.float32)
            for name, x in rows.items()
        }
        self.rows = {name: torch.from_numpy(x) for name, x in arrays.items()}
        self.begin = 0

    def read(self, frames: int) -> Conditions:
        """Those of the next `frames` frames, as a batch of one."""
        found = self.ahead(frames)
        self.begin += frames
        return found

    def ahead(self, frames: int, count: int = 1) -> Conditions:
        """Those of the `frames` frames after the ones that were read, for `count` futures."""
        found = {name: self.part(name, frames)[None] for name in self.rows}
        return Conditions(**{name: x.expand(count, *x.shape[1:]) for name, x in found.items()})

    def part(self, name: str, frames: int) -> Tensor:
        """Rows of the next frames; of poses one more, which after the last row repeats it."""
        rows, end = self.rows[name], self.begin + frames
        if name == "classes":
            return rows[self.begin]
        found = rows[self.begin : end + (name == "poses")]
        short = name == "poses" and len(found) == frames
        return torch.cat((found, found[-1:])) if short else found
