"""`tttvideo doctor INPUT`: the options."""

import argparse

from .options import Parser, refuse_unless


PROGRAM = "tttvideo.apps.doctor:run"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo doctor",
        description="Explain a video: what it is, which frames are read and by which reader, what "
        "is wrong with it, and a line that repairs it.",
        epilog="example: tttvideo doctor clip.mp4",
    )
    add = top.add_argument
    add("input", metavar="INPUT", help="a video file, a folder of pictures, or an array")
    help = "end the reading if the next frame takes longer (default: 60)"
    add("--limit", type=float, default=60.0, metavar="SECONDS", help=help)
    help = "frames per second of pictures and arrays, which have no rate of their own (default: 25)"
    add("--fps", type=float, metavar="RATE", help=help)
    return top


def check(options: argparse.Namespace) -> None:
    limit, fps = options.limit, options.fps
    refuse_unless(0 < limit < 1e8, "limit", limit, "above 0 seconds")
    refuse_unless(fps is None or 0 < fps < 1e6, "fps", fps, "above 0 frames per second")
    from tttvideo.data.video.sources import find_videos

    options.videos = find_videos([options.input], fps).videos
