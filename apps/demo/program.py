"""`tttvideo demo`: train small models of video, and show what they predict and remember."""

import argparse
from pathlib import Path
from typing import Any

from tttvideo.apps.stages import Stages
from tttvideo.files import write_json

from .own_video import OwnVideo
from .shapes import Shapes
from .world import World


SECONDS = 0.026, 0.135, 0.09  # of a training step of the models, about, on two CPU cores


def run(options: argparse.Namespace) -> None:
    name = f"demo_{Path(options.video).stem}" if options.video else "demo"
    out = Path(options.out or f"out/{name}")
    if options.fresh:
        (out / "stages.json").unlink(missing_ok=True)
    times = [n * s for n, s in zip(options.steps, SECONDS, strict=True)]
    if options.video:
        own_video(options, out, times[:2])
    else:
        drawn_videos(options, out, times)


def drawn_videos(options: argparse.Namespace, out: Path, times: list[float]) -> None:
    frames, clips, worlds = map(duration, times)
    introduce("Three small models learn from drawn videos, and then predict new ones", sum(times))
    stages = Stages(out / "stages.json", 8)
    shapes = Shapes(out / "shapes", *options.steps[:2])
    world = World(out / "world", options.steps[2])
    shapes.train(stages, (frames, clips))
    world.train(stages, worlds)
    stages.announce("read the beginnings of the held-out clips, and predict how they go on (60 s)")
    seen, clip_numbers = shapes.show()
    stages.announce("walk away from a place of a new world, and come back (10 s)")
    remembered, world_numbers = world.show()
    finish(out, [seen, remembered], {"shapes": clip_numbers, "world": world_numbers})
    print(
        f"Where to look:\n"
        f"  {shapes.out}/shapes.png, shapes.mp4  truth above, prediction below\n"
        f"  {world.out}/world.png, world.mp4    truth, own memory, another world's memory\n"
        f"  {out}/numbers.json            all numbers\n"
        "Next: `./run demo --video FILE` with a video of your own."
    )


def own_video(options: argparse.Namespace, out: Path, times: list[float]) -> None:
    frames, steps = map(duration, times)
    introduce("Two small models learn from a video, and then predict its end", sum(times))
    stages = Stages(out / "stages.json", 4)
    video = OwnVideo(Path(options.video), out, *options.steps[:2])
    video.train(stages, (frames, steps))
    stages.announce(f"read the video up to the last {video.held_out} frames, and predict these")
    text, numbers = video.show()
    finish(out, [text], numbers)
    print(
        "Where to look:\n"
        f"  {out}/compare.mp4   the last frame that was read, the truth and the prediction, side "
        "by side\n"
        f"  {out}/sheet.png     the same as a picture, with curves\n"
        f"  {out}/metrics.json  all numbers"
    )


def introduce(what: str, seconds: float) -> None:
    print(
        f"{what}. The stages take about {duration(seconds + 150)} on two CPU cores.\n"
        "Ctrl-C stops; the same command resumes.",
        flush=True,
    )


def finish(out: Path, texts: list[str], numbers: dict[str, Any]) -> None:
    write_json(out / "numbers.json", numbers)
    print("\nDone.\n\n" + "\n\n".join(texts) + "\n")


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
