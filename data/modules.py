"""LightningDataModules: windows of token files, and frames of videos."""

import math
from collections.abc import Sequence
from itertools import chain, takewhile

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tttvideo.data.text.documents import find_files
from tttvideo.data.text.tokenizer import tokenizer_of
from tttvideo.data.video.reader import VideoReader
from tttvideo.progress import progress

from .order import ResumableLoader, Windows, collate
from .tokens import Header, open_tokens


VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".ts", ".webm")


class TokenData(LightningDataModule):
    """Windows of tokens, in an order that depends on the seed and the epoch alone.

    Windows cross from one document, or video, into the next, as in the paper.

    Arguments:
        train: tokens to learn from: a file, or a folder of shards.
        validation: tokens to measure on; null holds out the end of `train`.
        holdout: share of `train` that is held out when there is no validation file, and at least a
            window.
        window: tokens per window, T; for video a multiple of the tokens of a frame.
        batch_size: windows per step.
        seed: of the order.
        lanes: read as many places of `train` at once as a batch has windows, each in order and with
            its state carried from window to window, which trains on contexts beyond `window`; else
            windows are shuffled.
        share_fresh: share of lanes that begins anew at every step, so that the start is learned.
        reset_at_documents: let every document, or video, begin with a fresh state; the paper does
            not.
    """

    def __init__(
        self,
        train: str,
        validation: str | None = None,
        holdout: float = 0.05,
        window: int = 1024,
        batch_size: int = 8,
        seed: int = 0,
        lanes: bool = False,
        share_fresh: float = 0.3,
        reset_at_documents: bool = False,
    ):
        super().__init__()
        self.train, self.validation, self.holdout = train, validation, holdout
        self.window, self.batch_size, self.seed = window, batch_size, seed
        self.lanes, self.share_fresh = lanes, share_fresh
        self.reset_at_documents = reset_at_documents

    @property
    def header(self) -> Header:
        """What the training file says of its tokens."""
        return self.file.header

    def setup(self, stage: str) -> None:
        check_counts(window=self.window, batch_size=self.batch_size)
        if not 0 <= self.share_fresh <= 1:
            raise ValueError(f"data.share_fresh is {self.share_fresh}; it must be from 0 to 1")
        self.file = self.measured = open_tokens(self.train)
        self.tokenizer_json = None  # of text, unless its tokens are bytes
        if self.header.kind == "text":
            self.tokenizer_json = tokenizer_of(self.train, self.header.tokenizer).to_json()
        total, frame = len(self.file.tokens), self.header.frame
        if self.window % frame:
            raise ValueError(
                f"window {self.window} must be a multiple of the {frame} tokens of a frame"
            )
        if self.validation:
            self.measured = open_tokens(self.validation)
            self.check_same_tokens(self.measured.header)
            self.train_span, self.validation_span = None, None
        else:
            held = max(int(total // frame * self.holdout), self.window // frame + 1)  # a window
            kept = max(0, total // frame - held) * frame
            self.train_span, self.validation_span = (0, kept), (kept, total)

    def check_same_tokens(self, other: Header) -> None:
        for name in ("kind", "tokenizer", "vocab_size", "grid"):
            ours, theirs = getattr(self.header, name), getattr(other, name)
            if ours != theirs:
                raise ValueError(
                    f"{self.train} and {self.validation} differ: {name} is {ours} and {theirs}"
                )

    def train_dataloader(self) -> ResumableLoader:
        starts = self.file.starts if self.reset_at_documents else None
        windows = Windows(self.file.tokens, self.window, self.train_span, True, starts)
        share_fresh = self.share_fresh if self.lanes else None
        return ResumableLoader(windows, self.batch_size, self.seed, self.header.frame, share_fresh)

    def val_dataloader(self) -> DataLoader:
        starts = self.measured.starts if self.reset_at_documents else None
        tokens, span = self.measured.tokens, self.validation_span
        windows = Windows(tokens, self.window, span, starts=starts)
        return DataLoader(windows, self.batch_size, collate_fn=collate)

    test_dataloader = val_dataloader


def check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"data.{name} is {count}; it must be 1 or more")


class Frames(Dataset):
    """Frames in memory, as (S, S, 3) uint8."""

    def __init__(self, frames: Tensor):
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        return self.frames[index]


class FrameData(LightningDataModule):
    """Single frames of videos, to train a frame tokenizer on.

    Arguments:
        videos: files or folders.
        size: height and width in pixels.
        end: seconds of each video after which nothing is used; null: all of it.
        most: frames kept in memory (3 size^2 bytes each), drawn evenly from longer videos.
        holdout: share of the frames, from the end, to measure on.
        batch_size: frames per step.
        seed: of the order.
    """

    def __init__(
        self,
        videos: list[str],
        size: int = 64,
        end: float | None = None,
        most: int = 50_000,
        holdout: float = 0.05,
        batch_size: int = 32,
        seed: int = 0,
    ):
        super().__init__()
        self.videos, self.size, self.end, self.most = videos, size, end, most
        self.holdout, self.batch_size, self.seed = holdout, batch_size, seed
        self.frames: Tensor | None = None

    def setup(self, stage: str) -> None:
        if self.frames is not None:
            return
        check_counts(size=self.size, most=self.most, batch_size=self.batch_size)
        self.frames = read_evenly(self.videos, self.size, self.end, self.most)
        self.held = max(1, int(len(self.frames) * self.holdout))
        if self.held >= len(self.frames):
            raise ValueError(f"{len(self.frames)} frame is too few to learn from and measure on")

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(Frames(self.frames[: -self.held]), self.batch_size, self.seed)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Frames(self.frames[-self.held :]), self.batch_size)

    test_dataloader = val_dataloader


def read_evenly(videos: Sequence[str], size: int, end: float | None, most: int) -> Tensor:
    """At most `most` frames (N, size, size, 3) uint8: all, or every 2nd, 4th, ... of all."""
    kept: list[np.ndarray] = []
    seen, stride = 0, 1
    readers = [VideoReader(path, size) for path in find_files(videos, VIDEO_SUFFIXES)]
    last = math.inf if end is None else end
    total = sum(int((reader.index.times < last).sum()) for reader in readers)
    with progress("reading videos", total, "frames") as advance:
        early = (takewhile(lambda frame: frame.time < last, reader) for reader in readers)
        for frame in chain.from_iterable(early):
            if seen % stride == 0:
                kept.append(frame.image)
            if len(kept) > most:
                kept, stride = kept[::2], stride * 2
            seen += 1
            advance(1)
    if not kept:
        raise ValueError(f"no frame before {end} seconds in {', '.join(map(str, videos))}")
    return torch.from_numpy(np.stack(kept))
