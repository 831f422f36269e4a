"""`tttvideo evaluate video [NAME=]CKPT... DATA`: the options."""

import argparse
from pathlib import Path

from .options import (
    Parser,
    add_sampling,
    add_seeds,
    check_folder,
    check_sampling,
    check_videos,
    checkpoint_seeds,
    refuse_unless,
)


PROGRAM = "tttvideo.apps.evaluate.video:evaluate_video"
DEFAULTS = {"context": 16, "horizon": 16, "samples": 4, "frechet_context": False}
I3D_FRAMES = 10  # that the network of FVD needs at least
PROTOCOLS = {
    "10-10": (10, 10, 1, False),  # Moving MNIST; MSE is mse_sum there
    "144-156": (144, 156, 1, True),  # DMLab and Minecraft of TECO, as in FAR
    "36-264": (36, 264, 1, True),
}
"""Published protocols: the values of DEFAULTS."""


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo evaluate video",
        description="Measure models of video on videos that they have not seen: bits per frame by "
        "frame index and by horizon, and sampled continuations (PSNR, SSIM, squared errors, "
        "coloured area of drawn videos, cvvdp, Frechet distances), beside copying the last frame "
        "and beside the tokenizer alone, against the truth and against decoded truth. Writes "
        "video.json, .md, .png and sheet.png; a checkpoint that was measured is read from "
        "DIR/cache, and a run that is started again resumes.",
        epilog="example: tttvideo evaluate video ttt=out/model/last.ckpt clips/held_out "
        "--context 16 --horizon 32 --out out/video",
    )
    add = top.add_argument
    add_seeds(top)
    add("data", metavar="DATA", help="videos: a folder, a file or an array, with conditions beside")
    add("--out", required=True, metavar="DIR", help="folder to write to")
    help = "a published protocol, which sets --context, --horizon, --samples and "
    help += "--frechet-context: 10 to 10 frames, 144 to 156, or 36 to 264; the last two with one "
    help += "sample, and with the true context in Frechet distances"
    add("--protocol", choices=PROTOCOLS, metavar="|".join(PROTOCOLS), help=help)
    help = "frames that are read before the prediction (default: 16)"
    add("--context", type=int, metavar="FRAMES", help=help)
    add("--horizon", type=int, metavar="FRAMES", help="frames that are predicted (default: 16)")
    help = "continuations of each video: means over them are reported, and the best (default: 4)"
    add("--samples", type=int, metavar="N", help=help)
    help = "begin the clips of Frechet distances with the true context"
    add("--frechet-context", action="store_true", default=None, help=help)
    help = "frames of each video, at most, whose bits are measured (default: all)"
    add("--frames", type=int, metavar="N", help=help)
    help = "videos, at most, from the first on (default: all)"
    add("--videos", type=int, metavar="N", help=help)
    help = "videos, at most, that cvvdp, Frechet distances and LPIPS are of; 0: none, which is "
    help += "much faster (default: 32)"
    add("--perceived", type=int, default=32, metavar="N", help=help)
    help = "weights of torchvision's alexnet, for LPIPS (default: LPIPS is not computed)"
    add("--lpips-weights", metavar="PATH", help=help)
    help = "i3d_torchscript.pt, for FVD (default: FVD is not computed); a TorchScript file is a "
    help += "program: use one that you trust"
    add("--i3d", metavar="PATH", help=help)
    add("--batch", type=int, default=16, metavar="N", help="videos read side by side (default: 16)")
    add_sampling(top, temperature=1.0, top_p=1.0)
    add("--seed", type=int, default=0, metavar="N", help="seed of the samples (default: 0)")
    return top


def check(options: argparse.Namespace) -> None:
    set_protocol(options)
    check_sampling(options)
    for name in ("context", "horizon", "samples", "frames", "videos", "batch"):
        value = getattr(options, name)
        refuse_unless(value is None or value >= 1, name, value, "1 or more")
    refuse_unless(options.perceived >= 0, "perceived", options.perceived, "0 or more")
    need, frames = options.context + options.horizon, options.frames
    allowed = f"{need} or more, for the context and the horizon"
    refuse_unless(frames is None or frames >= need, "frames", frames, allowed)
    for name in ("lpips_weights", "i3d"):
        path, option = getattr(options, name), name.replace("_", "-")
        if path and not Path(path).is_file():
            raise ValueError(f"--{option} {path}: there is no such file")
        refuse_unless(not path or options.perceived > 0, "perceived", 0, f"above 0 for --{option}")
    frames = options.horizon + options.context * options.frechet_context
    if options.i3d and frames < I3D_FRAMES:
        raise ValueError(
            f"--i3d: FVD needs clips of {I3D_FRAMES} frames, and these have {frames}; choose a "
            "longer --horizon, or leave it out"
        )
    checkpoint_seeds(options.checkpoints)
    check_folder(options.out)
    check_videos(options.data)


def set_protocol(options: argparse.Namespace) -> None:
    """Set what the protocol says, or else the defaults; ValueError where both are given."""
    known = PROTOCOLS.get(options.protocol, tuple(DEFAULTS.values()))
    for name, value in zip(DEFAULTS, known, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
        elif options.protocol:
            both = f"--protocol {options.protocol} sets --{name.replace('_', '-')}"
            raise ValueError(f"{both}; leave one of them out")
