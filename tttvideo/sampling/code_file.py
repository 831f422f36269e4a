"""Files of compressed videos: a header, the conditions of the frames, and the code of their tokens.

Layout: a magic line; the lengths of the header and of the conditions as two little-endian uint64;
the header, JSON; the conditions, arrays of NumPy in LZMA; the code. Nothing here imports torch.
"""

from __future__ import annotations

import io
import json
import lzma
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from tttvideo.files import replacing


MAGIC = b"tttvideo code 1\n"
LENGTHS = struct.Struct("<QQ")


@dataclass(frozen=True)
class CodeHeader:
    """What a decoder must know, and what tells that it went wrong."""

    model: str  # a hash of the model that made the code, which alone can read it
    tokenizer: str  # the fingerprint of the frame tokenizer
    vocab_size: int
    grid: tuple[int, int]
    fps: float | None
    runs: tuple[tuple[int, int, int], ...]  # videos, frames of each, batches like this in a row
    first: str  # a hash of the first frames, to notice early that the code is read wrongly
    tokens: str  # a hash of all tokens
    made_with: str  # what the probabilities were computed with

    @property
    def batches(self) -> list[tuple[int, int]]:
        """Videos, and frames of each of them, of the batches that were coded side by side."""
        return [(videos, frames) for videos, frames, count in self.runs for _ in range(count)]


def runs_of(batches: list[tuple[int, int]]) -> tuple[tuple[int, int, int], ...]:
    """The `runs` of a header."""
    return tuple((*one, len(list(same))) for one, same in groupby(batches))


@dataclass(frozen=True)
class CodeFile:
    """The parts of a file; conditions: rows of all videos by name, one after the other."""

    header: CodeHeader
    conditions: Mapping[str, np.ndarray]
    code: bytes

    def write(self, path: Path) -> dict[str, int]:
        """Write the file whole; the bytes of each of its parts."""
        header, conditions = json.dumps(asdict(self.header)).encode(), pack(self.conditions)
        front = MAGIC + LENGTHS.pack(len(header), len(conditions)) + header
        with replacing(path) as partial:
            partial.write_bytes(front + conditions + self.code)
        return {"code": len(self.code), "conditions": len(conditions), "header": len(front)}

    @staticmethod
    def read(path: Path) -> CodeFile:
        """Raises ValueError, in one line, for a file that is missing, damaged or another."""
        if not path.is_file():
            raise ValueError(f"there is no file {path}; make one with `tttvideo compress`")
        data = path.read_bytes()
        if not data.startswith(MAGIC):
            raise ValueError(f"{path} is no file of `tttvideo compress`")
        try:
            begin = len(MAGIC) + LENGTHS.size
            sizes = LENGTHS.unpack(data[len(MAGIC) : begin])
            middle, end = begin + sizes[0], begin + sum(sizes)
            fields = json.loads(data[begin:middle])
            fields["runs"] = tuple(map(tuple, fields["runs"]))
            header = CodeHeader(**fields | {"grid": tuple(fields["grid"])})
            return CodeFile(header, unpack(data[middle:end]), data[end:])
        except (struct.error, ValueError, TypeError, KeyError, lzma.LZMAError, EOFError) as error:
            raise ValueError(f"{path} is damaged; compress it again") from error


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays in as few bytes as LZMA makes of them; nothing for none."""
    if not arrays:
        return b""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: smallest(array) for name, array in arrays.items()})
    return lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def unpack(data: bytes) -> dict[str, np.ndarray]:
    if not data:
        return {}
    with np.load(io.BytesIO(lzma.decompress(data))) as arrays:
        return dict(arrays)


def smallest(array: np.ndarray) -> Any:
    """Integers in the smallest type that holds them; others as they are."""
    if array.dtype.kind not in "iu" or not array.size:
        return array
    low, high = np.min_scalar_type(array.min()), np.min_scalar_type(array.max())
    return array.astype(np.promote_types(low, high))
