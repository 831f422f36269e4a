"""LightningDataModules: windows of token files, frames of videos, and clips of their pixels."""

from functools import cached_property

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from tttvideo.data.text.tokenizer import tokenizer_of
from tttvideo.data.video.views import larger

from .clips import ClipWindows, check_memory
from .frame_chunks import Part
from .frames import FrameLoader, HeldFrames, hold_out, open_parts
from .order import ResumableLoader, VideoWindows, Windows, collate
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
        lanes: read `train` in lanes, one per window of a batch. A lane reads whole videos, or its
            share of all text, window by window, and carries its state to the end, which trains on
            contexts beyond `window`; else windows are shuffled. At the end of an epoch a batch has
            the lanes that have not ended.
        share_fresh: share of lanes that get a fresh state at each step, to learn to start.
        workers: processes that read windows ahead of training, which change no batch; 0: none. They
            help where files are on a slow disk: reading a mapped file takes no time otherwise.
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
        workers: int = 0,
    ):
        super().__init__()
        self.train, self.validation, self.holdout = train, validation, holdout
        self.window, self.batch_size, self.seed = window, batch_size, seed
        self.lanes, self.share_fresh = lanes, share_fresh
        self.reset_at_documents, self.workers = reset_at_documents, workers

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
            self.tokenizer_json = tokenizer_of(
                self.train, self.header.tokenizer, (self.header.bos, self.header.eos)
            ).to_json()
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
        options = self.header.frame, share_fresh, self.workers
        return ResumableLoader(windows, self.batch_size, self.seed, *options)

    def val_dataloader(self) -> DataLoader:
        windows = self.windows(self.validation_file, self.validation_span, may_move=False)
        return DataLoader(windows, self.batch_size, collate_fn=collate)

    test_dataloader = val_dataloader


def check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"data.{name} is {count}; it must be 1 or more")


class FrameData(LightningDataModule):
    """Single frames of videos, the training data of a frame tokenizer, read from disk.

    Memory does not depend on the number of frames: see data/frames.py.

    Arguments:
        videos: files, folders of them or of pictures, or arrays.
        validation: the same, to measure with; null holds out the end of `videos`.
        size: height and width in pixels.
        end: seconds of each video that are used; null: all.
        buffer: frames in memory, of each process, that batches are drawn from (3 size^2 bytes each,
            2.6 times as much with views). All frames, if they are no more, are read once.
        holdout: share that is held out without `validation`: whole videos where that is at least
            one, else frames from the end. At most 2,048 of them are kept, evenly spaced.
        views: train on random crops, flips and colours of half of the frames, so that a short video
            is not learned by heart.
        batch_size: frames per step.
        seed: seed of the order.
        workers: processes that read videos ahead of training; 0: none.
    """

    HELD = 2048

    def __init__(
        self,
        videos: list[str],
        validation: list[str] | None = None,
        size: int = 64,
        end: float | None = None,
        buffer: int = 10_000,
        holdout: float = 0.05,
        views: bool = False,
        batch_size: int = 32,
        seed: int = 0,
        workers: int = 1,
    ):
        super().__init__()
        self.videos, self.validation, self.size, self.end = videos, validation, size, end
        self.buffer, self.holdout, self.views = buffer, holdout, views
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.parts: list[Part] = []  # to learn from

    def setup(self, stage: str) -> None:
        if self.parts:
            return
        check_counts(size=self.size, batch_size=self.batch_size)
        if self.buffer < self.batch_size:
            raise ValueError(
                f"data.buffer is {self.buffer}; it must be at least data.batch_size, "
                f"{self.batch_size}"
            )
        sizes = [self.size, larger(self.size)] if self.views else [self.size]
        parts = open_parts(self.videos, sizes, self.end)
        if self.validation:
            held = open_parts(self.validation, [self.size], None)
        else:
            parts, held = hold_out(parts, self.holdout)
        self.parts, self.held = parts, HeldFrames(held, self.HELD)

    @property
    def frames(self) -> int:
        """The number of frames to learn from."""
        return sum(len(part.places) for part in self.parts)

    def train_dataloader(self) -> FrameLoader:
        return FrameLoader(self.parts, self.batch_size, self.buffer, self.seed, self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.held, self.batch_size)

    test_dataloader = val_dataloader


class ClipData(LightningDataModule):
    """Clips of true pixels, the training data of a model without a tokenizer, kept in memory.

    Arguments:
        videos: files, folders of them or of pictures, or arrays.
        validation: the same, to measure with; null holds out the end of `videos`.
        size: height and width in pixels.
        frames: frames of a clip; a longer video has several, which move from epoch to epoch.
        memory: the most GB (10^9 bytes) that all frames may take, 3 size^2 bytes each.
        holdout: share that is held out without `validation`: whole videos where that is at least
            one, else frames from the end.
        batch_size: clips per step.
        seed: seed of the order.
    """

    def __init__(
        self,
        videos: list[str],
        validation: list[str] | None = None,
        size: int = 64,
        frames: int = 20,
        memory: float = 1.0,
        holdout: float = 0.05,
        batch_size: int = 8,
        seed: int = 0,
    ):
        super().__init__()
        self.videos, self.validation, self.size, self.frames = videos, validation, size, frames
        self.memory, self.holdout = memory, holdout
        self.batch_size, self.seed = batch_size, seed
        self.clips: ClipWindows | None = None  # to learn from

    def setup(self, stage: str) -> None:
        if self.clips is not None:
            return
        check_counts(size=self.size, batch_size=self.batch_size)
        if self.frames < 2:
            raise ValueError(f"data.frames is {self.frames}; it must be 2 or more")
        learned = open_parts(self.videos, [self.size], None)
        if self.validation:
            held = open_parts(self.validation, [self.size], None)
        else:
            learned, held = hold_out(learned, self.holdout)
        check_memory([*learned, *held], self.size, self.memory)
        self.clips = ClipWindows(learned, self.size, self.frames, may_move=True)
        self.held = ClipWindows(held, self.size, self.frames)

    def train_dataloader(self) -> ResumableLoader:
        assert self.clips is not None
        return ResumableLoader(self.clips, self.batch_size, self.seed)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.held, self.batch_size, collate_fn=collate)

    test_dataloader = val_dataloader
