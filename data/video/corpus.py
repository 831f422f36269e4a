"""A corpus of video: files in; shards of the tokens of every frame, and a manifest, out.

The files are those of data/corpus.py. A video is a document, and is in one part of the corpus with
all its altered copies left out of validation. A video that cannot be read to its end is left out
whole, and listed in the manifest.
"""

import hashlib
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
    check_split,
    digest,
    group_sources,
    merged_records,
    open_folder,
    part_of,
    prepare_sources,
    publish,
    removed_after_an_error,
)
from tttvideo.data.inputs import VIDEO_SUFFIXES, find_files
from tttvideo.data.tokens import WORKING, Header
from tttvideo.data.work_items import PARTS, Prepare, Shards, WorkerDied, prepare_in_processes
from tttvideo.files import read_json, write_json

from .camera import CameraPose
from .probe import VideoError
from .reader import Frame, VideoReader
from .views import AT_ONCE, Copy, copies
from .writer import check_rate


VERSION = 1  # changes when the same inputs and options give another corpus
ITEM_BYTES = 1 << 20
PATIENCE = 300  # seconds without AT_ONCE more frames after which a process is taken to hang
EXCLUDED = "excluded.json"
ENDS = 1 << 16  # bytes at both ends of a file by which it is assigned to a part
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


@dataclass(frozen=True)
class Clip:
    """A video to read."""

    path: Path
    size: int  # bytes
    changed: int  # time of the last change in nanoseconds: a changed file may keep its size
    place: int  # among all videos

    @property
    def name(self) -> str:
        return str(self.path)

    def open(self, size: int) -> VideoReader:
        """Its frames. Raises VideoError for a file that cannot serve."""
        reader = VideoReader(self.path, size)
        check_rate(self.path, reader.info.fps)
        return reader

    def part(self, options: Options) -> str:
        """Its part of the corpus, chosen by the content of the file and the seed alone."""
        if not options.validation:
            return "train"
        try:
            with open(self.path, "rb") as file:
                head = file.read(ENDS)
                file.seek(max(ENDS, self.size - ENDS))
                key = hashlib.sha256(f"{self.size} ".encode() + head + file.read(ENDS)).digest()
        except OSError as error:
            raise VideoError(f"{self.path} cannot be read ({error.strerror})") from error
        return part_of(key, options.validation, options.seed)


def prepare_video(
    inputs: Sequence[str], out: Path, codec: Codec, options: Options, run: Run
) -> tuple[dict[str, Any], bool]:
    """Prepare a corpus, or resume it; returns its manifest, and whether it was finished before.

    inputs: files, folders or globs.
    Of a part of a corpus the counts are returned alone, without a hash.
    Raises: ValueError for input that cannot serve, and for an `out` that holds something else.
    """
    check_split(options.validation, options.shard_tokens)
    run.check()
    clips = find_clips(inputs)
    described = {
        "version": VERSION,
        "kind": "video",
        "inputs": list(inputs),
        "tokenizer": codec.name,
        "size": codec.size,
        **asdict(options),
    }
    plan = described | {"files": [[str(c.path), c.size, c.changed] for c in clips]}
    if manifest := open_folder(out, plan, run, "video", ("videos", "bad")):
        check_bad(manifest, run)
        return manifest, True
    items = group_sources(clips, ITEM_BYTES)
    with removed_after_an_error(out, run):
        if run.merge is None:
            job = VideoJob(out / WORKING, codec, options)
            records = prepare_sources(job, items, run, "frames")
        else:
            records = merged_records(out, plan, items, run.merge)
        totals = total_counts(records)
        if run.part:
            return totals, False
        check_parts(records, totals, options)
    check_bad(totals, run)
    facts = {"tokenizer": codec.name, "vocab_size": codec.vocab_size}
    about = {"plan": digest(plan), "options": described, **totals}
    return publish(out, about, facts, records), False


def find_clips(inputs: Sequence[str]) -> list[Clip]:
    """The videos of all inputs, each once."""
    clips = []
    for place, path in enumerate(find_files(inputs, VIDEO_SUFFIXES)):
        facts = path.stat()
        clips.append(Clip(path, facts.st_size, facts.st_mtime_ns, place))
    return clips


