"""`tttvideo demo`: the options."""

import argparse

from .options import Parser, check_folder, check_rate


PROGRAM = "tttvideo.apps.demo.program:run"
FEWEST = 96  # frames: windows to learn from and to check with, and the end
STEPS = 4000, 2300, 400


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo demo",
        description="Train small models on drawn videos, let them predict videos that they have "
        "not seen, and compare their memory with that of another video. With --video: train on "
        "one video and predict its end. Finished stages are not repeated when the command is "
        "started again.",
        epilog="example: tttvideo demo --video clip.mp4",
    )
    add = top.add_argument
    add("--video", metavar="FILE", help="train on this video (default: draw videos)")
    add("--out", metavar="DIR", help="folder to write to (default: out/demo or out/demo_NAME)")
    add("--fresh", action="store_true", help="repeat finished stages too")
    help = "training steps of the frame tokenizer, of the video model, and of the model of worlds, "
    help += "which --video does not use (default: {} {} {})".format(*STEPS)
    names = ("FRAMES", "VIDEO", "WORLDS")
    add("--steps", type=int, nargs=3, default=STEPS, metavar=names, help=help)
    return top


def check(options: argparse.Namespace) -> None:
    if min(options.steps) < 1:
        steps = " ".join(map(str, options.steps))
        raise ValueError(f"--steps {steps} must all be 1 or more")
    if options.out:
        check_folder(options.out)
    if options.video:
        check_rate(options.video)
        check_length(options.video)


def check_length(video: str) -> None:
    from tttvideo.data.video.sources import one_video

    count = len(one_video(video).open(64).index.times)
    if count < FEWEST:
        raise ValueError(f"{video} has {count} frames; the demo needs at least {FEWEST}")
