"""Text files in: documents of .txt, .jsonl (also .gz and .zst) and .parquet files, as streams.

A document comes as chunks of UTF-8, so that none has to fit into memory, except where its format
asks for that: a line of JSON, or a cell of a table.
"""

import codecs
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any, TypeVar

from tttvideo.data.tokens import Header

from .tokenizer import ByteTokenizer, Tokenizer


TEXT_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
CHUNK = 1 << 20  # bytes of a document at a time

Advance = Callable[[int], None]
Thing = TypeVar("Thing")


def text_header(tokenizer: Tokenizer) -> Header:
    """Header of a token file of text."""
    return Header(
        kind="text",
        tokenizer=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        bos=tokenizer.bos,
        eos=tokenizer.eos,
    )


BYTES = text_header(ByteTokenizer())


def find_files(inputs: Iterable[str | Path], suffixes: tuple[str, ...]) -> list[Path]:
    """The files named, and in sorted order those below folders, or of globs, that end in a suffix.

    Each comes once, where it is named first.
    Raises ValueError for a path that is not there, for an empty file, and for a folder or a glob
    without such a file.
    """
    files: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir() or (not path.exists() and has_magic(str(path))):
            found = path.rglob("*") if path.is_dir() else map(Path, glob(str(path), recursive=True))
            fitting = sorted(file for file in found if fits(file, suffixes))
            if not fitting:
                what = "folder" if path.is_dir() else "pattern"
                raise ValueError(
                    f"the {what} {path} has no file that ends in {', '.join(suffixes)}"
                )
            files += fitting
        elif not path.exists():
            raise ValueError(f"there is no file or folder {path}")
        elif not path.stat().st_size:
            raise ValueError(f"{path} is empty; leave it out or put something into it")
        else:
            files.append(path)
    return once(files, key=Path.resolve)


def once(things: Iterable[Thing], key: Callable[[Thing], Any]) -> list[Thing]:
    """The things without those whose key was there before."""
    first: dict[Any, Thing] = {}
    for thing in things:
        first.setdefault(key(thing), thing)
    return list(first.values())


def fits(path: Path, suffixes: tuple[str, ...]) -> bool:
    """A file of such a kind, and not the shadow that some systems write beside it."""
    name = path.name.lower()
    return name.endswith(suffixes) and path.is_file() and not name.startswith("._")


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


def documents(path: Path, field: str, advance: Advance) -> Iterator[Document | Malformed]:
    """The documents of a file, one after another; each must be read before the next.

    field: of the JSON objects, or column of the table, that holds the text.
    advance: called with the bytes of the file as they are read.
    Raises ValueError for a file that is not what its name says.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from rows(path, field, advance)
    elif name.endswith(TEXT_SUFFIXES[1:]):
        for number, line in enumerate(lines(opened(path, advance)), 1):
            if line.strip():
                yield from_line(line, field, f"{path}:{number}")
    else:
        yield Document(str(path), read(path, advance))


def read(path: Path, advance: Advance) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
            advance(len(chunk))


def opened(path: Path, advance: Advance) -> Iterator[bytes]:
    """The content of a file, unpacked when its name says that it is packed."""
    chunks = read(path, advance)
    if path.name.lower().endswith(".gz"):
        return unpacked(path, chunks, lambda: zlib.decompressobj(wbits=31), b"\0")
    if path.name.lower().endswith(".zst"):
        import zstandard

        unpack = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
        return unpacked(path, chunks, unpack)
    return chunks


def unpacked(
    path: Path, chunks: Iterable[bytes], new: Callable[[], Any], padding: bytes = b""
) -> Iterator[bytes]:
    """Packed chunks unpacked; `new` makes an unpacker of one stream, and there may be several.

    padding: bytes that may follow a stream and are skipped.
    """
    import zstandard

    unpacker = new()
    try:
        for chunk in chunks:
            while chunk := chunk.lstrip(padding) if unpacker.eof else chunk:
                if unpacker.eof:
                    unpacker = new()
                head, chunk = chunk[: CHUNK >> 4], chunk[CHUNK >> 4 :]  # bounds what comes out
                yield unpacker.decompress(head)
                chunk = (unpacker.unused_data if unpacker.eof else b"") + chunk
    except (zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from error
    if not unpacker.eof:
        raise ValueError(f"{path} is cut off: its packed stream has no end; fetch it again")


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends; \\n alone ends one, as in JSON lines."""
    rest: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        if others:
            yield b"".join(rest)
            yield from others[:-1]
            rest = others[-1:]
    yield b"".join(rest)


def from_line(line: bytes, field: str, place: str) -> Document | Malformed:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Malformed(place, f"is no UTF-8 ({error.reason} at byte {error.start})")
    except (ValueError, RecursionError) as error:
        return Malformed(place, f"is no JSON ({error})")
    if not isinstance(record, dict) or field not in record:
        return Malformed(place, f"has no field {field!r}")
    return from_value(record[field], field, place)


def from_value(value: Any, field: str, place: str) -> Document | Malformed:
    if not isinstance(value, str):
        return Malformed(place, f"has no string in {field!r} but {type(value).__name__}")
    try:
        data = value.encode()
    except UnicodeEncodeError:
        return Malformed(place, f"has half a surrogate pair in {field!r}")
    return Document(place, (data[i : i + CHUNK] for i in range(0, len(data), CHUNK)), True)


def rows(path: Path, field: str, advance: Advance) -> Iterator[Document | Malformed]:
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
                    yield from_value(cell.as_py(), field, f"{path}:{number}")
                advance(size * (group + 1) // count - size * group // count)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as parquet: {reason}") from error


class Utf8:
    """Chunks of UTF-8 to text; what is none becomes U+FFFD, and `damaged` then says so."""

    def __init__(self):
        self.decoder, self.damaged = codecs.getincrementaldecoder("utf-8")("strict"), False

    def __call__(self, chunk: bytes, final: bool = False) -> str:
        state = self.decoder.getstate()
        try:
            return self.decoder.decode(chunk, final)
        except UnicodeDecodeError:
            self.damaged = True
            self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
            self.decoder.setstate(state)
            return self.decoder.decode(chunk, final)

    def all(self, chunks: Iterable[bytes]) -> Iterator[str]:
        yield from map(self, chunks)
        yield self(b"", final=True)


def pieces(texts: Iterable[str], size: int) -> Iterator[str]:
    """A text that comes in parts, in pieces of at most `size` characters that depend on it alone.

    They are cut after the last line end that stands between two visible characters, where a
    tokenizer begins a new word anyway; failing that, after any white space.
    """
    rest = ""
    for text in texts:
        rest += text
        while len(rest) > size:
            end = last_cut(rest, size)
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def last_cut(text: str, size: int) -> int:
    """Where to cut the first `size` characters or fewer off a longer text."""
    end = text.rfind("\n", 1, size)
    while end > 0:
        if not text[end - 1].isspace() and not text[end + 1].isspace():
            return end + 1
        end = text.rfind("\n", 1, end)
    space = max(text.rfind(mark, 0, size) for mark in " \n\t")
    return space + 1 if space >= 0 else size
