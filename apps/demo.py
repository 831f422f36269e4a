"""`tttvideo demo`: a video is learned from nothing, and its held-out end predicted."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tttvideo.apps.commands import invoke
from tttvideo.data.video.drawn import bouncing_glyphs
from tttvideo.data.video.reader import VideoReader
from tttvideo.data.video.writer import write_video
from tttvideo.files import read_json, write_json


FRAMES, FPS, GLYPHS = 8000, 30, 2  # of the drawn video
FEWEST = 24  # two windows of video_tiny, to learn from and to measure on, and the end
HELD_OUT = 64  # frames at the end that nothing learns from, or a fifth of a shorter video


def run(options: argparse.Namespace) -> None:
    name = f"demo_{Path(options.video).stem}" if options.video else "demo"
    out = Path(options.out or f"out/{name}")
    if options.fresh:
        (out / "stages.json").unlink(missing_ok=True)
    stages = Stages(out / "stages.json")
    video = Path(options.video) if options.video else out / "video.mp4"
    if not options.video:
        stages.do("draw", [FRAMES, FPS, GLYPHS], lambda: draw(video))
    learn_and_predict(video, out, stages, *options.steps)


class Stages:
    """Stages that are finished, with what they were told, so that they are not done again."""

    def __init__(self, path: Path):
        self.path = path
        self.done: dict[str, Any] = read_json(path, "delete it") if path.is_file() else {}
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def do(self, name: str, told: Any, run: Callable[[], None]) -> None:
        """Run a stage unless it was done as told; what follows it is then done again."""
        if self.done.get(name) == told:
            print(f"[{name}] done before")
            return
        print(f"[{name}]", flush=True)
        names = list(self.done)
        kept = names[: names.index(name)] if name in names else names
        self.save({kept_name: self.done[kept_name] for kept_name in kept})
        run()
        self.save(self.done | {name: told})

    def save(self, done: dict[str, Any]) -> None:
        self.done = done
        write_json(self.path, self.done, indent=None)


def draw(path: Path) -> None:
    write_video(path, bouncing_glyphs(FRAMES, glyphs=GLYPHS), FPS, lossless=True)
    print(f"{path}: {FRAMES:,} frames")


def learn_and_predict(
    video: Path, out: Path, stages: Stages, frame_steps: int, token_steps: int
) -> None:

    reader = VideoReader(video, 64)
    times, fps = reader.index.times, reader.info.fps or 30.0
    held = min(HELD_OUT, len(times) // 5)
    if len(times) < FEWEST:
        raise ValueError(f"{video} has {len(times)} frames; the demo needs at least {FEWEST}")
    end = float(times[-held - 1] + times[-held]) / 2
    file = [str(video.resolve()), video.stat().st_size, video.stat().st_mtime_ns]
    tokenizer, model, tokens = out / "frame_tokenizer", out / "model", out / "tokens.bin"

    def train_tokenizer() -> None:
        shutil.rmtree(tokenizer, ignore_errors=True)
        invoke(
            "fit",
            ["--config", "frame_tokenizer_tiny", "--out", str(tokenizer)]
            + ["--data.videos", json.dumps([str(video)]), "--data.end", str(end)]
            + ["--trainer.max_steps", str(frame_steps), "--trainer.devices", "1"]
            + ["--trainer.val_check_interval", str(frame_steps)],
        )

    def tokenise() -> None:
        checkpoint = str(tokenizer / "last.ckpt")
        options = ["--frame-tokenizer", checkpoint, "--end", str(end), "--out", str(tokens)]
        invoke("prepare video", [str(video), *options])

    def train_model() -> None:
        shutil.rmtree(model, ignore_errors=True)
        invoke(
            "fit",
            ["--config", "video_tiny", "--out", str(model)]
            + ["--model.frame_tokenizer", str(tokenizer / "last.ckpt")]
            + ["--data.train", str(tokens), "--trainer.devices", "1"]
            + ["--trainer.max_steps", str(token_steps)]
            + ["--trainer.val_check_interval", str(token_steps)],
        )

    stages.do("train the frame tokenizer", [file, frame_steps], train_tokenizer)
    stages.do("turn frames into tokens", [file, end], tokenise)
    stages.do("train the video model", [file, token_steps], train_model)
    print(f"[predict the held-out end] {held} frames that nothing above has seen")
    invoke(
        "predict",
        [str(model / "last.ckpt"), str(video)]
        + ["--context", str(end), "--horizon", str(held / fps), "--out", str(out)],
    )
