"""`tttvideo prepare video INPUT... --frame-tokenizer CKPT --out FILE`: the options."""

import argparse

from .options import Parser, check_checkpoint, check_output, check_video, refuse_unless


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
    top.add_argument(
        "--end",
        type=float,
        metavar="SECONDS",
        help="leave out the frames from this time on (default: none)",
    )
    return top


def check(options: argparse.Namespace) -> None:
    if options.end is not None:
        refuse_unless(options.end > 0, "end", options.end, "above 0 seconds")
    check_output(options.out)
    check_checkpoint(options.frame_tokenizer)
    check_videos(options.inputs)


def check_videos(inputs: list[str]) -> None:
    from tttvideo.data.inputs import VIDEO_SUFFIXES, find_files

    for path in find_files(inputs, VIDEO_SUFFIXES):
        check_video(path)
