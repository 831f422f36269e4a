"""How a model of video continues clips, with the controls that expose an empty continuation.

A batch of videos is read once: the context, then the true frames after it for their bits, while
sampled frames are compared with them. A copy of the last frame keeps every object, and an empty
background is closer to the truth than a wrong object, so that both stand beside the prediction, and
so does the frame tokenizer alone, which is the model's ceiling. Against decoded truth, which is the
truth after the tokenizer, its losses do not count.

What is found is a record: arrays by name, with the videos on their first axis.
    bits                      (B, F) of each frame given all frames before it; not of pixel models
    WHO/TRUTH/MEASURE         (B, n, H); n is 1 for controls
    area/WHO                  (B, n, H) coloured pixels
    pair/NAME/WHO             (B,) measures by networks, of the first sample and the controls
    features/NAME/WHO         (B, D), and of the truth
    shown/WHO                 (B, H, S, S, 3) uint8, of the first videos
WHO is prediction, copy (of the last frame), empty (background), tokenizer; TRUTH is raw or decoded.

B videos, F frames, n samples, H frames of the horizon, S pixels of height and width, D features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tttvideo.data.video.sources import RATE
from tttvideo.files import replacing
from tttvideo.progress import Advance, progress
from tttvideo.sampling.choose import Chooser
from tttvideo.states import tree_map
from tttvideo.video.conditions import Conditions

from .continuers import ContinuesClips
from .memory import coloured_area
from .perception import Perception
from .video import frame_errors
from .video_data import OpenedVideo, VideoBatch, batches, stamps


RULES = 1  # raised when the content of a record, or its meaning, changes: older ones are not read
SHOWN = 3  # videos whose frames are kept for pictures
Record = dict[str, np.ndarray]


@dataclass(frozen=True)
class ContinuationPlan:
    """What is read and predicted of each video."""

    context: int = 16
    """Frames that are read before the prediction."""
    horizon: int = 16
    """Frames that are predicted, H."""
    samples: int = 4
    """Continuations of each video, n."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    frames: int | None = None
    """Frames of each video, at most, whose bits are measured; None: all."""
    perceived: int = 32
    """Videos, at most, that are measured by networks too."""
    frechet_context: bool = False
    """Whether clips of Frechet distances begin with the true context."""
    batch: int = 16
    """Videos that are read side by side."""

    def chooser(self, first: int) -> Chooser:
        """Draws for a batch whose first video has this number: other videos, other numbers."""
        seed = self.seed + first * self.samples
        return Chooser(self.temperature, self.top_k, self.top_p, seed)

    def fit(self, videos: Sequence[OpenedVideo]) -> list[OpenedVideo]:
        """The videos that are long enough, no longer than is measured.

        Raises: ValueError where none is.
        """
        need = self.context + self.horizon
        found = [
            replace(video, frames=min(video.frames, self.frames or video.frames))
            for video in videos
            if video.frames >= need
        ]
        if not found:
            longest = max(video.frames for video in videos)
            raise ValueError(
                f"--context {self.context} and --horizon {self.horizon} need {need} frames, and "
                f"the longest video has {longest}; choose shorter ones"
            )
        return found


def identity(
    checkpoint: str,
    videos: Sequence[OpenedVideo],
    plan: ContinuationPlan,
    networks: dict[str, str | None],
) -> str:
    """Name of a cache: a hash of everything that a record depends on.

    checkpoint: the hash of its file. A video is known by its path, size and time of change.
    """
    facts = RULES, checkpoint, stamps(videos), asdict(plan), networks
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


Clips = dict[tuple[str, str], Tensor]
"""Images (B, H, S, S, 3) uint8 by what they are and by the truth that they are compared with."""


