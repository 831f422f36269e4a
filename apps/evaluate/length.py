"""`tttvideo evaluate length`: bits per frame against the length of the stream before it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tttvideo.apps.commands.options import checkpoint_seeds
from tttvideo.apps.device import best_device
from tttvideo.apps.report import run_conditions, write_record
from tttvideo.apps.show.length_report import draw_lengths, length_page
from tttvideo.data.tokens import file_hash
from tttvideo.files import read_json, write_text
from tttvideo.measures.length import Subject, Targets, measure_length
from tttvideo.measures.names import video_name
from tttvideo.measures.video_data import OpenedVideo, open_videos, stamps
from tttvideo.progress import progress
from tttvideo.weights.video_checkpoints import load_video_model


def evaluate_length(options: argparse.Namespace) -> None:
    """Each batch of videos is recorded when it is measured, and not measured again."""
    out, models = Path(options.out), checkpoint_seeds(options.checkpoints)
    device = best_device()
    paths = [path for paths in models.values() for path in paths]
    subjects = {path: load_subject(path, device) for path in paths}
    videos = open_all(subjects, options)
    lengths = [video.frames for video in videos]
    targets = Targets.of(lengths, options.targets, options.contexts)
    settings = {
        "models": models,
        "names": {path: video_name(one.network.config) for path, one in subjects.items()},
        "checkpoints": {path: file_hash(Path(path)) for path in paths},
        "videos": [video.source.name for video in videos],
        "stamps": stamps(videos),
        "lengths": lengths,
        "targets": targets.count,
        "contexts": list(targets.contexts),
        "left_out": sorted({*options.contexts} - {*targets.contexts}),
        "batch": options.batch,
    }
    fresh = {**run_conditions(device), "settings": settings, "batches": []}
    record = record_before(out / "length.json", settings) or fresh
    size = videos_at_once(len(videos), options.batch)
    batches = [videos[n : n + size] for n in range(0, len(videos), size)]
    measure_batches(record, batches, subjects, targets, out / "length.json")
    page = length_page(record)
    write_text(out / "length.md", page)
    draw_lengths(record, out / "length.png")
    print(page)
    print(*sorted(out.glob("length.*")), sep="\n")


def videos_at_once(count: int, most: int) -> int:
    """Videos of a batch, so that the last is not alone: its memory had no other to swap with.

    At most `most` where that can be; of an odd number of videos in twos, a little more.
    """
    sizes = [*range(min(count, most), 1, -1), *range(most + 1, count + 1)] if most > 1 else []
    return next((n for n in sizes if count % n != 1), 1)


def load_subject(path: str, device: str) -> Subject:
    model = load_video_model(path)
    return Subject(model.network.to(device), model.frame_tokenizer.to(device), model.tokenizer)


def open_all(subjects: dict[str, Subject], options: argparse.Namespace) -> list[OpenedVideo]:
    """The videos; ValueError for models of frames of different sizes."""
    sizes = {path: one.codec.config.size for path, one in subjects.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{path} {size}" for path, size in sizes.items())
        raise ValueError(f"models of frames of different sizes are not compared: {shown} pixels")
    return open_videos(options.data, next(iter(sizes.values())), most=options.videos)


def measure_batches(
    record: dict[str, Any],
    batches: Sequence[Sequence[OpenedVideo]],
    subjects: dict[str, Subject],
    targets: Targets,
    path: Path,
) -> None:
    """Measure the batches that the record does not hold yet, and write it after each."""
    missing = batches[len(record["batches"]) :]
    frames = targets.frames * sum(map(len, missing))
    with progress("reading", frames, "frames") as advance:
        for batch in missing:
            found = measure_length(subjects, batch, targets, advance)
            record["batches"].append(found)
            write_record(path, record)


def record_before(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """An earlier record; ValueError if its settings were others."""
    if not path.is_file():
        return None
    before = read_json(path, f"delete {path}")
    if before["settings"] != settings:
        raise ValueError(f"{path} was measured with other settings; choose another --out")
    return before
