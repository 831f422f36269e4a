"""`tttvideo demo`: train a small model on one video, and predict the end it has not seen."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tttvideo.apps.commands import invoke, parse
from tttvideo.data.video.drawn import bouncing_glyphs
from tttvideo.data.video.reader import VideoReader
from tttvideo.data.video.writer import write_video
from tttvideo.files import read_json, write_json

from .predict import predict


FRAMES, FPS, GLYPHS = 8000, 30, 2  # of the drawn video
HELD_OUT = 64  # frames at the end that are not trained on, or a fifth of a shorter video
SECONDS = (0.08, 0.1)  # of a training step of the two models, about, on two CPU cores


def run(options: argparse.Namespace) -> None:
    name = f"demo_{Path(options.video).stem}" if options.video else "demo"
    out = Path(options.out or f"out/{name}")
    if options.fresh:
        (out / "stages.json").unlink(missing_ok=True)
    stages = Stages(out / "stages.json")
    video = Path(options.video) if options.video else out / "video.mp4"
    first, second = (n * s for n, s in zip(options.steps, SECONDS, strict=True))
    print(
        f"Two small models are trained on one video and then predict its end. The stages take "
        f"about {duration(first + second + 60)} on two CPU cores.\n"
        "Ctrl-C stops; the same command resumes.",
        flush=True,
    )
    if options.video:
        print(f"\n1 of 5: use the video {video}", flush=True)
    else:
        about = f"1 of 5: draw a video of {GLYPHS} bouncing shapes, {FRAMES:,} frames"
        stages.do("draw", [FRAMES, FPS, GLYPHS], f"{about} (10 s)", lambda: draw(video))
    demo = Demo(video, out, *options.steps)
    stages.do(
        "train the frame tokenizer",
        [demo.file, demo.frame_steps],
        "2 of 5: train the frame tokenizer, a model that turns a frame into 64 numbers, its "
        f"tokens, and back ({duration(first)})\n"
        "        loss falls while it learns; dB rises: a decoded frame gets closer to the true one",
        demo.train_tokenizer,
    )
    stages.do(
        "turn frames into tokens",
        [demo.file, demo.end],
        f"3 of 5: turn all frames into tokens, except the last {demo.held_out} (20 s)",
        demo.tokenise,
    )
    stages.do(
        "train the video model",
        [demo.file, demo.token_steps],
        f"4 of 5: train the video model, which predicts token after token ({duration(second)})\n"
        "        bits fall while it learns: how uncertain the model is about the next token",
        demo.train_model,
    )
    print(
        f"\n5 of 5: read the video up to the last {demo.held_out} frames, which neither model has "
        "seen, and predict these (30 s)",
        flush=True,
    )
    demo.predict()


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


class Stages:
    """Finished stages and their settings, in a file, so that they are not repeated."""

    def __init__(self, path: Path):
        self.path = path
        self.done: dict[str, Any] = read_json(path, "delete it") if path.is_file() else {}

    def do(self, name: str, settings: Any, title: str, work: Callable[[], None]) -> None:
        """Do a stage unless it is finished with these settings; all stages after it are repeated.

        title: for the user: the work, and its time on two CPU cores.
        """
        finished = self.done.get(name) == settings
        print(f"\n{title.splitlines()[0]}: already done" if finished else f"\n{title}", flush=True)
        if finished:
            return
        names = list(self.done)
        kept = names[: names.index(name)] if name in names else names
        self.save({kept_name: self.done[kept_name] for kept_name in kept})
        work()
        self.save(self.done | {name: settings})

    def save(self, done: dict[str, Any]) -> None:
        self.done = done
        write_json(self.path, self.done, indent=None)


def draw(path: Path) -> None:
    write_video(path, bouncing_glyphs(FRAMES, glyphs=GLYPHS), FPS, lossless=True)
    print(f"{path}: {FRAMES:,} frames")


class Demo:
    """The stages that follow the video.

    end: seconds where the held-out frames begin.
    file: the path, size and time of change of the video, by which stages know it again.
    """

    def __init__(self, video: Path, out: Path, frame_steps: int, token_steps: int):
        self.video, self.out = video, out
        self.frame_steps, self.token_steps = frame_steps, token_steps
        self.tokenizer, self.model = out / "frame_tokenizer", out / "model"
        self.tokens = out / "tokens.bin"
        reader = VideoReader(video, 64)
        times, self.fps = reader.index.times, reader.info.fps or 30.0
        self.held_out = min(HELD_OUT, len(times) // 5)
        self.end = float(times[-self.held_out - 1] + times[-self.held_out]) / 2
        self.file = [str(video.resolve()), video.stat().st_size, video.stat().st_mtime_ns]

    def train_tokenizer(self) -> None:
        data = ["--data.videos", json.dumps([str(self.video)]), "--data.end", str(self.end)]
        self.fit("frame_tokenizer_tiny", self.tokenizer, self.frame_steps, data)

    def tokenise(self) -> None:
        options = ["--frame-tokenizer", str(self.tokenizer / "last.ckpt"), "--end", str(self.end)]
        invoke("prepare video", [str(self.video), *options, "--out", str(self.tokens)])

    def train_model(self) -> None:
        data = ["--model.frame_tokenizer", str(self.tokenizer / "last.ckpt")]
        data += ["--data.train", str(self.tokens)]
        self.fit("video_tiny", self.model, self.token_steps, data)

    def fit(self, config: str, out: Path, steps: int, data: list[str]) -> None:
        shutil.rmtree(out, ignore_errors=True)
        trainer = ["--trainer.max_steps", str(steps), "--trainer.devices", "1"]
        trainer += ["--trainer.val_check_interval", str(steps)]
        invoke("fit", ["--config", config, "--out", str(out), *data, *trainer])

    def predict(self) -> None:
        """Predict the held-out end, and explain the result to somebody new to the field."""
        paths = [str(self.model / "last.ckpt"), str(self.video), "--out", str(self.out)]
        times = ["--context", str(self.end), "--horizon", str(self.held_out / self.fps)]
        psnr = predict(parse("predict", [*paths, *times])).metrics["psnr"]
        count = min(16, len(psnr["prediction"]))
        means = {name: sum(values[:count]) / count for name, values in psnr.items()}
        print(
            f"\nDone. The model predicted the last {self.held_out / self.fps:.1f} seconds of the "
            "video.\n"
            f"How close are the first {count} frames to the true ones? (PSNR in dB: 15 is a rough "
            "guess, 30 looks nearly the same.)\n"
            f"  {means['prediction']:5.1f}  the model's prediction\n"
            f"  {means['copy_last']:5.1f}  no model: the last frame that was read, repeated\n"
            f"  {means['tokenizer']:5.1f}  the true frames after the frame tokenizer: the best "
            "that the model could reach\n"
            "Where to look:\n"
            f"  {self.out}/compare.mp4   the last frame that was read, the truth and the "
            "prediction, side by side\n"
            f"  {self.out}/sheet.png     the same as a picture, with curves\n"
            f"  {self.out}/metrics.json  all numbers\n"
            "Next: `./run demo --video FILE` with a video of your own."
        )
