"""`tttvideo verify CKPT VIDEO`: the options."""

import argparse

from .options import (
    Parser,
    check_checkpoint,
    check_conditions,
    check_folder,
    check_rate,
    refuse_unless,
)


PROGRAM = "tttvideo.apps.verify:run"
LEAST = 40  # frames of the stream, so that its ends can be compared


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo verify",
        description="Prove four properties of a model that reads video as a stream: nothing that "
        "it outputs depends on later frames; a video read whole, in pieces or frame by frame gives "
        "the same bits and state; a frame of an hour costs as much time and memory at the end as "
        "at the start; a state saved to a file continues with the same bits. Prints a page; the "
        "exit code is 0 if all hold, else 1. The state of attention over all frames grows, and "
        "fails. The video is played forward and backward until it is long enough (from its start "
        "again, for a model that reads actions).",
        epilog="example: tttvideo verify out/video_frames_tiny/last.ckpt clip.mp4",
    )
    add = top.add_argument
    add("checkpoint", metavar="CKPT", help="trained by `tttvideo fit` on video, in either mode")
    add("video", metavar="VIDEO", help="a file, an array, or a folder of pictures")
    help = "frames per second of pictures or an array (default: 25)"
    add("--fps", type=float, metavar="RATE", help=help)
    help = "frames of the stream whose cost is measured (default: 108,000, an hour at 30 a second)"
    add("--frames", type=int, default=108_000, metavar="N", help=help)
    for name in ("actions", "poses"):
        help = f"{name} of the frames, as `predict` reads them (default: VIDEO's name with "
        help += f".{name}.npy or another suffix)"
        add(f"--{name}", metavar="FILE", help=help)
    add("--out", metavar="DIR", help="folder for verify.md and verify.json (default: none)")
    return top


def check(options: argparse.Namespace) -> None:
    refuse_unless(options.frames >= LEAST, "frames", options.frames, f"{LEAST} or more")
    fps = options.fps
    refuse_unless(fps is None or 0 < fps < 1e6, "fps", fps, "above 0 frames per second")
    if options.out:
        check_folder(options.out)
    check_conditions(options)
    check_checkpoint(options.checkpoint)
    check_rate(options.video, fps)
