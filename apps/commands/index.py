"""`tttvideo index INPUT...`: the options."""

import argparse
from pathlib import Path

from .options import Parser, check_output, refuse_unless


PROGRAM = "tttvideo.apps.index:run"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo index",
        description="Read every frame of videos, and write what each of them is into an index: a "
        "line of JSON with its hash, frames, times, rate, size, rotation, codec, flags, reader and "
        "status (ok, bad, hang or crash), and the reason. A decoder that hangs or crashes costs "
        "one video. An index that was stopped is continued, and one whose videos changed is "
        "renewed: what did not change is not read again, unless it hung or crashed. Remove the "
        "index to read all again.",
        epilog="example: tttvideo index clips --out out/clips.jsonl",
    )
    add = top.add_argument
    help = "video files, folders of pictures, .npy or .npz arrays, or folders of all these"
    add("inputs", nargs="+", metavar="INPUT", help=help)
    help = "index to write (default: out/NAME.jsonl, with the name of the first INPUT)"
    add("--out", metavar="FILE", help=help)
    help = "end the reading of a video whose next frame takes longer; its first may take a second "
    help += "more for each 20 MB of the file (default: 60)"
    add("--limit", type=float, default=60.0, metavar="SECONDS", help=help)
    help = "frames per second of pictures and arrays, which have no rate of their own (default: 25)"
    add("--fps", type=float, metavar="RATE", help=help)
    add("--workers", type=int, metavar="N", help="processes that read (default: one per core)")
    help = "end with an error if more videos than this cannot be read (default: any number may)"
    add("--max-bad", type=int, metavar="N", help=help)
    return top


def check(options: argparse.Namespace) -> None:
    limit, fps, workers, bad = options.limit, options.fps, options.workers, options.max_bad
    refuse_unless(0 < limit < 1e8, "limit", limit, "above 0 seconds")
    refuse_unless(fps is None or 0 < fps < 1e6, "fps", fps, "above 0 frames per second")
    refuse_unless(workers is None or workers >= 1, "workers", workers, "1 or more")
    refuse_unless(bad is None or bad >= 0, "max-bad", bad, "0 or more")
    first = Path(options.inputs[0]).resolve()
    options.out = options.out or f"out/{first.name if first.is_dir() else first.stem}.jsonl"
    check_output(options.out)
    check_inputs(options)


def check_inputs(options: argparse.Namespace) -> None:
    from tttvideo.data.video.index_file import read_surveys
    from tttvideo.data.video.sources import find_videos

    read_surveys(Path(options.out))
    options.found = find_videos(options.inputs, options.fps)
