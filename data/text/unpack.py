"""The content of files of text: unpacked, without a byte order mark, in chunks of one size."""

import bz2
import codecs
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from tttvideo.progress import Advance


CHUNK = 1 << 20  # bytes of a document at a time
PACKINGS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
    ".xz": lzma.LZMADecompressor,
    ".bz2": bz2.BZ2Decompressor,
}
"""What unpacks one stream, by the suffix; a file may hold several, one after the other."""
PADDED = (".gz", ".xz")  # zeros may follow a stream
BROKEN = (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError)

FOREIGN = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark begins alike
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def open_chunks(path: Path, advance: Advance) -> Iterator[bytes]:
    """The content of a file, `CHUNK` bytes at a time, unpacked and without its byte order mark.

    advance: called with the number of bytes of the file after each read.
    Raises: ValueError for a packed file that is damaged, and for another encoding than UTF-8 that
    a byte order mark tells.
    """
    chunks, packing = read_chunks(path, advance), path.suffix.lower()
    if packing in PACKINGS:
        chunks = unpacked(path, chunks, PACKINGS[packing], b"\0" if packing in PADDED else b"")
    return even(without_mark(chunks, str(path)))


def read_chunks(path: Path, advance: Advance) -> Iterator[bytes]:
    """The bytes of a file."""
    with open(path, "rb") as file:
        yield from read_all(file, advance)


def read_all(file: BinaryIO, advance: Advance) -> Iterator[bytes]:
    """The bytes of an open file."""
    while chunk := file.read(CHUNK):
        yield chunk
        advance(len(chunk))


def unpacked(
    path: Path, chunks: Iterable[bytes], new: Callable[[], Any], padding: bytes
) -> Iterator[bytes]:
    """The chunks, unpacked; they may hold several streams.

    new: makes what unpacks one stream.
    padding: bytes that may follow a stream and are skipped.
    """
    stream = new()
    try:
        for chunk in chunks:
            while chunk := chunk.lstrip(padding) if stream.eof else chunk:
                if stream.eof:
                    stream = new()
                head, chunk = chunk[: CHUNK >> 4], chunk[CHUNK >> 4 :]  # bounds the output
                yield stream.decompress(head)
                chunk = (stream.unused_data if stream.eof else b"") + chunk
    except BROKEN as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from error
    if not stream.eof:
        raise ValueError(f"{path} is cut off: its packed stream has no end; fetch it again")


def without_mark(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The bytes of a text without a byte order mark; ValueError for that of another encoding."""
    chunks, head = iter(chunks), b""
    while len(head) < 4 and (chunk := next(chunks, None)) is not None:
        head += chunk
    check_encoding(head, name)
    yield head.removeprefix(codecs.BOM_UTF8)
    yield from chunks


def even(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, `CHUNK` at a time."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        whole = len(rest) - len(rest) % CHUNK
        yield from cut(bytes(rest[:whole]))
        del rest[:whole]
    yield from cut(bytes(rest))


def cut(data: bytes) -> Iterator[bytes]:
    """The bytes, `CHUNK` at a time."""
    return (data[i : i + CHUNK] for i in range(0, len(data), CHUNK))


def check_encoding(head: bytes, name: str) -> None:
    """Refuse a text whose first bytes are the byte order mark of another encoding than UTF-8."""
    for mark, encoding in FOREIGN.items():
        if head.startswith(mark):
            raise ValueError(
                f"{name} is {encoding} by its first bytes, and text must be UTF-8; convert it, "
                f"as with iconv -f {encoding} -t UTF-8"
            )


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends; only \\n ends one, as in JSON lines."""
    rest: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        if others:
            yield b"".join(rest)
            yield from others[:-1]
            rest = others[-1:]
    yield b"".join(rest)
