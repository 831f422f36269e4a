"""Documents of .txt, .jsonl (also .gz and .zst) and .parquet files, as streams of bytes.

A document is an iterator of chunks of UTF-8, so that it need not fit into memory, except where its
format demands that: a line of JSON, or a cell of a table.
"""

import codecs
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from tttvideo.data.inputs import TEXT_SUFFIXES
from tttvideo.data.tokens import Header
from tttvideo.progress import Advance

from .tokenizer import ByteTokenizer, Tokenizer


CHUNK = 1 << 20  # bytes of a document at a time
PIECE = 1 << 20  # characters that are tokenised together


def text_header(tokenizer: Tokenizer) -> Header:
    """The header of a token file of text."""
    bos, eos = tokenizer.bos, tokenizer.eos
    return Header("text", tokenizer.name, tokenizer.vocab_size, bos=bos, eos=eos)


BYTES = text_header(ByteTokenizer())


@dataclass(frozen=True)
class Document:
    """A text, as chunks of UTF-8 of `CHUNK` bytes, the last one shorter."""

    place: str  # file, and line or row in it
    chunks: Iterator[bytes]
    is_line: bool = False  # one of many in its file


@dataclass(frozen=True)
class Malformed:
    """A line or row that holds no text, and why."""

    place: str
    reason: str


def read_documents(path: Path, field: str, advance: Advance) -> Iterator[Document | Malformed]:
    """The documents of a file, in order; each must be read before the next.

    field: the key of the JSON objects, or the column of the table, that holds the text.
    advance: called with the number of bytes of the file after each read.
    Raises: ValueError for a file whose content is not of the format of its suffix.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from parquet_documents(path, field, advance)
    elif name.endswith(TEXT_SUFFIXES[1:]):
        for number, line in enumerate(split_lines(unpacked_chunks(path, advance)), 1):
            if line.strip():
                yield line_document(line, field, f"{path}:{number}")
    else:
        yield Document(str(path), read_chunks(path, advance))


def read_chunks(path: Path, advance: Advance) -> Iterator[bytes]:
    """The content of a file, `CHUNK` bytes at a time."""
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
            advance(len(chunk))


def unpacked_chunks(path: Path, advance: Advance) -> Iterator[bytes]:
    """The content of a file, decompressed if its suffix is .gz or .zst."""
    chunks = read_chunks(path, advance)
    if path.name.lower().endswith(".gz"):
        return decompress(path, chunks, lambda: zlib.decompressobj(wbits=31), b"\0")
    if path.name.lower().endswith(".zst"):
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
        return decompress(path, chunks, decompressor)
    return chunks


def decompress(
    path: Path, chunks: Iterable[bytes], new: Callable[[], Any], padding: bytes = b""
) -> Iterator[bytes]:
    """The chunks, decompressed; they may hold several compressed streams.

    new: makes a decompressor of one stream.
    padding: bytes that may follow a stream and are skipped.
    """
    decompressor = new()
    try:
        for chunk in chunks:
            while chunk := chunk.lstrip(padding) if decompressor.eof else chunk:
                if decompressor.eof:
                    decompressor = new()
                head, chunk = chunk[: CHUNK >> 4], chunk[CHUNK >> 4 :]  # bounds the output
                yield decompressor.decompress(head)
                chunk = (decompressor.unused_data if decompressor.eof else b"") + chunk
    except (zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from error
    if not decompressor.eof:
        raise ValueError(f"{path} is cut off: its packed stream has no end; fetch it again")


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


def line_document(line: bytes, field: str, place: str) -> Document | Malformed:
    """The document in a line of JSON."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Malformed(place, f"is no UTF-8 ({error.reason} at byte {error.start})")
    except (ValueError, RecursionError) as error:
        return Malformed(place, f"is no JSON ({error})")
    if not isinstance(record, dict) or field not in record:
        return Malformed(place, f"has no field {field!r}")
    return value_document(record[field], field, place)


def value_document(value: Any, field: str, place: str) -> Document | Malformed:
    """The document that is the value of a field."""
    if not isinstance(value, str):
        return Malformed(place, f"has no string in {field!r} but {type(value).__name__}")
    try:
        data = value.encode()
    except UnicodeEncodeError:
        return Malformed(place, f"has half a surrogate pair in {field!r}")
    return Document(place, (data[i : i + CHUNK] for i in range(0, len(data), CHUNK)), True)


def parquet_documents(path: Path, field: str, advance: Advance) -> Iterator[Document | Malformed]:
    """The cells of a column of a parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{path} needs pyarrow: pip install 'tttvideo[parquet]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            if field not in table.schema_arrow.names:
                names = ", ".join(table.schema_arrow.names)
                raise ValueError(f"{path} has no column {field!r}; choose --field from {names}")
            number, count = 0, table.num_row_groups
            size = path.stat().st_size
            for group in range(count):
                batches = table.iter_batches(256, [group], [field], use_threads=False)
                for cell in (cell for batch in batches for cell in batch.column(0)):
                    number += 1
                    yield value_document(cell.as_py(), field, f"{path}:{number}")
                advance(size * (group + 1) // count - size * group // count)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as parquet: {reason}") from error


class Utf8Decoder:
    """Chunks of UTF-8 to text; wrong bytes become U+FFFD and set `damaged`."""

    def __init__(self) -> None:
        self.decoder, self.damaged = codecs.getincrementaldecoder("utf-8")("strict"), False

    def decode(self, chunk: bytes, final: bool = False) -> str:
        state = self.decoder.getstate()
        try:
            return self.decoder.decode(chunk, final)
        except UnicodeDecodeError:
            self.damaged = True
            self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
            self.decoder.setstate(state)
            return self.decoder.decode(chunk, final)

    def decode_all(self, chunks: Iterable[bytes]) -> Iterator[str]:
        yield from map(self.decode, chunks)
        yield self.decode(b"", final=True)


def encode_chunks(
    tokenizer: Tokenizer, chunks: Iterable[bytes], utf8: Utf8Decoder
) -> Iterator[tuple[np.ndarray, int]]:
    """Tokens of a document, `PIECE` characters at a time, and the bytes of text they stand for."""
    if isinstance(tokenizer, ByteTokenizer):
        yield from ((np.frombuffer(chunk, np.uint8), len(chunk)) for chunk in chunks)
    else:
        for piece, tokens in tokenizer.encode_all(split_text(utf8.decode_all(chunks), PIECE)):
            yield np.array(tokens, np.int64), len(piece.encode())


def split_text(texts: Iterable[str], size: int) -> Iterator[str]:
    """The joined texts in pieces of at most `size` characters, which depend on the whole alone.

    A piece ends after the last line end between two visible characters, where a tokenizer begins
    a new word anyway; without such a place, after any white space.
    """
    rest = ""
    for text in texts:
        rest += text
        while len(rest) > size:
            end = piece_end(rest, size)
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def piece_end(text: str, size: int) -> int:
    """The number of characters, at most `size`, of the first piece of a longer text."""
    end = text.rfind("\n", 1, size)
    while end > 0:
        if not text[end - 1].isspace() and not text[end + 1].isspace():
            return end + 1
        end = text.rfind("\n", 1, end)
    space = max(text.rfind(mark, 0, size) for mark in " \n\t")
    return space + 1 if space >= 0 else size
