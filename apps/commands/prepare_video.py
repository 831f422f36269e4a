"""`tttvideo prepare video INPUT... --frame-tokenizer CKPT --out FILE`: the options."""

import argparse
import math

from .options import Parser, check_checkpoint, check_output, check_rate, refuse_unless


PROGRAM = "tttvideo.apps.prepare.video:run"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo prepare video",
        description="Turn every frame of video files into tokens; each file is a document.",
        epilog="example: tttvideo prepare video clip.mp4 "
        "--frame-tokenizer out/frame_tokenizer_tiny/last.ckpt --out out/clip.bin",
    )
    top.add_argument("inputs", nargs="+", metavar="INPUT", help="video files, or folders of them")
    top.add_argument("--out", required=True, metavar="FILE", help="token file to write")
    top.add_argument(
        "--frame-tokenizer", required=True, metavar="CKPT", help="trained by `tttvideo fit`"
    )
    add = top.add_argument
    help = "leave out the frames before this time (default: none)"
    add("--start", type=float, default=0.0, metavar="SECONDS", help=help)
    help = "leave out the frames from this time on (default: none)"
    add("--end", type=float, default=math.inf, metavar="SECONDS", help=help)
    help = "write N more copies of each video, seen in other crops, colours, speeds or mirrored, "
    help += "to train on, with a file of other videos for validation (default: 0)"
    add("--augment", type=int, default=0, metavar="N", help=help)
    add("--seed", type=int, default=0, metavar="N", help="seed of the copies (default: 0)")
    help = "write where the camera points, as estimated from the shift between frames, as poses"
    add("--camera-shift", action="store_true", help=help)
    return top


def check(options: argparse.Namespace) -> None:
    refuse_unless(options.start >= 0, "start", options.start, "0 seconds or more")
    refuse_unless(options.end > options.start, "end", options.end, "above --start")
    refuse_unless(options.augment >= 0, "augment", options.augment, "0 or more")
    refuse_unless(options.seed >= 0, "seed", options.seed, "0 or more")
    check_output(options.out)
    check_checkpoint(options.frame_tokenizer)
    check_videos(options.inputs)


def check_videos(inputs: list[str]) -> None:
    from tttvideo.data.inputs import VIDEO_SUFFIXES, find_files

    for path in find_files(inputs, VIDEO_SUFFIXES):
        check_rate(path)
