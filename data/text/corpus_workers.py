"""Units of work of a corpus: some of its files, turned into shards by one process.

A unit is finished when its record is there, which is written last. What a unit writes depends on
its files and the options alone, and not on who works on it, or when.
"""

import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from tttvideo.data.tokens import TokenWriter, file_hash
from tttvideo.files import write_json

from .documents import Advance, Document, Malformed, Utf8, documents, pieces, text_header
from .tokenizer import ByteTokenizer, Tokenizer, load_tokenizer


PIECE = 1 << 20  # characters that are tokenised at once
LISTED = 100  # offenders that are named; all are counted


@dataclass(frozen=True)
class Source:
    """A file to read."""

    path: Path
    size: int
    changed: int  # when, in nanoseconds: a file of the same size may hold another text
    part: str | None = None  # "train" or "validation"; None: each document by its content


@dataclass(frozen=True)
class Options:
    """What decides, with the files and the tokenizer, what a corpus holds."""

    field: str = "text"
    validation: float = 0.0
    seed: int = 0
    shard_tokens: int = 1 << 26


@dataclass(frozen=True)
class Job:
    """What all units of a corpus share; goes to the workers."""

    folder: Path
    options: Options
    tokenizer: str
    tokenizer_json: str | None


def document_part(head: bytes, options: Options) -> str:
    """The part of the corpus for a document that begins with `head`, by that and the seed alone."""
    digest = hashlib.sha256(f"{options.seed} ".encode() + head).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "validation" if share < options.validation else "train"


def sorted_documents(
    sources: Iterable[Source], options: Options, advance: Advance
) -> Iterator[tuple[str, Document | Malformed]]:
    """What is in files, each with where it goes: train, validation, empty or malformed."""
    for source in sources:
        for document in documents(source.path, options.field, advance):
            if isinstance(document, Malformed):
                yield "malformed", document
            elif head := next(document.chunks, b""):
                whole = replace(document, chunks=chain([head], document.chunks))
                yield source.part or document_part(head, options), whole
            else:
                yield "empty", document


class Shards(ExitStack):
    """The shards of one part of one unit; a new one begins when the last has enough tokens."""

    def __init__(self, job: Job, tokenizer: Tokenizer, name: str):
        super().__init__()
        self.job, self.tokenizer, self.name = job, tokenizer, name
        self.header = text_header(tokenizer)
        self.records: list[dict[str, Any]] = []
        self.writer: TokenWriter | None = None
        self.bytes = 0

    def write(self, document: Document) -> bool:
        """Append a document; returns whether it was damaged."""
        if self.writer and self.writer.count >= self.job.options.shard_tokens:
            self.finish()
        if not self.writer:
            path = self.job.folder / f"{self.name}.{len(self.records):05}.bin"
            self.writer = self.enter_context(TokenWriter(path, self.header))
        utf8 = Utf8()
        self.writer.start_document()
        self.writer.write(np.array([self.tokenizer.bos]))
        for tokens, size in self.encoded(document.chunks, utf8):
            self.writer.write(tokens)
            self.bytes += size
        self.writer.write(np.array([self.tokenizer.eos]))
        return utf8.damaged

    def encoded(self, chunks: Iterable[bytes], utf8: Utf8) -> Iterator[tuple[np.ndarray, int]]:
        """Tokens of a document piece by piece, and the bytes of text that they stand for."""
        if isinstance(self.tokenizer, ByteTokenizer):
            yield from ((np.frombuffer(chunk, np.uint8), len(chunk)) for chunk in chunks)
        else:
            for piece, tokens in self.tokenizer.encode_all(pieces(utf8.all(chunks), PIECE)):
                yield np.array(tokens, np.int64), len(piece.encode())

    def finish(self) -> None:
        if self.writer:
            self.close()
            path, count = self.writer.path, self.writer.count
            facts = {"file": path.name, "tokens": count, "documents": len(self.writer.starts)}
            self.records.append(facts | {"bytes": self.bytes, "sha256": file_hash(path)})
        self.writer, self.bytes = None, 0


