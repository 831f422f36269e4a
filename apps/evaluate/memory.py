"""`tttvideo evaluate memory`: what trained models remember of videos, by state swap."""

import argparse
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tttvideo.apps.commands.options import checkpoint_seeds
from tttvideo.apps.device import best_device
from tttvideo.apps.report import run_conditions, runs_before, wanted_runs, write_record
from tttvideo.apps.show.memory_page import memory_page
from tttvideo.apps.show.memory_swaps import draw_swaps
from tttvideo.data.tokens import file_hash
from tttvideo.files import write_text
from tttvideo.measures.remembered import SwapSettings, check_swappable, measure_memory
from tttvideo.measures.video_data import OpenedVideo, open_videos, stamps
from tttvideo.progress import progress
from tttvideo.video.frame_model import FrameModel
from tttvideo.weights.video_checkpoints import VideoCheckpoint, load_video_model


def evaluate_memory(options: argparse.Namespace) -> None:
    """Each checkpoint is recorded when it is measured, and not measured again."""
    out = Path(options.out)
    models = checkpoint_seeds(options.checkpoints)
    loaded = {path: load_video_model(path) for some in models.values() for path in some}
    check_swappable(loaded)
    size = next(iter(loaded.values())).frame_tokenizer.config.size
    videos = open_videos(options.data, size, options.frames, options.videos)
    settings = new_settings(options, videos)
    record = {**run_conditions(best_device()), "settings": about(options, videos, settings)}
    record["runs"] = runs_before(out / "memory.json", record["settings"])
    done = {(run["name"], run["sha256"]) for run in record["runs"]}
    given = [(name, path) for name, some in models.items() for path in some]
    wanted = {(name, file_hash(Path(path))): path for name, path in given}
    for (name, sha256), path in wanted.items():
        if (name, sha256) not in done:
            key = {"name": name, "sha256": sha256, "path": path}
            record["runs"].append(key | measure(path, loaded[path], videos, settings))
            write_record(out / "memory.json", record)
    record = wanted_runs(out / "memory.json", wanted, "name", "sha256")
    page = memory_page(record)
    write_text(out / "memory.md", page)
    draw_swaps(record, out / "memory.png")
    print(page)
    print(*sorted(out.glob("memory.*")), sep="\n")


def new_settings(options: argparse.Namespace, videos: list[OpenedVideo]) -> SwapSettings:
    """Raises ValueError for videos that are too short."""
    frames = options.frames or min(video.frames for video in videos)
    names = [field.name for field in fields(SwapSettings) if field.name != "frames"]
    return SwapSettings(frames, **{name: getattr(options, name) for name in names})


def about(
    options: argparse.Namespace, videos: list[OpenedVideo], settings: SwapSettings
) -> dict[str, Any]:
    """What runs of one record have in common."""
    names = [Path(video.source.name).name for video in videos]
    return {"data": options.data, "names": names, "stamps": stamps(videos), **asdict(settings)}


def measure(
    path: str, model: VideoCheckpoint, videos: list[OpenedVideo], settings: SwapSettings
) -> dict[str, Any]:
    device = best_device()
    network, codec = model.network.to(device).eval(), model.frame_tokenizer.to(device).eval()
    assert isinstance(network, FrameModel)  # by check_swappable
    with progress(path, len(videos), "videos") as advance:
        return measure_memory(network, codec, videos, settings, advance)
