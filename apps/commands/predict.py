"""`tttvideo predict CKPT VIDEO --out DIR`: the options."""

import argparse

from .options import (
    Parser,
    add_sampling,
    check_checkpoint,
    check_conditions,
    check_folder,
    check_output,
    check_rate,
    check_sampling,
    refuse_unless,
)


PROGRAM = "tttvideo.apps.predict:run"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo predict",
        description="Continue a video: read its context, predict the horizon, and compare the "
        "prediction with the true frames where the file has them. Writes prediction.mp4, "
        "compare.mp4, sheet.png and metrics.json.",
        epilog="example: tttvideo predict out/video_tiny/last.ckpt clip.mp4 --horizon 1 "
        "--out out/clip",
    )
    add = top.add_argument
    add("checkpoint", metavar="CKPT", help="trained by `tttvideo fit` on video")
    help = "video to continue: a file, an array, or a folder of pictures"
    add("video", metavar="VIDEO", help=help)
    help = "frames per second of pictures or an array (default: 25)"
    add("--fps", type=float, metavar="RATE", help=help)
    help = "read this much of the beginning (default: all except the horizon)"
    add("--context", type=float, metavar="SECONDS", help=help)
    help = "predict this much (default: 1)"
    add("--horizon", type=float, default=1.0, metavar="SECONDS", help=help)
    help = "what leads from each frame to the next, for a model that reads it: .npy, .npz, .csv or "
    help += ".jsonl with a row for each frame of the context and of the horizon, so that it steers "
    help += "the prediction (default: VIDEO's name with .actions.npy or another suffix)"
    add("--actions", metavar="FILE", help=help)
    help = "where each frame was taken from, the same way (default: VIDEO's name with .poses.npy; "
    help += "else estimated, for a model of shifts)"
    add("--poses", metavar="FILE", help=help)
    help = "write the state after the context, to continue from it later"
    add("--save-state", metavar="FILE", help=help)
    help = "begin with a saved state; the context is read after it"
    add("--load-state", metavar="FILE", help=help)
    help = "predict this often from the one state, and show all in futures.mp4 (default: 1)"
    add("--futures", type=int, default=1, metavar="N", help=help)
    add("--out", required=True, metavar="DIR", help="folder to write to")
    add_sampling(top, temperature=0.7, top_p=0.9)
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers (default: 0)")
    return top


def check(options: argparse.Namespace) -> None:
    check_sampling(options)
    refuse_unless(options.horizon > 0, "horizon", options.horizon, "above 0 seconds")
    fps = options.fps
    refuse_unless(fps is None or 0 < fps < 1e6, "fps", fps, "above 0 frames per second")
    if options.context is not None:
        refuse_unless(options.context > 0, "context", options.context, "above 0 seconds")
    refuse_unless(options.futures > 0, "futures", options.futures, "1 or more")
    check_conditions(options)
    if options.load_state:
        source = "`--save-state`, or not a whole one; save it again"
        check_checkpoint(options.load_state, "saved state", source)
    if options.save_state:
        check_output(options.save_state, "save-state")
    check_folder(options.out)
    check_checkpoint(options.checkpoint)
    check_horizon(options.horizon, check_rate(options.video, options.fps))


def check_horizon(horizon: float, fps: float) -> None:
    """Refuse a horizon, in seconds, that is less than a frame of the video."""
    from tttvideo.data.video.horizon import horizon_frames  # imports NumPy

    if fps:
        horizon_frames(horizon, fps)
