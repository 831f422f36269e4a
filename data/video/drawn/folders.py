"""Folders of drawn videos: DIR/train and DIR/held_out, with conditions beside each video."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tttvideo.data.corpus import check_empty
from tttvideo.data.video.conditions import write_conditions
from tttvideo.data.video.writer import write_video
from tttvideo.files import read_json, write_json

from .worlds import WORLDS, DrawnVideo


PARTS = "train", "held_out"
SETTINGS = "world.json"


def claim_folder(out: Path, settings: Mapping[str, Any], counts: Mapping[str, int]) -> None:
    """Write what will be drawn into a folder; ValueError if it holds videos of anything else.

    counts: videos of each part; there may be fewer already.
    """
    path, remedy = out / SETTINGS, "name another folder, or delete it"
    if path.is_file():
        before = read_json(path, "delete the folder")
        names = [*settings, *before]
        if name := next((n for n in names if before.get(n) != settings.get(n)), None):
            was, now = before.get(name), settings.get(name)
            raise ValueError(f"{out} was drawn with {name} {was}, not {now}; {remedy}")
    else:
        check_empty(out)
    for part, count in counts.items():
        if video_path(out, part, count).exists():
            raise ValueError(f"{out / part} holds more than {count} videos; {remedy}")
    write_json(path, settings)


def video_path(out: Path, part: str, number: int) -> Path:
    return out / part / f"{number:05}.mp4"


def draw_videos(
    out: Path,
    counts: Mapping[str, int],
    draw: Callable[[tuple[int, bool]], DrawnVideo],
    fps: float,
    advance: Callable[[int], None],
) -> None:
    """Draw what the folders do not hold yet, so that a stopped run resumes.

    draw: a video by its number, and whether it is held out.
    advance: called after each frame that is drawn.
    """
    for part, number in missing_videos(out, counts):
        path = video_path(out, part, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        video = draw((number, part == "held_out"))
        write_conditions(path, **video.conditions)
        write_video(path, counted(video.frames, advance), fps, lossless=True)


def missing_videos(out: Path, counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Part and number of the videos that the folders do not hold yet."""
    every = [(part, number) for part, count in counts.items() for number in range(count)]
    return [one for one in every if not video_path(out, *one).exists()]


def counted(frames: Iterable[np.ndarray], advance: Callable[[int], None]) -> Iterator[np.ndarray]:
    for frame in frames:
        yield frame
        advance(1)


def empty_background(data: Path, size: int) -> np.ndarray | None:
    """The background (size, size, 3) uint8 of drawn videos without their objects.

    data: a folder of `prepare drawn`, or DIR/train or DIR/held_out below it. None for other videos,
    and for worlds that are no objects before a background.
    """
    for folder in (data, data.parent):
        if (folder / SETTINGS).is_file():
            world = WORLDS.get(read_json(folder / SETTINGS, "delete the folder").get("world", ""))
            return world.empty(size) if world and world.empty else None
    return None