def record_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.json"


class Listed:
    """Counts what is wrong, and keeps the first."""

    def __init__(self):
        self.count, self.first = 0, []

    def add(self, place: str) -> None:
        self.count += 1
        self.first += [place] if self.count <= LISTED else []


def do_unit(
    job: Job, tokenizer: Tokenizer, number: int, sources: Sequence[Source], advance: Advance
) -> None:
    """Turn the files of a unit into shards, then write its record."""
    lines, empty, malformed, damaged = 0, 0, Listed(), Listed()
    train = Shards(job, tokenizer, f"{number:05}.train")
    validation = Shards(job, tokenizer, f"{number:05}.validation")
    shards = {"train": train, "validation": validation}
    with train, validation:
        for goes, found in sorted_documents(sources, job.options, advance):
            lines += goes == "malformed" or found.is_line
            empty += goes == "empty"
            if goes == "malformed":
                malformed.add(f"{found.place} {found.reason}")
            elif goes in shards and shards[goes].write(found):
                damaged.add(found.place)
        for written in shards.values():
            written.finish()
    record = {
        "shards": {part: written.records for part, written in shards.items()},
        "lines": lines,
        "empty": empty,
        "malformed": vars(malformed),
        "damaged": vars(damaged),
    }
    write_json(record_path(job.folder, number), record)


def is_finished(folder: Path, number: int) -> bool:
    """Whether a unit's record is there, with the shards that it names (or they were moved on).

    A record that cannot be read is none: a power cut may leave it empty.
    """
    try:
        shards = json.loads(record_path(folder, number).read_text(encoding="utf-8"))["shards"]
    except (FileNotFoundError, ValueError):
        return False
    there = [
        (folder / shard["file"], shard["sha256"]) for part in shards.values() for shard in part
    ]
    return all(file_hash(file) == sha256 for file, sha256 in there if file.exists())


def do_units(job: Job, units: dict[int, Sequence[Source]], workers: int, advance: Advance) -> None:
    """Do units by number, in this process when one worker is enough, else in processes.

    Raises what a unit raises, and OSError when a process died.
    """
    if min(workers, len(units)) <= 1:
        tokenizer = load_tokenizer(job.tokenizer, job.tokenizer_json)
        for number, sources in units.items():
            do_unit(job, tokenizer, number, sources, advance)
        return
    context = get_context("spawn")  # a fork may inherit locks that the progress bar holds
    read, stop = context.Value("q"), context.Event()
    pool = ProcessPoolExecutor(min(workers, len(units)), context, Worker.start, (job, read, stop))
    with pool:
        try:
            waiting = {pool.submit(Worker.do, *unit) for unit in units.items()}
            shown = 0
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                now = read.value
                advance(now - shown)
                shown = now
                for unit in done:
                    unit.result()
        except BrokenProcessPool as error:
            raise OSError(
                "a worker process died, perhaps for want of memory; start the command again to "
                "go on, with fewer --workers"
            ) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


class Worker:
    """What a worker process holds."""

    @classmethod
    def start(cls, job: Job, read: Any, stop: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process says when to stop
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
        threading.Thread(target=end_with_parent, daemon=True).start()
        cls.job, cls.read, cls.stop = job, read, stop
        cls.tokenizer = load_tokenizer(job.tokenizer, job.tokenizer_json)

    @classmethod
    def do(cls, number: int, sources: Sequence[Source]) -> None:
        do_unit(cls.job, cls.tokenizer, number, sources, cls.advance)

    @classmethod
    def advance(cls, count: int) -> None:
        if cls.stop.is_set():
            raise InterruptedError("another unit failed")
        with cls.read.get_lock():
            cls.read.value += count


def end_with_parent() -> None:
    """A killed parent cannot stop its workers, and they would write beside those of the next."""
    parent_process().join()
    os._exit(1)
