"""`tttvideo decompress CKPT FILE --out FILE`: the options."""

import argparse
from pathlib import Path

from .compress import SAME
from .options import Parser, check_checkpoint, check_output


PROGRAM = "tttvideo.apps.codec:decompress"
SUFFIXES = ".bin", ".npy", ".mp4"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo decompress",
        description="Restore the frame tokens in a file of `tttvideo compress`, bit for bit, with "
        f"the same model. {SAME}",
        epilog="example: tttvideo decompress out/video_pan/last.ckpt out/pan.code --out "
        "out/pan_again.bin",
    )
    add = top.add_argument
    add("checkpoint", metavar="CKPT", help="the model that compressed")
    add("file", metavar="FILE", help="a file of `tttvideo compress`")
    help = "what to write: tokens (.bin, a token file of all videos) or, of one video, the frames "
    help += "that its tokens show (.npy, uint8 (T, H, W, 3); .mp4)"
    add("--out", required=True, metavar="FILE", help=help)
    return top


def check(options: argparse.Namespace) -> None:
    from tttvideo.sampling.code_file import CodeFile

    if (suffix := Path(options.out).suffix) not in SUFFIXES:
        raise ValueError(f"--out {options.out} must end in {', '.join(SUFFIXES)}")
    check_output(options.out)
    check_checkpoint(options.checkpoint)
    options.code = CodeFile.read(Path(options.file))
    videos = sum(videos for videos, _ in options.code.header.batches)
    if suffix != ".bin" and videos > 1:
        raise ValueError(f"{options.file} holds {videos} videos; --out a token file, .bin")