@dataclass(frozen=True)
class Measurement:
    """A model, and what to measure of it.

    empty: (S, S, 3) uint8, the background of drawn videos without their objects, or None.
    """

    model: ContinuesClips
    plan: ContinuationPlan
    perception: Perception
    empty: np.ndarray | None = None

    def records(
        self, videos: Sequence[OpenedVideo], cache: Path, advance: Advance
    ) -> Iterator[Record]:
        """The records of all batches; those that are in the folder `cache` are read from it."""
        first = 0
        for number, batch in enumerate(batches(videos, self.model.network, self.plan.batch)):
            path = cache / f"{number:05}.npz"
            if path.is_file():
                advance(len(batch) * (batch.frames + self.plan.horizon))
            else:
                record = self.measure(batch, first, advance)
                with replacing(path) as partial, open(partial, "wb") as file:
                    np.savez(file, **record)  # type: ignore[arg-type]  # of the name allow_pickle
            with np.load(path) as arrays:
                yield dict(arrays)
            first += len(batch)

    @torch.inference_mode()
    def measure(self, batch: VideoBatch, first: int, advance: Advance) -> Record:
        """Read one batch; `first` is the number of its first video."""
        plan, steps = self.plan, Steps(self.model, batch, advance)
        context = steps.read(plan.context, keep=plan.context if plan.frechet_context else 1)
        start, known = steps.state, batch.ahead(plan.horizon)
        truth = steps.read(plan.horizon, keep=plan.horizon)
        steps.read(batch.frames - batch.begin, keep=0)
        controls, truths = self.controls(context[:, -1:], truth)
        errors, sample = compare(self.samples(start, known, first, advance), controls, truths)
        found = {name: x.numpy() for name, x in errors.items()}
        if steps.bits:
            found["bits"] = torch.cat(steps.bits, dim=1).numpy()
        raw = {who: clips for (who, kind), clips in controls.items() if kind == "raw"}
        raw = {"truth": truth, "prediction": sample, **raw}
        if count := max(0, min(len(batch), plan.perceived - first)):
            before = context[:count] if plan.frechet_context else context[:count, :0]
            clips = {who: x[:count] for who, x in raw.items()}
            found |= self.perception.of(clips, before, batch.videos[0].fps or RATE)
        if shown := max(0, SHOWN - first):
            kept = {"last": context[:, -1:], **raw}
            found |= {f"shown/{name}": x[:shown].numpy() for name, x in kept.items()}
        return found

    def samples(
        self, start: Any, known: Conditions, first: int, advance: Advance
    ) -> Iterator[Tensor]:
        """The H frames (B, n, S, S, 3) after a state, one after the other."""
        n = self.plan.samples
        start, known = (
            tree_map(lambda x: x.repeat_interleave(n, 0), tree) for tree in (start, known)
        )
        chooser = self.plan.chooser(first)
        for frames in self.model.ahead(start, self.plan.horizon, known, chooser):
            yield frames.unflatten(0, (-1, n))
            advance(len(frames) // n)

    def controls(self, last: Tensor, truth: Tensor) -> tuple[Clips, dict[str, Tensor]]:
        """What takes the place of the prediction, and the truths that both are compared with.

        Against decoded truth they go through the tokenizer too.
        """
        still = {"copy": last}
        if self.empty is not None:
            still["empty"] = torch.from_numpy(self.empty).expand_as(last)
        found = {(who, "raw"): image.expand_as(truth) for who, image in still.items()}
        tokenised = self.model.through(truth)
        if tokenised is None:
            return found, {"raw": truth}
        for who, image in still.items():
            decoded = self.model.through(image)
            assert decoded is not None
            found[who, "decoded"] = decoded.expand_as(truth)
        found["tokenizer", "raw"] = tokenised
        return found, {"raw": truth, "decoded": tokenised}


def measure_checkpoint(
    measurement: Measurement,
    checkpoint: str,
    videos: Sequence[OpenedVideo],
    cache: Path,
    label: str,
) -> list[Record]:
    """The records of a model, of which those that are in the folder `cache` are not made again.

    checkpoint: the hash of its file. label: of the progress bar.
    """
    plan, networks = measurement.plan, measurement.perception.identity()
    folder = cache / identity(checkpoint, videos, plan, networks)
    total = sum(video.frames + plan.horizon for video in videos)
    with progress(label, total, "frames") as advance:
        return list(measurement.records(videos, folder, advance))


class Steps:
    """Reads a batch on, and collects bits (B, F) and the state."""

    def __init__(self, model: ContinuesClips, batch: VideoBatch, advance: Advance):
        self.model, self.batch, self.advance = model, batch, advance
        self.state: Any = None
        self.bits: list[Tensor] = []

    def read(self, count: int, keep: int) -> Tensor:
        """Read `count` frames; the last `keep` of them, (B, keep, S, S, 3)."""
        kept: list[Tensor] = []
        for piece in self.batch.pieces(count):
            bits, self.state = self.model.read(piece.images, piece.conditions, self.state)
            if bits is not None:
                self.bits.append(bits)
            kept.append(piece.images)
            while kept and sum(part.shape[1] for part in kept[1:]) >= keep:
                kept.pop(0)
            self.advance(len(self.batch) * piece.images.shape[1])
        return torch.cat(kept, dim=1)[:, -keep:] if kept else torch.empty(0)


def compare(
    made: Iterable[Tensor], controls: Clips, truths: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """Errors and coloured areas of frames as they are made, and the first sample (B, H, S, S, 3).

    made: H frames (B, n, S, S, 3). truths: (B, H, S, S, 3) by name.
    """
    found: dict[str, list[Tensor]] = {}
    firsts = []
    for h, frames in enumerate(made):
        firsts.append(frames[:, 0])
        for name, truth in truths.items():
            of_this = {who: x[:, h, None] for (who, kind), x in controls.items() if kind == name}
            for who, images in {"prediction": frames, **of_this}.items():
                true = truth[:, h, None].expand_as(images)
                errors = frame_errors(images.flatten(0, 1), true.flatten(0, 1))
                for measure, x in errors.items():
                    each = x.unflatten(0, images.shape[:2])
                    found.setdefault(f"{who}/{name}/{measure}", []).append(each)
                if name == "raw":
                    found.setdefault(f"area/{who}", []).append(coloured_area(images))
        area = coloured_area(truths["raw"][:, h, None])
        found.setdefault("area/truth", []).append(area)
    errors = {name: torch.stack(columns, dim=-1) for name, columns in found.items()}
    return errors, torch.stack(firsts, dim=1)
