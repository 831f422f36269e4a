"""Token files: a header, the tokens as a memory map, and where documents start; windows of them.

Layout: 4096 bytes of header (a magic line, then JSON, padded with spaces and a newline), the tokens
as little-endian uint16 or uint32, then the documents' starts as little-endian int64. A video is a
document; its frames are whole rows of grid[0] * grid[1] tokens.

T tokens per window, B windows per batch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


MAGIC = b"tttvideo tokens 1\n"
HEADER_BYTES = 4096


@dataclass(frozen=True)
class Header:
    """What a token file says of itself."""

    kind: str  # "text" or "video"
    tokenizer: str  # "bytes", or the fingerprint of a frame tokenizer
    vocab_size: int
    grid: tuple[int, int] | None = None  # rows and columns of a frame; None for text
    fps: float | None = None  # frames per second; None for text, or where videos differ
    tokens: int = 0
    documents: int = 0

    @property
    def frame(self) -> int:
        """Tokens that belong together: those of a frame, or one."""
        return self.grid[0] * self.grid[1] if self.grid else 1

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    @property
    def bytes(self) -> int:
        """Size of the whole file."""
        return HEADER_BYTES + self.tokens * self.dtype.itemsize + self.documents * 8

    def pack(self) -> bytes:
        text = MAGIC + json.dumps(asdict(self)).encode()
        assert len(text) < HEADER_BYTES
        return text.ljust(HEADER_BYTES - 1) + b"\n"

    @staticmethod
    def unpack(path: Path) -> Header:
        """Read and check a header; ValueError says what is wrong with the file."""
        if not path.is_file():
            raise ValueError(f"there is no token file {path}; make one with `tttvideo prepare`")
        with open(path, "rb") as file:
            head = file.read(HEADER_BYTES)
        if not head.startswith(MAGIC):
            raise ValueError(f"{path} is not a token file; make one with `tttvideo prepare`")
        try:
            fields = json.loads(head[len(MAGIC) :])
            fields["grid"] = fields["grid"] and tuple(fields["grid"])
            header = Header(**fields)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} has a damaged header; prepare it again") from error
        if path.stat().st_size != header.bytes:
            raise ValueError(
                f"{path} is {path.stat().st_size} bytes long and its header says {header.bytes}; "
                "it was cut off or changed: prepare it again"
            )
        return header


class TokenFile:
    """A token file, opened: `header`, `tokens` (a memory map) and `starts` of the documents."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.header = Header.unpack(self.path)
        count, dtype = self.header.tokens, self.header.dtype
        if not count:
            raise ValueError(f"{path} holds no tokens")
        self.tokens = np.memmap(self.path, dtype, "r", HEADER_BYTES, (count,))
        offset = HEADER_BYTES + count * dtype.itemsize
        self.starts = np.fromfile(self.path, "<i8", self.header.documents, offset=offset)


class TokenWriter:
    """Write a token file as a stream; it takes its name only when all went well.

    with TokenWriter(path, header) as out:
        out.start_document()
        out.write(tokens)
    """

    def __init__(self, path: str | Path, header: Header):
        self.path, self.header = Path(path), header
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.count, self.starts = 0, []

    def __enter__(self) -> TokenWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.partial, "wb")  # noqa: SIM115 - closed in __exit__
        self.file.write(bytes(HEADER_BYTES))
        return self

    def start_document(self) -> None:
        self.starts.append(self.count)

    def write(self, tokens: np.ndarray) -> None:
        """Append tokens (any shape of integers below vocab_size)."""
        assert tokens.size == 0 or tokens.max() < self.header.vocab_size
        self.file.write(tokens.astype(self.header.dtype).tobytes())
        self.count += tokens.size

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is None:
            self.file.write(np.array(self.starts, "<i8").tobytes())
            self.file.seek(0)
            fields = asdict(self.header) | {"tokens": self.count, "documents": len(self.starts)}
            self.file.write(Header(**fields).pack())
        self.file.close()
        if kind is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink()


class Windows(Dataset):
    """Windows of T + 1 tokens in a row; the last token of one is the first of the next.

    `move_by(n)` shifts them all by n < T tokens, where one window less fits. Raises ValueError when
    not even one window fits.
    """

    def __init__(self, tokens: np.ndarray, length: int, may_move: bool = False):
        self.tokens, self.length, self.offset = tokens, length, 0
        fit = (len(tokens) - 1) // length
        if fit < 1:
            raise ValueError(
                f"{len(tokens)} tokens are too few for one window of {length}; "
                "choose a shorter window or prepare more data"
            )
        self.may_move = may_move and fit > 1
        self.count = fit - self.may_move

    def move_by(self, offset: int) -> None:
        assert 0 <= offset < self.length
        self.offset = offset if self.may_move else 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.count:
            raise IndexError(index)
        start = self.offset + index * self.length
        return torch.from_numpy(self.tokens[start : start + self.length + 1].astype(np.int64))


class EpochBatches(Sampler[list[int]]):
    """Batches of indices, shuffled as a pure function of (seed, epoch); a short last one is left.

    With several processes each takes its share of every batch.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if distributed else 0
        self.world = torch.distributed.get_world_size() if distributed else 1
        self.count, self.seed = count, seed
        self.batch_size = min(batch_size, max(1, count // self.world))
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return self.count // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        size = self.batch_size * self.world
        for batch in range(self.first, len(self)):
            yield order[batch * size : (batch + 1) * size][self.rank :: self.world].tolist()


class ResumableLoader(DataLoader):
    """A shuffled DataLoader that goes on, after a restart, at the very batch where it stopped.

    It counts the batches that were delivered, not those that workers fetched ahead.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int = 0, step: int = 1):
        self.batches = EpochBatches(len(dataset), batch_size, seed)
        self.step = step
        super().__init__(dataset, batch_sampler=self.batches)
        self.epoch = self.delivered = 0

    def __iter__(self) -> Iterator[Any]:
        # here and not after the loop: a consumer that counts batches never resumes the generator
        if self.delivered >= len(self):
            self.epoch, self.delivered = self.epoch + 1, 0
        self.batches.epoch, self.batches.first = self.epoch, self.delivered
        if isinstance(self.dataset, Windows):
            steps = self.dataset.length // self.step
            random = np.random.default_rng((self.batches.seed, self.epoch, 1))
            self.dataset.move_by(self.step * int(random.integers(steps)))
        for batch in super().__iter__():
            self.delivered += 1
            yield batch

    def facts(self) -> dict[str, int]:
        """What must be the same for a position to mean the same batch."""
        batches = self.batches
        return {
            "items": batches.count,
            "batch_size": batches.batch_size,
            "seed": batches.seed,
            "processes": batches.world,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "delivered": self.delivered, **self.facts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in self.facts().items():
            if state[name] != value:
                raise ValueError(
                    f"cannot resume in the middle of other data: {name} was {state[name]} and is "
                    f"{value}; start a new run with another --out"
                )
        self.epoch, self.delivered = state["epoch"], state["delivered"]
