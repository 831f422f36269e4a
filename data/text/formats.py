"""Documents of files, by the suffix: one table of formats, each of which may be packed.

A file of text is a document; those of JSON and CSV, and tables, hold many. All are read as a
stream: what must fit into memory is one line, record or cell.
"""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tttvideo.progress import Advance

from .documents import Document, Malformed
from .unpack import PACKINGS, cut, open_chunks, split_lines


csv.field_size_limit((1 << 31) - 1)  # bytes of a cell; 131,072 unless it is set
Documents = Iterator[Document | Malformed]


def read_documents(path: Path, field: str, advance: Advance) -> Documents:
    """The documents of a file, in order; each must be read before the next.

    field: the key of the JSON objects, or the column of the table, that holds the text; "a.b" is
        the key b inside a, unless there is a key "a.b". Ignored for files that are one document.
    advance: called with the number of bytes of the file after each read.
    Raises: ValueError for a file whose content is not of the format of its suffix.
    """
    return FORMATS.get(format_of(path), text_document)(path, field, advance)


def format_of(path: Path) -> str:
    """The suffix of a file before that of its packing."""
    name = Path(path.name.lower())
    return (Path(name.stem) if name.suffix in PACKINGS else name).suffix


def text_document(path: Path, field: str, advance: Advance) -> Documents:
    """A whole file."""
    yield Document(str(path), open_chunks(path, advance))


def json_lines(path: Path, field: str, advance: Advance) -> Documents:
    """The lines of a file, except blank ones; each is a record."""
    for number, line in enumerate(split_lines(open_chunks(path, advance)), 1):
        if line.strip():
            yield line_document(line, field, f"{path}:{number}")


