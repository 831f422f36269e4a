"""`tttvideo fit --config NAME`: train a model, or resume its training."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tttvideo.apps.config_files import find_configs, packaged_names, settings
from tttvideo.apps.config_keys import CLASSES, check_settings, listing

from .options import Parser, check_checkpoint, check_folder


PROGRAM = "tttvideo.apps.fit:run"
LEAST = {
    "save_every": 1,
    "data.window": 1,
    "data.batch_size": 1,
    "data.size": 1,
    "data.buffer": 1,
    "data.frames": 2,
    "data.workers": 0,
    "model.backbone.width": 1,
    "model.backbone.depth": 1,
    "model.backbone.heads": 1,
    "model.backbone.mlp_width": 0,
    "model.backbone.ttt.mini_batch_size": 1,
    "model.backbone.ttt.conv_kernel": 1,
    "trainer.max_steps": -1,
    "trainer.accumulate_grad_batches": 1,
}
"""The smallest values of keys, where they do not depend on other keys."""
INSTEAD = {"trainer.logger": "--wandb", "trainer.default_root_dir": "--out"}
FLAGS = ("--quiet", "--verbose", "--help-keys", "--verify")
EXAMPLE = "--config text_tiny --data.train out/books/train --trainer.max_steps 500 --out out/first"
MEASURE = (
    "Measure a model on its {} data: last.ckpt in the --out folder of its fit, or --ckpt_path "
    "FILE. Give the configs and keys of that fit."
)
ABOUT = {
    "fit": "Train a model. A config names the model, the data and the trainer. Any key of it is "
    "overridden by --KEY VALUE, for instance --model.backbone.depth 6; what comes later wins. A "
    "run that is started again with the same --out resumes from its last.ckpt.",
    "validate": MEASURE.format("validation"),
    "test": MEASURE.format("test"),
}


def parser(command: str = "fit") -> Parser:
    top = FitParser(
        prog=f"tttvideo {command}",
        usage="%(prog)s --config NAME|FILE [--config ...] [--KEY VALUE ...] [options]",
        description=ABOUT[command],
        epilog=f"example: tttvideo {command} {EXAMPLE}",
        allow_abbrev=False,
    )
    top.set_defaults(command=command)
    top.add_argument(
        *("-c", "--config"),
        metavar="NAME|FILE",
        help="a packaged config or a YAML file; each changes the keys that it names in those "
        f"before it. Packaged: {packaged_names()}",
    )
    top.add_argument("--help-keys", action="store_true", help="print every key of the config")
    top.add_argument(
        "--out",
        metavar="DIR",
        help="folder of what the run writes: last.ckpt, logs/ with metrics.csv and config.yaml, "
        "samples/ (default: as the config says)",
    )
    top.add_argument("--wandb", metavar="WHERE", help="log to wandb too: off, online or offline")
    top.add_argument("--save_every", metavar="N", help="steps between checkpoints (default: 200)")
    top.add_argument(
        "--verify",
        action="store_true",
        help="read all tokens first, and compare each with the vocabulary and each file with its "
        "hash in the manifest, for data from elsewhere; without it sizes, types and the starts of "
        "documents are checked, and tokens when they are read",
    )
    top.add_argument("--quiet", action="store_true", help="print errors only")
    top.add_argument("--verbose", action="store_true", help="print Lightning's messages too")
    return top


class FitParser(Parser):
    """The options of the command; all others are keys of the config and are checked here.

    The result has `arguments`, for LightningCLI, and `settings`, the keys and values in them.
    """

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        given = sys.argv[1:] if args is None else list(args)
        options, _ = self.parse_known_args(given, namespace)
        options.arguments = find_configs([word for word in given if word not in FLAGS])
        options.settings = settings(options.arguments)
        if options.help_keys:
            print(listing(options.settings, options.command))
            self.exit()
        if not any(setting.key.startswith("model") for setting in options.settings):
            raise ValueError(f"--config is missing; name a file, or one of {packaged_names()}")
        check_settings(options.settings, options.command)
        return options


def check(options: argparse.Namespace) -> None:
    """Raise ValueError for values, files and folders that the run cannot use."""
    values = {s.key: s.value for s in options.settings}
    if any(key in ("print_config", *(f"{c}.help" for c in CLASSES)) for key in values):
        return
    for key, least in LEAST.items():
        value = values.get(key)
        if isinstance(value, int) and value < least:
            raise ValueError(f"{key} is {value}; it must be {least} or more")
    if values.get("weights_only") is False:
        raise ValueError(
            "weights_only is false, and a checkpoint could then run any code; leave it out"
        )
    for key, option in INSTEAD.items():
        if values.get(key) is not None:
            raise ValueError(f"{key} is not used here; use {option} instead")
    paths = {s.key: str(s.text) for s in options.settings if s.value is not None}
    check_files(paths, values.get("data.videos") or (), options.verify)
    out = next((str(s.text) for s in reversed(options.settings) if s.key == "out"), "out/run")
    check_folder(out)
    last = Path(out) / "last.ckpt"
    if options.command != "fit" and "ckpt_path" not in paths and not last.is_file():
        raise ValueError(f"there is no {last}; use --out of a run, or --ckpt_path")


def check_files(paths: dict[str, str], videos: Sequence[Any], verify: bool = False) -> None:
    """Raise ValueError for data and checkpoints that are missing or of another kind.

    verify: read all tokens and compare them, see `open_tokens`.
    """
    from tttvideo.data.tokens import open_tokens

    kind = paths.get("data.class_path", "").rpartition(".")[2]
    for key in ("data.train", "data.validation"):
        if kind == "TokenData" and key in paths:
            open_tokens(paths[key], verify)
    if kind in ("FrameData", "ClipData"):
        check_videos(map(str, videos))
    for key in ("model.frame_tokenizer", "model.start_from", "ckpt_path"):
        path = paths.get(key, "last")
        if "://" in path or path.startswith("registry"):
            raise ValueError(f"{key} {path} is no file; download it, and name the file")
        if path not in ("best", "last", "hpc"):
            check_checkpoint(path, f"{key}: checkpoint")


def check_videos(videos: Iterable[str]) -> None:
    """Raise ValueError for names without a video, and for files that cannot be opened."""
    from tttvideo.data.video.sources import find_videos

    for video in videos:
        first = find_videos([video]).videos[0]
        if Path(video).is_file():
            first.info()
