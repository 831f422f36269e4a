"""Folders of drawn videos: DIR/train and DIR/held_out, with conditions beside each video."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tttvideo.data.video.conditions import write_conditions
from tttvideo.data.video.writer import write_video
from tttvideo.files import read_json, write_json

from .worlds import DrawnVideo


PARTS = "train", "held_out"
SETTINGS = "world.json"


def claim_folder(out: Path, settings: Mapping[str, Any]) -> None:
    """Write what will be drawn into a folder; ValueError if it holds videos of anything else."""
    path = out / SETTINGS
    if path.is_file():
        before = read_json(path, "delete the folder")
        names = [*settings, *before]
        if name := next((n for n in names if before.get(n) != settings.get(n)), None):
            raise ValueError(
                f"{out} holds videos whose {name} is {before.get(name)}, not {settings.get(name)}; "
                "name another folder, or delete it"
            )
    elif any((out / part).exists() for part in PARTS):
        raise ValueError(f"{out} holds other videos; name another folder, or delete it")
    write_json(path, settings)


def draw_videos(
    out: Path,
    counts: Mapping[str, int],
    draw: Callable[[tuple[int, bool]], DrawnVideo],
    fps: float,
    advance: Callable[[int], None],
) -> None:
    """Draw what the folders do not hold yet, so that a stopped run resumes.

    draw: a video by its number, and whether it is held out.
    """
    for part, count in counts.items():
        (out / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            path = out / part / f"{number:05}.mp4"
            if not path.exists():
                video = draw((number, part == "held_out"))
                write_conditions(path, **video.conditions)
                write_video(path, video.frames, fps, lossless=True)
            advance(1)
