"""Text files in, bytes as tokens."""

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from .tokens import Header


BYTES = Header(kind="text", tokenizer="bytes", vocab_size=256)


def find_files(inputs: Iterable[str | Path], suffixes: tuple[str, ...]) -> list[Path]:
    """The files named, and in sorted order those below the folders named that end in a suffix.

    Raises ValueError for a path that is not there, and for a folder without such a file.
    """
    files = []
    for path in map(Path, inputs):
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if fits(p, suffixes))
            if not found:
                raise ValueError(
                    f"the folder {path} has no file that ends in {', '.join(suffixes)}"
                )
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise ValueError(f"there is no file or folder {path}")
    return files


def fits(path: Path, suffixes: tuple[str, ...]) -> bool:
    """A file of such a kind, and not the shadow that some systems write beside it."""
    return path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith("._")


def read_bytes(path: Path, chunk: int = 1 << 22) -> Iterator[np.ndarray]:
    """The bytes of a file, in chunks of at most `chunk`; ValueError when there are none."""
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; leave it out or put text into it")
    with open(path, "rb") as file:
        while data := file.read(chunk):
            yield np.frombuffer(data, np.uint8)


class ByteDecoder:
    """Bytes back to text, as they come: a character is shown when its last byte is there."""

    def __init__(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def __call__(self, tokens: Iterable[int], final: bool = False) -> str:
        return self.decoder.decode(bytes(tokens), final)