def line_document(line: bytes, field: str, place: str) -> Document | Malformed:
    """The document in a line of JSON."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Malformed(place, f"is no UTF-8 ({error.reason} at byte {error.start})")
    except (ValueError, RecursionError) as error:
        return Malformed(place, f"is no JSON ({error})")
    return record_document(record, field, place)


def record_document(record: Any, field: str, place: str) -> Document | Malformed:
    """The document in a record: a field of an object, or a string."""
    if isinstance(record, str):
        return value_document(record, "it", place)
    try:
        return value_document(value_of(record, field), repr(field), place)
    except LookupError:
        return Malformed(place, f"has no field {field!r}")


def value_of(record: Any, field: str) -> Any:
    """The value of a field, or of "a.b", b inside a. Raises LookupError if there is none."""
    if isinstance(record, dict) and field in record:
        return record[field]
    for name in field.split("."):
        if not isinstance(record, dict):
            raise LookupError(field)
        record = record[name]
    return record


def value_document(value: Any, name: str, place: str) -> Document | Malformed:
    """The document that is a value; name: what holds it."""
    if not isinstance(value, str):
        return Malformed(place, f"has no string in {name} but {type(value).__name__}")
    try:
        return Document(place, cut(value.encode()))
    except UnicodeEncodeError as error:
        wrong = ord(value[error.start])
        if 0xDC80 <= wrong <= 0xDCFF:  # what the handler surrogateescape makes of a byte
            return Malformed(place, f"is no UTF-8 (byte {wrong - 0xDC00:#x} in {name})")
        return Malformed(place, f"has half a surrogate pair in {name}")


def json_records(path: Path, field: str, advance: Advance) -> Documents:
    """The records of a list, or those that follow one another, often a single one."""
    pieces, number = codecs.iterdecode(open_chunks(path, advance), "utf-8", "surrogateescape"), 0
    try:
        for number, record in enumerate(JsonValues(pieces), 1):
            yield record_document(record, field, f"{path}:{number}")
    except (json.JSONDecodeError, RecursionError) as error:
        reason = getattr(error, "msg", error)
        raise ValueError(
            f"{path} cannot be read as JSON: {reason}, in record {number + 1}; repair the file, or "
            "leave it out"
        ) from error


class JsonValues:
    """The values of JSON that comes in pieces: the elements of a list, or values in a row.

    Raises: JSONDecodeError where the text is no JSON, or ends before a value does.
    """

    def __init__(self, pieces: Iterator[str]):
        self.pieces, self.text, self.place = pieces, "", 0
        self.parse = json.JSONDecoder().raw_decode

    def __iter__(self) -> Iterator[Any]:
        if self.peek() == "[":
            yield from self.elements()
        while self.peek():
            yield self.value()

    def elements(self) -> Iterator[Any]:
        self.place += 1
        if self.peek() == "]":
            self.place += 1
            return
        while True:
            yield self.value()
            mark = self.peek()
            self.place += 1
            if mark == "]":
                return
            if mark != ",":
                raise json.JSONDecodeError("Expecting ',' or ']'", self.text, self.place)

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            self.place = SPACE.match(self.text, self.place).end()  # type: ignore[union-attr]
            if self.place < len(self.text) or not self.more():
                return self.text[self.place : self.place + 1]

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self.parse(self.text, self.place)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated") or error.pos > len(self.text) - 16
                if cut_off and self.more():
                    continue
                raise
            if end == len(self.text) and self.more():  # a number may go on
                continue
            self.place = end
            return value

    def more(self) -> bool:
        """Read on, and at least as much as waits here, so that a long value is parsed few times."""
        parts, size = [self.text[self.place :]], 0
        for piece in self.pieces:
            parts.append(piece)
            size += len(piece)
            if size and size >= len(parts[0]):
                break
        self.text, self.place = "".join(parts), 0
        return size > 0


SPACE = re.compile(r"[ \t\r\n]*")


def csv_rows(path: Path, field: str, advance: Advance) -> Documents:
    """The cells of a column; the first row has the names of the columns."""
    lines = split_lines(open_chunks(path, advance))
    rows = csv.reader((line.decode(errors="surrogateescape") + "\n" for line in lines), strict=True)
    begin = 1  # of a row
    try:
        names = next(rows, [])
        column, begin = column_of(path, field, names), rows.line_num + 1
        for row in rows:
            place, begin = f"{path}:{begin}", rows.line_num + 1
            if len(row) > column:
                yield value_document(row[column], repr(field), place)
            elif row:
                yield Malformed(place, f"has no field {field!r}")
    except csv.Error as error:
        raise ValueError(f"{path}:{begin} cannot be read as CSV: {error}") from error


def column_of(path: Path, field: str, names: list[str]) -> int:
    """The place of a column. Raises ValueError if there is none of this name."""
    if field not in names:
        raise ValueError(f"{path} has no column {field!r}; choose --field from {', '.join(names)}")
    return names.index(field)


def parquet_rows(path: Path, field: str, advance: Advance) -> Documents:
    """The cells of a column of a parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{path} needs pyarrow: pip install 'tttvideo[parquet]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            column = field if field in names else field.split(".")[0]
            column_of(path, column, names)
            number, count = 0, table.num_row_groups
            size = path.stat().st_size
            for group in range(count):
                for batch in table.iter_batches(256, [group], [field], use_threads=False):
                    for record in batch.to_pylist():
                        number += 1
                        yield record_document(record, field, f"{path}:{number}")
                advance(size * (group + 1) // count - size * group // count)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as parquet: {reason}") from error


FORMATS: dict[str, Callable[[Path, str, Advance], Documents]] = {
    ".txt": text_document,
    ".md": text_document,
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_records,
    ".csv": csv_rows,
    ".parquet": parquet_rows,
}
SUFFIXES = (
    *(form + packing for form in FORMATS if form != ".parquet" for packing in ("", *PACKINGS)),
    ".parquet",
)
SUFFIX_NAMES = f"{', '.join(FORMATS)}, or such a one packed ({', '.join(PACKINGS)})"
