"""Work items of a corpus: groups of files, each turned into shards by one process.

A work item is finished when its record exists, which is written last. Its shards depend on its
files and the options alone, not on the process or the time.
"""

import hashlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tttvideo.data.tokens import TokenWriter, file_hash, token_writer
from tttvideo.files import read_json, write_json
from tttvideo.progress import Advance

from .documents import (
    Document,
    Malformed,
    Utf8Decoder,
    encode_chunks,
    read_documents,
    text_header,
)
from .tokenizer import Tokenizer, load_tokenizer


PARTS = ("train", "validation")
LISTED = 100  # faults whose places are recorded; all are counted


@dataclass(frozen=True)
class Source:
    """A file to read."""

    path: Path
    size: int
    changed: int  # time of the last change in nanoseconds: a changed file may keep its size
    part: str | None = None  # "train" or "validation"; None: by the content of each document


@dataclass(frozen=True)
class Options:
    """Settings that fix the content of a corpus, together with its files and tokenizer."""

    field: str = "text"
    validation: float = 0.0
    seed: int = 0
    shard_tokens: int = 1 << 26


@dataclass(frozen=True)
class Job:
    """The arguments common to all work items of a corpus."""

    folder: Path
    options: Options
    tokenizer: str
    tokenizer_json: str | None


