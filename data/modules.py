"""LightningDataModules: windows of token files, and frames of videos."""

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from itertools import chain, takewhile

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from tttvideo.data.text.tokenizer import tokenizer_of
from tttvideo.data.video.sources import find_videos
from tttvideo.data.video.views import RandomViews, larger
from tttvideo.progress import progress

from .order import Frames, ResumableLoader, VideoWindows, Windows, collate
from .tokens import SAME_CONDITIONS, SAME_TOKENS, Header, Tokens, difference, open_tokens


AnyWindows = Windows | VideoWindows


class TokenData(LightningDataModule):
    """Windows of tokens, in an order that depends on the seed and the epoch alone.

    A window of text may cross from one document into the next, as in the paper. A window of video
    is inside one video.

    Arguments:
        train: training tokens: a file, or a folder of shards.
        validation: validation tokens; null holds out the end of `train`, which may not have altered
            copies of its videos.
        holdout: share of `train` that is held out without a validation file: whole videos where
            that is at least one, else at least one window.
        window: tokens per window, T; for video a multiple of the tokens of a frame.
        batch_size: windows per step.
        seed: seed of the order.
        lanes: read `train` in lanes, one per window of a batch. A lane reads windows in order and
            carries its state to the end of a video, or over all text, which trains on contexts
            beyond `window`; else windows are shuffled.
        share_fresh: share of lanes that get a fresh state at each step, to learn to start.
        reset_at_documents: start every document of text with a fresh state; the paper does not.
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

    @cached_property
    def file(self) -> Tokens:
        """The training tokens, opened at their first use."""
        return open_tokens(self.train)

    @property
    def header(self) -> Header:
        return self.file.header

    def setup(self, stage: str) -> None:
        check_counts(window=self.window, batch_size=self.batch_size)
        if not 0 <= self.share_fresh <= 1:
            raise ValueError(f"data.share_fresh is {self.share_fresh}; it must be from 0 to 1")
        self.validation_file = self.file
        self.tokenizer_json: str | None = None  # of text whose tokens are not bytes
        if self.header.kind == "text":
            self.tokenizer_json = tokenizer_of(self.train, self.header.tokenizer).to_json()
        frame = self.header.frame
        if self.window % frame:
            raise ValueError(
                f"window {self.window} must be a multiple of the {frame} tokens of a frame"
            )
        self.train_span: tuple[int, int] | None = None
        self.validation_span: tuple[int, int] | None = None
        if self.validation:
            self.validation_file = open_tokens(self.validation)
            if found := self.difference_to(self.validation_file.header):
                raise ValueError(f"{self.train} and {self.validation} differ: {found}")
        elif self.header.copies:
            raise ValueError(
                f"the end of {self.train} has other views of its videos, which are no test of what "
                "was learned; set data.validation"
            )
        else:
            total = len(self.file.tokens)
            kept = total - self.held_out(total)
            self.train_span, self.validation_span = (0, kept), (kept, total)

    def difference_to(self, other: Header) -> str:
        return difference(self.header, other, (*SAME_TOKENS, *SAME_CONDITIONS))

    def held_out(self, total: int) -> int:
        """The number of tokens, of `total`, that are held out at the end of the training file."""
        videos = int(len(self.file.starts) * self.holdout) if self.header.kind == "video" else 0
        if videos:
            return total - int(self.file.starts[-videos])
        frame = self.header.frame
        held = max(int(total // frame * self.holdout), self.window // frame + 1)  # a window
        return min(total, held * frame + total % frame)

    def windows(self, file: Tokens, span: tuple[int, int] | None, may_move: bool) -> AnyWindows:
        if file.header.kind == "video":
            facts = file.tokens, self.window, file.header.frame, file.starts
            return VideoWindows(*facts, span, may_move, file.conditions)
        starts = file.starts if self.reset_at_documents else None
        return Windows(file.tokens, self.window, span, may_move, starts)

    def train_dataloader(self) -> ResumableLoader:
        windows = self.windows(self.file, self.train_span, may_move=True)
        share_fresh = self.share_fresh if self.lanes else None
        return ResumableLoader(windows, self.batch_size, self.seed, self.header.frame, share_fresh)

    def val_dataloader(self) -> DataLoader:
        windows = self.windows(self.validation_file, self.validation_span, may_move=False)
        return DataLoader(windows, self.batch_size, collate_fn=collate)

    test_dataloader = val_dataloader


def check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"data.{name} is {count}; it must be 1 or more")


class FrameData(LightningDataModule):
    """Single frames of videos, the training data of a frame tokenizer.

    Arguments:
        videos: files, folders of them or of pictures, or arrays.
        validation: the same, to measure with; null holds out the end of `videos`.
        size: height and width in pixels.
        end: seconds of each video that are used; null: all.
        most: the most frames in memory (3 size^2 bytes each, 2.6 times as much with views); of
            more, evenly spaced ones are kept.
        holdout: share of the frames that are held out without `validation`, from the end.
        views: train on random crops, flips and colours of half of the frames, so that a short video
            is not learned by heart.
        batch_size: frames per step.
        seed: seed of the order.
    """

    def __init__(
        self,
        videos: list[str],
        validation: list[str] | None = None,
        size: int = 64,
        end: float | None = None,
        most: int = 50_000,
        holdout: float = 0.05,
        views: bool = False,
        batch_size: int = 32,
        seed: int = 0,
    ):
        super().__init__()
        self.videos, self.validation, self.size, self.end = videos, validation, size, end
        self.most, self.holdout, self.views = most, holdout, views
        self.batch_size, self.seed = batch_size, seed
        self.frames = self.held = torch.empty(0)  # (N, size, size, 3) uint8
        self.random_views: RandomViews | None = None

    def setup(self, stage: str) -> None:
        if len(self.frames):
            return
        check_counts(size=self.size, most=self.most, batch_size=self.batch_size)
        self.frames = read_evenly(self.videos, self.size, self.end, self.most)
        if self.validation:
            self.held = read_evenly(self.validation, self.size, None, self.most)
        else:
            kept = len(self.frames) - max(1, int(len(self.frames) * self.holdout))
            if not kept:
                raise ValueError(f"{len(self.frames)} frame is too few for training and validation")
            self.frames, self.held = self.frames[:kept], self.frames[kept:]
        if self.views:
            frames = read_evenly(self.videos, larger(self.size), self.end, self.most)
            self.random_views = RandomViews(frames[: len(self.frames)], self.size, self.seed)

    def train_dataloader(self) -> ResumableLoader:
        frames = Frames(self.frames, self.random_views)
        return ResumableLoader(frames, self.batch_size, self.seed)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Frames(self.held), self.batch_size)

    test_dataloader = val_dataloader


def read_evenly(videos: Sequence[str], size: int, end: float | None, most: int) -> Tensor:
    """At most `most` frames (N, size, size, 3) uint8: all, or every 2nd, 4th, ... of all."""
    kept: list[np.ndarray] = []
    seen, stride = 0, 1
    found = find_videos(videos)
    if found.passed_over:
        logging.getLogger("tttvideo").info("%s: %s", ", ".join(videos), found.sentence)
    readers = [source.open(size) for source in found.videos]
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