@dataclass(frozen=True)
class VideoJob:
    """The arguments common to all work items of a corpus."""

    folder: Path
    codec: Codec
    options: Options

    patience = PATIENCE

    def open(self) -> Prepare:
        return partial(prepare_clips, self, self.codec.load(), self.excluded())

    def excluded(self) -> dict[str, str]:
        """The names of videos that ended the process which read them, and what happened."""
        path = self.folder / EXCLUDED
        return read_json(path, f"delete {path}") if path.exists() else {}

    def exclude(self, suspects: Sequence[Clip]) -> bool:
        """Read each video alone in a process, and leave out those that end it."""
        found = {}
        for clip in suspects:
            alone = replace(self, folder=self.folder / "alone")
            try:
                prepare_in_processes(alone, {0: [clip]}, 1, lambda *_: None)
            except WorkerDied:
                found[clip.name] = (
                    f"{clip.name} ends the process that reads it, or takes more than "
                    f"{PATIENCE} s for a few frames; leave it out or re-encode it"
                )
        write_json(self.folder / EXCLUDED, self.excluded() | found)
        return bool(found)

    def header(self, part: str) -> Header:
        return Header(
            kind="video",
            tokenizer=self.codec.name,
            vocab_size=self.codec.vocab_size,
            grid=self.codec.grid,
            conditions=("poses",) if self.options.camera_shift else (),
            copies=part == "train" and self.options.augment > 0,
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
                part = clip.part(job.options)
                empty += not write_clip(job, encode, clip, part, shards[part], advance)
            except ValueError as error:
                bad.append({"file": clip.name, "reason": str(error)})
        for written in shards.values():
            written.end_shard()
    records = {part: written.records for part, written in shards.items()}
    return {"shards": records, "videos": videos, "empty": empty, "bad": bad}


class VideoShards(Shards):
    """The shards of one part of a work item, with the rate that their videos have in common."""

    def __init__(self, job: VideoJob, name: str, part: str):
        most = job.options.shard_tokens
        super().__init__(job.folder, name, job.header(part), most, "frames")
        self.rates: list[float] = []  # of the open shard, each once

    def add(self, frames: int, fps: float) -> None:
        """Count a video that was written."""
        self.size += frames
        if all(round(fps, SAME_RATE) != round(rate, SAME_RATE) for rate in self.rates):
            self.rates = [*self.rates, fps][:2]

    def end_shard(self) -> None:
        if self.writer:
            fps = self.rates[0] if len(self.rates) == 1 else None
            self.writer.header = replace(self.writer.header, fps=fps)
        super().end_shard()
        self.rates = []


def write_clip(
    job: VideoJob,
    encode: Encode,
    clip: Clip,
    part: str,
    shards: VideoShards,
    advance: Count,
) -> bool:
    """Append a video and its copies to a part, or nothing; returns whether it had a frame.

    Raises: ValueError for a video that cannot be read to its end.
    """
    options, writer, meter = job.options, shards.next_writer(), Meter(clip.size, advance)
    documents, frames = len(writer.starts), writer.count
    seen = copies(clip.place, options.augment, options.seed) if part == "train" else [Copy()]
    try:
        for copy in seen:
            reader = clip.open(copy.source_size(job.codec.size))
            writer.start_document()
            pose = CameraPose() if options.camera_shift else None
            share = copy.stride / max(1, len(reader.index.times)) / len(seen)
            for images in copy.images(between(reader, options, advance), job.codec.size):
                writer.write(encode(images), **poses(pose, images, job.codec))
                meter.add(len(images), share)
    except ValueError:
        writer.cut_back(documents)
        raise
    finally:
        meter.finish()
    frames = (writer.count - frames) // writer.header.frame
    if frames:
        shards.add(frames, reader.info.fps)
    else:
        writer.cut_back(documents)
    return frames > 0


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


def between(frames: Iterable[Frame], options: Options, advance: Count) -> Iterator[Frame]:
    """The frames from `start` to `end`."""
    end = math.inf if options.end is None else options.end
    for number, frame in enumerate(takewhile(lambda frame: frame.time < end, frames)):
        if frame.time >= options.start:
            yield frame
        elif number % AT_ONCE == 0:
            advance(0, 0)  # the process gets on


def poses(pose: CameraPose | None, images: np.ndarray, codec: Codec) -> dict[str, np.ndarray]:
    """The poses (N, 2) of images, in patches, if they are wanted."""
    patch = codec.size / codec.grid[0]
    return {"poses": np.stack([pose(image) for image in images]) / patch} if pose else {}


def total_counts(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all work items, and their bad videos."""
    totals: dict[str, Any] = {name: sum(r[name] for r in records) for name in ("videos", "empty")}
    return totals | {"bad": [clip for record in records for clip in record["bad"]]}


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
