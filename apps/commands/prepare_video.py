"""`tttvideo prepare video INPUT... --frame-tokenizer CKPT --out DIR`: the options."""

import argparse
from typing import Any

from .corpus_options import add_corpus, check_corpus
from .options import Parser, check_checkpoint, refuse_unless


PROGRAM = "tttvideo.apps.prepare.video:run"
TRIED = 8  # videos of which one must serve before anything is prepared


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo prepare video",
        description="Turn every frame of video files into tokens: a folder with shards of tokens "
        "for training and validation, where each video is a document, and a manifest. Files of "
        "actions, poses, ages, seconds and classes beside a video (clip.actions.npy, .csv, .jsonl) "
        "become arrays beside the shards; all videos must have the same. A video that cannot be "
        "read to its end is left out whole, and listed. A run that was stopped resumes when it is "
        "started again.",
        epilog="example: tttvideo prepare video clips --frame-tokenizer "
        "out/frame_tokenizer_tiny/last.ckpt --out out/video --validation 0.05",
    )
    add = top.add_argument
    help = "video files, folders of pictures, .npy or .npz arrays, or folders or globs of all these"
    add("inputs", nargs="+", metavar="INPUT", help=help)
    add("--out", required=True, metavar="DIR", help="folder to write")
    help = "trained by `tttvideo fit`"
    add("--frame-tokenizer", required=True, metavar="CKPT", help=help)
    help = "leave out the frames before this time (default: none)"
    add("--start", type=float, default=0.0, metavar="SECONDS", help=help)
    help = "leave out the frames from this time on (default: none)"
    add("--end", type=float, metavar="SECONDS", help=help)
    help = "frames per second of pictures and arrays, which have no rate of their own (default: 25)"
    add("--fps", type=float, metavar="RATE", help=help)
    help = "add N more copies of each video to train on, seen in other crops, colours, speeds or "
    help += "mirrored; hold out others with --validation (default: 0)"
    add("--augment", type=int, default=0, metavar="N", help=help)
    help = "write where the camera points, as estimated from the shift between frames, as poses"
    add("--camera-shift", action="store_true", help=help)
    help = "write the time from each frame to the next, as seconds, for videos of unlike rates"
    add("--seconds", action="store_true", help=help)
    bad = "videos that cannot be read, or have other conditions,"
    add_corpus(top, "videos to hold out, 0 to 1; equal files", bad, 0.01)
    return top


def check(options: argparse.Namespace) -> None:
    end = options.end
    refuse_unless(options.start >= 0, "start", options.start, "0 seconds or more")
    refuse_unless(end is None or end > options.start, "end", end, "above --start")
    refuse_unless(options.augment >= 0, "augment", options.augment, "0 or more")
    fps = options.fps
    refuse_unless(fps is None or 0 < fps < 1e6, "fps", fps, "above 0 frames per second")
    check_corpus(options)
    check_checkpoint(options.frame_tokenizer)
    options.found = found_videos(options)


def found_videos(options: argparse.Namespace) -> Any:
    """The videos of the inputs; refuses those whose first ones all fail, for the first's reason."""
    from tttvideo.data.video.sources import find_videos
    from tttvideo.data.video.writer import check_rate

    found, errors = find_videos(options.inputs, options.fps), []
    for source in found.videos[:TRIED]:
        try:
            check_rate(source.name, source.info().fps)
            return found
        except ValueError as error:
            errors.append(error)
    raise errors[0]
