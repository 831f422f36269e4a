"""`tttvideo compress CKPT DATA --out FILE`: the options."""

import argparse

from .options import Parser, check_checkpoint, check_output


PROGRAM = "tttvideo.apps.codec:compress"
SAME = (
    "The decoder has to compute the same probabilities to the last bit. Both commands therefore "
    "use one CPU thread, or the GPU; another version of torch, kind of CPU, or a GPU in place of a "
    "CPU may round otherwise. That is noticed, as a rule at the second frame, and refused."
)


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo compress",
        description="Compress videos with a model: their frame tokens are coded without loss in as "
        "many bits as the model's probabilities say. The file also holds the actions and poses "
        f"that the model reads. {SAME}",
        epilog="example: tttvideo compress out/video_pan/last.ckpt out/pan/tokens.bin --out "
        "out/pan.code",
    )
    add_model_and_data(top)
    top.add_argument("--out", required=True, metavar="FILE", help="file to write")
    return top


def add_model_and_data(top: argparse.ArgumentParser) -> None:
    add = top.add_argument
    add("checkpoint", metavar="CKPT", help="trained by `tttvideo fit` on video")
    help = "tokens of `tttvideo prepare`, a file or a folder of them; or videos, a file, a folder "
    help += "or a glob, which the model's frame tokenizer turns into tokens (with loss)"
    add("data", metavar="DATA", help=help)


def check(options: argparse.Namespace) -> None:
    check_output(options.out)
    check_model_and_data(options)


def check_model_and_data(options: argparse.Namespace) -> None:
    from tttvideo.data.tokens import is_token_data, open_tokens

    check_checkpoint(options.checkpoint)
    if is_token_data(options.data):
        if open_tokens(options.data).header.kind != "video":
            raise ValueError(f"{options.data} has tokens of text; name tokens of video")
        return
    from tttvideo.data.video.sources import find_videos

    find_videos([options.data]).videos[0].info()
