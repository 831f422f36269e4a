"""`tttvideo evaluate video`: bits and continuations of videos, with controls."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tttvideo.apps.commands.options import checkpoint_seeds
from tttvideo.apps.device import best_device
from tttvideo.apps.report import run_conditions, write_record
from tttvideo.apps.show.video_report import draw_sheet, draw_video, video_page
from tttvideo.data.tokens import file_hash
from tttvideo.data.video.drawn import empty_background
from tttvideo.files import read_json, write_json, write_text
from tttvideo.measures.continuation_summary import summary
from tttvideo.measures.continuations import (
    ContinuationPlan,
    Measurement,
    Record,
    measure_checkpoint,
)
from tttvideo.measures.continuers import load_continuer
from tttvideo.measures.perception import Perception
from tttvideo.measures.video_data import OpenedVideo, conditions_of, open_videos


@dataclass(frozen=True)
class Subject:
    """A checkpoint that will be measured; those of one name are seeds of one model."""

    name: str
    path: str
    size: int
    sha256: str
    about: dict[str, Any]


def evaluate_video(options: argparse.Namespace) -> None:
    """Every checkpoint is loaded and every video opened before anything is measured."""
    out, plan = Path(options.out), plan_of(options)
    off = "" if options.perceived else "--perceived is 0"
    perception = Perception(options.lpips_weights, options.i3d, off)
    subjects = read_subjects(checkpoint_seeds(options.checkpoints))
    opened = open_videos(options.data, subjects[0].size, most=options.videos)
    videos = plan.fit(opened)
    for subject in subjects:
        conditions_of(videos, load_continuer(subject.path).network)
    claim(out, {"data": options.data, "videos": options.videos, **asdict(plan)})
    measured = [measure(one, videos, plan, perception, out, options.data) for one in subjects]
    record = {
        **run_conditions(best_device()),
        "data": {
            "path": options.data,
            "videos": len(videos),
            "too_short": len(opened) - len(videos),
            "frames": sum(video.frames for video in videos),
            "size": subjects[0].size,
        },
        "protocol": options.protocol,
        "plan": asdict(plan),
        "not_computed": perception.missing,
        "models": grouped(subjects, [numbers for _, numbers in measured]),
    }
    record = write_record(out / "video.json", record)
    page = video_page(record)
    write_text(out / "video.md", page)
    draw_video(record, out / "video.png")
    first: dict[str, Record] = {}
    for subject, (records, _) in zip(subjects, measured, strict=True):
        first.setdefault(subject.name, records[0])
    draw_sheet(out / "sheet.png", first, videos[0].fps)
    print(page)
    print(*(out / name for name in ("video.json", "video.md", "video.png", "sheet.png")), sep="\n")


def plan_of(options: argparse.Namespace) -> ContinuationPlan:
    return ContinuationPlan(**{f.name: getattr(options, f.name) for f in fields(ContinuationPlan)})


def read_subjects(models: dict[str, list[str]]) -> list[Subject]:
    """Load every checkpoint once. Raises ValueError for models of different frame sizes."""
    found: list[Subject] = []
    for name, paths in models.items():
        for path in paths:
            model = load_continuer(path)
            parameters = sum(x.numel() for x in model.network.parameters())
            about = {"parameters": parameters, "trained": model.trained, "tokens": model.tokens}
            found.append(Subject(name, path, model.size, file_hash(Path(path)), about))
            if model.size != found[0].size:
                raise ValueError(
                    f"{path} makes frames of {model.size} pixels, and {found[0].path} of "
                    f"{found[0].size}; measure them apart"
                )
    return found


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings into the folder; ValueError if it has measurements of others."""
    path = out / "cache" / "settings.json"
    if path.is_file() and (before := read_json(path, f"delete {out}")) != settings:
        name = next(name for name in settings if before.get(name) != settings[name])
        raise ValueError(f"{out} holds measurements with another {name}; choose another --out")
    write_json(path, settings)


def measure(
    subject: Subject,
    videos: Sequence[OpenedVideo],
    plan: ContinuationPlan,
    perception: Perception,
    out: Path,
    data: str,
) -> tuple[list[Record], dict[str, Any]]:
    """The records of a checkpoint, and their summary."""
    model = load_continuer(subject.path, best_device())
    empty = empty_background(Path(data), model.size)
    measurement = Measurement(model, plan, perception, empty)
    label = f"{subject.name}: {subject.path}"
    records = measure_checkpoint(measurement, subject.sha256, videos, out / "cache", label)
    about = {"path": subject.path, "sha256": subject.sha256, **subject.about}
    return records, {**about, **summary(records, plan)}


def grouped(
    subjects: Sequence[Subject], numbers: Sequence[dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """The numbers of the seeds of each model."""
    found: dict[str, list[dict[str, Any]]] = {}
    for subject, one in zip(subjects, numbers, strict=True):
        found.setdefault(subject.name, []).append(one)
    return found
