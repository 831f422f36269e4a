"""A corpus of video: files in; shards of the tokens of every frame, and a manifest, out.

The files are those of data/corpus.py. A video is a document, in one part of the corpus. Altered
copies are written for training only. A video that cannot be read to its end is left out whole, and
listed in the manifest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from tttvideo.data.corpus import (
    Run,
    digest,
    group_sources,
    merged_records,
    open_folder,
    prepare_sources,
    publish,
    removed_after_an_error,
)
from tttvideo.data.inputs import DISK
from tttvideo.data.tokens import WORKING, Header, TokenWriter
from tttvideo.data.work_items import PARTS, Prepare, Shards, WorkerDied, prepare_in_processes
from tttvideo.files import read_json, write_json

from .camera import CameraPose
from .clips import Clip, Form, condition_forms, described, new_clips
from .conditions import seconds_between
from .probe import VideoError
from .reader import Frame
from .sources import Found
from .views import AT_ONCE, Copy, copies


VERSION = 1  # changes when the same inputs and options give another corpus
ITEM_BYTES = 1 << 20
PATIENCE = 300  # seconds without AT_ONCE more frames after which a process is taken to hang
SAME_RATE = 3  # decimals of frames per second in which the videos of a shard agree

Encode = Callable[[np.ndarray], np.ndarray]
"""Frames (N, S, S, 3) uint8 to tokens (N, P)."""
Count = Callable[[int, int], None]
"""Counts bytes and frames that were read."""


@dataclass(frozen=True)
class Codec:
    """What turns frames into tokens, and the facts about them.

    load: makes the function that encodes, in the process that is to use it; it can be pickled.
    """

    load: Callable[[], Encode]
    name: str
    vocab_size: int
    size: int
    """height and width of the frames in pixels"""
    grid: tuple[int, int]


@dataclass(frozen=True)
class Options:
    """Settings that fix the content of a corpus, together with its files and the codec."""

    validation: float = 0.0
    seed: int = 0
    shard_tokens: int = 1 << 26
    start: float = 0.0
    """seconds; the frames before are left out"""
    end: float | None = None
    """seconds; the frames from there on are left out"""
    augment: int = 0
    """altered copies of each video, of those to train on"""
    camera_shift: bool = False
    """write where the camera points, as poses"""
    seconds: bool = False
    """write the time from each frame to the next, as seconds"""


def prepare_video(
    inputs: Sequence[str], found: Found, out: Path, codec: Codec, options: Options, run: Run
) -> tuple[dict[str, Any], bool]:
    """Prepare a corpus, or resume it; returns its manifest, and whether it was finished before.

    inputs: files, folders or globs as a person named them; found: the videos in them.
    Of a part of a corpus the counts are returned alone, without a hash.
    Raises: ValueError for input that cannot serve, and for an `out` that holds something else.
    """
    clips = new_clips(found.videos)
    forms = condition_forms(clips, run.max_bad)
    check_conditions(forms, codec, options)
    settings = {
        "version": VERSION,
        "kind": "video",
        "inputs": list(inputs),
        "tokenizer": codec.name,
        "size": codec.size,
        **asdict(options),
        "conditions": ", ".join(described(own, name) for name, own in forms.items()) or "none",
    }
    plan = settings | {"files": [clip.facts() for clip in clips]}
    if manifest := open_folder(out, plan, run, "video", ("videos", "bad")):
        check_bad(manifest, run)
        return manifest, True
    print(found.sentence, flush=True)
    items = group_sources(clips, ITEM_BYTES)
    with removed_after_an_error(out, run):
        if run.merge is None:
            job = VideoJob(out / WORKING, codec, options, forms, run.name)
            records = prepare_sources(job, items, run, "frames")
        else:
            records = merged_records(out, plan, items, run.merge)
        totals = total_counts(records)
        if run.part:
            return totals, False
        check_parts(records, totals, options)
    check_bad(totals, run)
    facts = {"tokenizer": codec.name, "vocab_size": codec.vocab_size}
    about = {"plan": digest(plan), "options": settings, **totals}
    return publish(out, about, facts, records), False


def check_conditions(forms: Mapping[str, Form], codec: Codec, options: Options) -> None:
    """Raises ValueError for conditions of videos that the options, or the codec, do not fit."""
    moving = ", ".join(name for name in forms if name != "classes")
    if options.augment and moving:
        raise ValueError(
            f"the videos have {moving}, which altered copies would not fit; leave --augment out"
        )
    if options.camera_shift and "poses" in forms:
        raise ValueError("the videos have poses; leave --camera-shift out")
    if options.seconds and "seconds" in forms:
        raise ValueError("the videos have seconds; leave --seconds out")
    tokens = math.prod(codec.grid)
    if "ages" in forms and forms["ages"][1] != (tokens,):
        raise ValueError(
            f"the videos have ages of shape {forms['ages'][1]} a frame, and a frame has {tokens} "
            "tokens; make them anew for this frame tokenizer, or remove them"
        )


@dataclass(frozen=True)
class VideoJob:
    """The arguments common to all work items of a corpus."""

    folder: Path
    codec: Codec
    options: Options
    conditions: Mapping[str, Form]
    run: str
    """other parts, which may write to the same folder, have other names"""
    patience = PATIENCE

    def open(self) -> Prepare:
        return partial(prepare_clips, self, self.codec.load(), self.excluded())

    def excluded(self) -> dict[str, str]:
        """The names of videos that ended the process which read them, and what happened."""
        files = sorted(self.folder.glob("excluded.*.json"))  # of all parts
        return {k: v for file in files for k, v in read_json(file, f"delete {file}").items()}

    def exclude(self, suspects: Sequence[Clip]) -> bool:
        """Read each video alone in a process, and leave out those that end it."""
        found = {}
        for clip in suspects:
            alone = replace(self, folder=self.folder / f"alone.{self.run}")
            try:
                prepare_in_processes(alone, {0: [clip]}, 1, lambda *_: None)
            except WorkerDied:
                longest = self.patience + clip.size / DISK
                found[clip.name] = (
                    f"{clip.name} ends the process that reads it, or takes more than "
                    f"{longest:.0f} s for a few frames; leave it out or re-encode it"
                )
        write_json(self.folder / f"excluded.{self.run}.json", self.excluded() | found)
        return bool(found)

    def header(self, part: str) -> Header:
        options = self.options
        wanted = {"poses": options.camera_shift, "seconds": options.seconds}
        return Header(
            kind="video",
            tokenizer=self.codec.name,
            vocab_size=self.codec.vocab_size,
            grid=self.codec.grid,
            conditions=(*self.conditions, *(name for name, made in wanted.items() if made)),
            copies=part == "train" and options.augment > 0,
        )


def prepare_clips(
    job: VideoJob,
    encode: Encode,
    excluded: Mapping[str, str],
    number: int,
    clips: Iterable[Clip],
    advance: Count,
) -> dict[str, Any]:
    """Turn the videos of a work item into shards; returns its record."""
    shards = {part: VideoShards(job, f"{number:05}.{part}", part) for part in PARTS}
    videos, empty, bad = 0, 0, []
    with shards["train"], shards["validation"]:
        for clip in clips:
            videos += 1
            try:
                if reason := excluded.get(clip.name):
                    raise VideoError(reason)
                part = clip.part(job.options.validation, job.options.seed)
                empty += not write_clip(job, encode, clip, part, shards[part], advance)
            except ValueError as error:
                bad.append({"file": clip.name, "reason": str(error)})
        for written in shards.values():
            written.end_shard()
    records = {part: written.records for part, written in shards.items()}
    kinds = max(written.kinds for written in shards.values())
    counts = {"videos": videos, "empty": empty, "bad": bad, "action_kinds": kinds}
    return {"shards": records, **counts}


class VideoShards(Shards):
    """The shards of one part of a work item, with the rate that their videos have in common."""

    def __init__(self, job: VideoJob, name: str, part: str):
        most = job.options.shard_tokens
        super().__init__(job.folder, name, job.header(part), most, "frames")
        self.rates: list[float] = []  # of the open shard, each once
        self.kinds = 0  # of actions, in the work item

    def add(self, frames: int, fps: float, kinds: int) -> None:
        """Count a video that was written."""
        self.size += frames
        self.kinds = max(self.kinds, kinds)
        if all(round(fps, SAME_RATE) != round(rate, SAME_RATE) for rate in self.rates):
            self.rates = [*self.rates, fps][:2]

    def end_shard(self) -> None:
        if self.writer:
            fps = self.rates[0] if len(self.rates) == 1 else None
            header, kinds = self.writer.header, self.kinds or None
            self.writer.header = replace(header, fps=fps, action_kinds=kinds)
        super().end_shard()
        self.rates = []


def write_clip(
    job: VideoJob, encode: Encode, clip: Clip, part: str, shards: VideoShards, advance: Count
) -> bool:
    """Append a video and its copies to a part, or nothing; returns whether it had a frame.

    Raises: ValueError for a video that cannot be read to its end.
    """
    options, writer, meter = job.options, shards.next_writer(), Meter(clip.size, advance)
    documents, tokens = len(writer.starts), writer.count
    seen = copies(clip.place, options.augment, options.seed) if part == "train" else [Copy()]
    try:
        for copy in seen:
            written = write_copy(job, encode, clip, copy, writer, meter, 1 / len(seen))
    except ValueError:
        writer.cut_back(documents)
        raise
    finally:
        meter.finish()
    if writer.count == tokens:
        writer.cut_back(documents)
        return False
    shards.add((writer.count - tokens) // writer.header.frame, *written)
    return True


def write_copy(
    job: VideoJob,
    encode: Encode,
    clip: Clip,
    copy: Copy,
    writer: TokenWriter,
    meter: Meter,
    share: float,
) -> tuple[float, int]:
    """Append a video, or a copy of it, as a document; returns its rate and kinds of actions.

    share: of the work on the video.
    """
    options, size = job.options, job.codec.size
    reader = clip.open(copy.source_size(size))
    times = reader.index.times
    end = math.inf if options.end is None else options.end
    first, last = np.searchsorted(times, (options.start, end))
    rows = clip.conditions(len(times), job.conditions)
    rows = {name: array[first : last : copy.stride] for name, array in rows.items()}
    if options.seconds:
        rows["seconds"] = seconds_between(times[first : last : copy.stride])
    pose, at = CameraPose() if options.camera_shift else None, 0
    writer.start_document()
    for images in copy.images(between(reader, options.start, end, meter), size):
        known = {name: array[at : at + len(images)] for name, array in rows.items()}
        at += len(images)
        check_rows(clip, known, len(images))
        writer.write(encode(images), **known, **poses(pose, images, job.codec))
        meter.add(len(images), share * copy.stride / len(times))
    check_rows(clip, rows, at)
    return reader.info.fps, action_kinds(rows)


def check_rows(clip: Clip, rows: Mapping[str, np.ndarray], frames: int) -> None:
    """Raises VideoError where a video shows other frames than its file counts."""
    for name, array in rows.items():
        if len(array) != frames:
            raise VideoError(
                f"{clip.name} does not show the frames that its file counts, so that nobody knows "
                f"which {name} are whose; re-encode it"
            )


def action_kinds(rows: Mapping[str, np.ndarray]) -> int:
    """One more than the greatest of actions that are integers; 0 without."""
    actions = rows.get("actions")
    whole = actions is not None and actions.ndim == 1 and len(actions)
    return int(actions.max()) + 1 if actions is not None and whole else 0


class Meter:
    """Counts the frames of a video that were read, and the bytes that they are about."""

    def __init__(self, size: int, advance: Count):
        self.size, self.left, self.advance = size, size, advance

    def add(self, frames: int, share: float) -> None:
        """share: of the video in a frame."""
        done = min(self.left, int(frames * share * self.size))
        self.left -= done
        self.advance(done, frames)

    def finish(self) -> None:
        self.advance(self.left, 0)


def between(frames: Iterable[Frame], start: float, end: float, meter: Meter) -> Iterator[Frame]:
    """The frames from `start` to `end` seconds."""
    for number, frame in enumerate(takewhile(lambda frame: frame.time < end, frames)):
        if frame.time >= start:
            yield frame
        elif number % AT_ONCE == 0:
            meter.add(0, 0.0)  # the process gets on


def poses(pose: CameraPose | None, images: np.ndarray, codec: Codec) -> dict[str, np.ndarray]:
    """The poses (N, 2) of images, in patches, if they are wanted."""
    if pose is None:
        return {}
    patch = codec.size / codec.grid[0]
    return {"poses": (np.stack([pose(image) for image in images]) / patch).astype("<f4")}


def total_counts(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all work items, and their bad videos."""
    totals: dict[str, Any] = {name: sum(r[name] for r in records) for name in ("videos", "empty")}
    totals["bad"] = [clip for record in records for clip in record["bad"]]
    kinds = max((record["action_kinds"] for record in records), default=0)
    return totals | ({"action_kinds": kinds} if kinds else {})


def check_parts(
    records: Sequence[Mapping[str, Any]], totals: Mapping[str, Any], options: Options
) -> None:
    """Raises ValueError for a part without a video, unless a bad one is the cause."""
    if totals["empty"] == totals["videos"]:
        end = "inf" if options.end is None else options.end
        raise ValueError(f"{options.start} to {end} s hold no frame; change --start or --end")
    for part in PARTS if options.validation else PARTS[:1]:
        if not totals["bad"] and not any(record["shards"][part] for record in records):
            raise ValueError(
                f"no video is left for {part}; give more videos, another --validation or --seed"
            )


def check_bad(totals: Mapping[str, Any], run: Run) -> None:
    first = [clip["reason"] for clip in totals["bad"]]
    run.check_bad(len(first), totals["videos"], "videos cannot be read", first)
