"""The videos of a corpus: where each comes from, which part it is in, and what is known of it."""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tttvideo.data.corpus import part_of
from tttvideo.data.inputs import stamp
from tttvideo.data.tokens import CONDITIONS

from .conditions import beside, condition_files, find_condition, read_condition
from .conditions import read_conditions as read_rows
from .images import ImageReader
from .probe import VideoError
from .reader import VideoReader
from .sources import VideoSource, counted
from .writer import check_rate


ENDS = 1 << 16  # bytes at both ends of a file by which it is assigned to a part
TRIED = 8  # videos of which one must have conditions that can be read

Form = tuple[bool, tuple[int, ...]]
"""Of a condition: whether it is integers, and the shape of a row."""


@dataclass(frozen=True)
class Clip:
    """A video to read."""

    source: VideoSource
    size: int  # bytes
    changed: int  # time of the last change in nanoseconds: a changed file may keep its size
    place: int  # among all videos

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def path(self) -> Path:
        return self.source.path

    def facts(self) -> list[Any]:
        """What a plan tells of it, with its size and the time of change, and its conditions'."""
        facts = [str(self.path), self.source.number, self.source.fps, self.size, self.changed]
        return [*facts, *condition_stamps(self.path)]

    def open(self, size: int) -> VideoReader | ImageReader:
        """Its frames. Raises VideoError for a file that cannot serve."""
        reader = self.source.open(size)
        check_rate(self.path, reader.info.fps)
        return reader

    def part(self, validation: float, seed: int) -> str:
        """Its part of the corpus, chosen by the content of the file and the seed alone."""
        if not validation:
            return "train"
        try:
            key = hashlib.sha256(f"{self.source.number} {self.size} ".encode())
            for path in picture_files(self.path) if self.path.is_dir() else [self.path]:
                key.update(ends(path))
        except OSError as error:
            raise VideoError(f"{self.path} cannot be read ({error.strerror})") from error
        return part_of(key.digest(), validation, seed)

    def conditions(self, frames: int, forms: Mapping[str, Form]) -> dict[str, np.ndarray]:
        """Its conditions by name, one row per frame.

        Raises: ValueError if they are not of these forms.
        """
        rows = read_rows(self.path, self.source.number, frames)
        for name in sorted({*rows, *forms}):
            own = form(rows[name]) if name in rows else None
            if own != forms.get(name):
                raise VideoError(
                    f"{self.name} has {described(own, name)}, and the corpus "
                    f"{described(forms.get(name), name)}; give all videos the same conditions"
                )
        return {name: rows[name].astype("<i4" if forms[name][0] else "<f4") for name in forms}


def new_clips(videos: Sequence[VideoSource]) -> list[Clip]:
    condition_files.cache_clear()
    stamped = lru_cache(maxsize=16)(stamp)  # an array has many videos
    return [Clip(source, *stamped(source.path), place) for place, source in enumerate(videos)]


def picture_files(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_file())


def ends(path: Path) -> bytes:
    with open(path, "rb") as file:
        head = file.read(ENDS)
        file.seek(max(ENDS, path.stat().st_size - ENDS))
        return head + file.read(ENDS)


def condition_stamps(path: Path) -> list[list[Any]]:
    """Name, size and time of change of each file of conditions beside a video."""
    files = [file for name in CONDITIONS for file in beside(path, name)]
    return [[file.name, (fact := file.stat()).st_size, fact.st_mtime_ns] for file in files]


def condition_forms(clips: Sequence[Clip], most_others: float) -> dict[str, Form]:
    """The conditions that most videos have, as the first of these has them.

    Raises: ValueError if none of the first can be read, and if more than the share `most_others`
    of the videos have others.
    """
    named = [(clip, condition_names(clip)) for clip in clips]
    common = Counter(names for _, names in named if names is not None).most_common(1)
    usual = common[0][0] if common else None
    others = [clip for clip, names in named if names not in (usual, None)]
    if len(others) > most_others * len(clips):  # else they are left out one by one
        raise unlike(others, usual or (), len(clips))
    errors = []
    for clip in [clip for clip, names in named if names in (usual, None)][:TRIED]:
        try:
            files = ((name, find_condition(clip.path, name)) for name in CONDITIONS)
            number = clip.source.number
            return {n: form(read_condition(file, n, number)) for n, file in files if file}
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def condition_names(clip: Clip) -> tuple[str, ...] | None:
    """The conditions of a video by their files; None where these are damaged."""
    try:
        return tuple(name for name in CONDITIONS if find_condition(clip.path, name))
    except ValueError:
        return None


def unlike(others: Sequence[Clip], usual: tuple[str, ...], count: int) -> ValueError:
    """The error for others among `count` videos, whose conditions are not the usual ones."""
    own, rest = (
        " and ".join(names or ()) or "none" for names in (condition_names(others[0]), usual)
    )
    return ValueError(
        f"{len(others):,} of {count:,} videos have other conditions than the rest: "
        f"{others[0].name} has {own}, and the rest {rest}; give all videos the same, or leave some "
        "out"
    )


def form(rows: np.ndarray) -> Form:
    return rows.dtype.kind == "i", rows.shape[1:]


def described(form: Form | None, name: str) -> str:
    if form is None:
        return f"no {name}"
    return f"{name} of {counted(math.prod(form[1]), 'integer' if form[0] else 'number')} a frame"