@dataclass
class Faults:
    """The number of faults in the input, and the places of the first."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        self.count += 1
        if self.count <= LISTED:
            self.first.append(place)


@dataclass
class Counts:
    """Counts over the files of a work item."""

    lines: int = 0
    empty: int = 0
    malformed: Faults = field(default_factory=Faults)
    damaged: Faults = field(default_factory=Faults)


def document_part(head: bytes, options: Options) -> str:
    """The part of the corpus for a document, chosen by its first chunk and the seed alone."""
    digest = hashlib.sha256(f"{options.seed} ".encode() + head).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "validation" if share < options.validation else "train"


def read_by_part(
    sources: Iterable[Source], options: Options, counts: Counts, advance: Advance
) -> Iterator[tuple[str, Document]]:
    """The documents of files, each with its part.

    Malformed lines and empty documents are left out and added to `counts`.
    """
    for source in sources:
        for document in read_documents(source.path, options.field, advance):
            counts.lines += isinstance(document, Malformed) or document.is_line
            if isinstance(document, Malformed):
                counts.malformed.add(f"{document.place} {document.reason}")
            elif head := next(document.chunks, b""):
                whole = replace(document, chunks=chain([head], document.chunks))
                yield source.part or document_part(head, options), whole
            else:
                counts.empty += 1


class Shards(ExitStack):
    """The shards of one part of a work item; a shard with enough tokens is followed by another."""

    def __init__(self, job: Job, tokenizer: Tokenizer, name: str):
        super().__init__()
        self.job, self.tokenizer, self.name = job, tokenizer, name
        self.records: list[dict[str, Any]] = []
        self.writer: TokenWriter | None = None
        self.bytes = 0

    def write(self, document: Document) -> bool:
        """Append a document; returns whether it had bytes that are no UTF-8."""
        if self.writer and self.writer.count >= self.job.options.shard_tokens:
            self.end_shard()
        if not self.writer:
            self.path = self.job.folder / f"{self.name}.{len(self.records):05}.bin"
            header = text_header(self.tokenizer)
            self.writer = self.enter_context(token_writer(self.path, header))
        utf8 = Utf8Decoder()
        self.writer.start_document()
        self.writer.write(np.array([self.tokenizer.bos]))
        for tokens, size in encode_chunks(self.tokenizer, document.chunks, utf8):
            self.writer.write(tokens)
            self.bytes += size
        self.writer.write(np.array([self.tokenizer.eos]))
        return utf8.damaged

    def end_shard(self) -> None:
        """Close the open shard, if there is one, and add it to the records."""
        if self.writer:
            self.close()
            tokens, documents = self.writer.count, len(self.writer.starts)
            facts = {"file": self.path.name, "tokens": tokens, "documents": documents}
            self.records.append(facts | {"bytes": self.bytes, "sha256": file_hash(self.path)})
        self.writer, self.bytes = None, 0


def record_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.json"


def prepare_item(
    job: Job, tokenizer: Tokenizer, number: int, sources: Sequence[Source], advance: Advance
) -> None:
    """Turn the files of a work item into shards, then write its record."""
    counts = Counts()
    shards = {part: Shards(job, tokenizer, f"{number:05}.{part}") for part in PARTS}
    with shards["train"], shards["validation"]:
        for part, document in read_by_part(sources, job.options, counts, advance):
            if shards[part].write(document):
                counts.damaged.add(document.place)
        for written in shards.values():
            written.end_shard()
    records = {part: written.records for part, written in shards.items()}
    write_json(record_path(job.folder, number), {"shards": records, **asdict(counts)})


def is_finished(folder: Path, number: int) -> bool:
    """Whether a work item's record exists, and the shards it names are whole (or already moved).

    A record that cannot be read counts as missing: a power cut may leave it empty.
    """
    try:
        shards = read_json(record_path(folder, number), "")["shards"]
    except (FileNotFoundError, ValueError):
        return False
    listed = [(folder / s["file"], s["sha256"]) for part in shards.values() for s in part]
    return all(file_hash(file) == sha256 for file, sha256 in listed if file.exists())


def prepare_items(
    job: Job, items: Mapping[int, Sequence[Source]], workers: int, advance: Advance
) -> None:
    """Prepare work items by number, in this process if one worker is enough, else in several.

    Raises the error of a work item, and OSError when a process died.
    """
    if min(workers, len(items)) > 1:
        prepare_in_processes(job, items, workers, advance)
        return
    tokenizer = load_tokenizer(job.tokenizer, job.tokenizer_json)
    for number, sources in items.items():
        prepare_item(job, tokenizer, number, sources, advance)


def prepare_in_processes(
    job: Job, items: Mapping[int, Sequence[Source]], workers: int, advance: Advance
) -> None:
    context = get_context("spawn")  # a fork may inherit locks that the progress bar holds
    bytes_read, stop = context.Value("q"), context.Event()
    arguments = (job, bytes_read, stop)
    pool = ProcessPoolExecutor(min(workers, len(items)), context, Worker.start, arguments)
    with pool:
        try:
            waiting = {pool.submit(Worker.prepare, *item) for item in items.items()}
            reported = 0
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                now = bytes_read.value
                advance(now - reported)
                reported = now
                for item in done:
                    item.result()
        except BrokenProcessPool as error:
            raise OSError(
                "a worker process died, perhaps from lack of memory; run the command again with "
                "fewer --workers to resume"
            ) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


class Worker:
    """The state of a worker process."""

    job: ClassVar[Job]
    tokenizer: ClassVar[Tokenizer]
    bytes_read: ClassVar[Any]  # a number that all workers share, with its lock
    stop: ClassVar[Any]  # an event, set when another work item failed

    @classmethod
    def start(cls, job: Job, bytes_read: Any, stop: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process stops the workers
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
        threading.Thread(target=end_with_parent, daemon=True).start()
        cls.job, cls.bytes_read, cls.stop = job, bytes_read, stop
        cls.tokenizer = load_tokenizer(job.tokenizer, job.tokenizer_json)

    @classmethod
    def prepare(cls, number: int, sources: Sequence[Source]) -> None:
        prepare_item(cls.job, cls.tokenizer, number, sources, cls.advance)

    @classmethod
    def advance(cls, count: int) -> None:
        if cls.stop.is_set():
            raise InterruptedError("another work item failed")
        with cls.bytes_read.get_lock():
            cls.bytes_read.value += count


def end_with_parent() -> None:
    """End this process with its parent, or it would write beside the workers of the next run."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
