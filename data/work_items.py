"""Work items of a corpus: groups of sources, each turned into shards by one process.

A work item is finished when its record exists, which is written last. Its shards depend on its
sources and the options alone, not on the process or the time.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tttvideo.files import read_json, write_json
from tttvideo.progress import Advance

from .inputs import DISK
from .tokens import Header, TokenWriter, condition_path, file_hash, token_writer


PARTS = ("train", "validation")

Prepare = Callable[[int, Iterable[Any], Advance], dict[str, Any]]
"""Turns the sources of a numbered work item into shards; returns its record, whose "shards" are
lists by part."""


class Job(Protocol):
    """What is common to all work items of a corpus; it is sent to other processes."""

    @property
    def folder(self) -> Path:
        """The folder to write to."""

    @property
    def patience(self) -> float | None:
        """Seconds after which a process that does not get on with a source has failed; None: any
        number."""

    def open(self) -> Prepare:
        """Load what a process needs once."""

    def exclude(self, suspects: Sequence[Any]) -> bool:
        """Leave out those of the sources that end the process; returns whether there are any."""


class EmptyShard(Exception):
    """Ends the writing of a shard so that no file is left."""


class Shards(AbstractContextManager):
    """The shards of one part of a work item; a shard with enough tokens is followed by another.

    unit: what `size` counts in a shard, such as bytes.
    """

    def __init__(self, folder: Path, name: str, header: Header, most_tokens: int, unit: str):
        self.files = ExitStack()
        self.folder, self.name, self.header = folder, name, header
        self.most_tokens, self.unit, self.size = most_tokens, unit, 0
        self.records: list[dict[str, Any]] = []
        self.writer: TokenWriter | None = None

    def __exit__(self, *error: Any) -> None:
        self.files.__exit__(*error)

    def next_writer(self) -> TokenWriter:
        """The writer of the shard that the next document belongs to."""
        if self.writer and self.writer.count >= self.most_tokens:
            self.end_shard()
        if not self.writer:
            self.path = self.folder / f"{self.name}.{len(self.records):05}.bin"
            self.writer = self.files.enter_context(token_writer(self.path, self.header))
        return self.writer

    def end_shard(self) -> None:
        """Close the open shard, if there is one; it is kept and recorded if it has a document."""
        if self.writer and not self.writer.starts:
            with suppress(EmptyShard), self.files.pop_all():
                raise EmptyShard
        elif self.writer:
            self.files.close()
            tokens, documents = self.writer.count, len(self.writer.starts)
            facts = {"file": self.path.name, "tokens": tokens, "documents": documents}
            hashes = self.writer.hashes
            self.records.append(facts | {self.unit: self.size, "sha256": hashes[self.path]})
            if names := self.header.conditions:
                arrays = {name: hashes[condition_path(self.path, name)] for name in names}
                self.records[-1]["arrays"] = arrays
        self.writer, self.size = None, 0


def shard_files(shard: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The name and the hash of each file of a shard."""
    yield shard["file"], shard["sha256"]
    for name, sha256 in shard.get("arrays", {}).items():
        yield str(condition_path(Path(shard["file"]), name)), sha256


def record_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.json"


def prepare_item(
    job: Job, prepare: Prepare, number: int, sources: Iterable[Any], advance: Advance
) -> None:
    """Turn the sources of a work item into shards, then write its record."""
    write_json(record_path(job.folder, number), prepare(number, sources, advance))


def is_finished(folder: Path, number: int) -> bool:
    """Whether a work item's record exists, and the shards it names are whole (or already moved).

    A record that cannot be read counts as missing: a power cut may leave it empty.
    """
    try:
        parts = read_json(record_path(folder, number), "")["shards"].values()
    except (FileNotFoundError, ValueError):
        return False
    listed = [file for part in parts for shard in part for file in shard_files(shard)]
    files = ((folder / name, sha256) for name, sha256 in listed)
    return all(file_hash(file) == sha256 for file, sha256 in files if file.exists())


class WorkerDied(OSError):
    """A worker process ended within a work item; `suspects` are the sources that were read then."""

    def __init__(self, suspects: Sequence[Any]):
        super().__init__(
            "a worker process died, perhaps from lack of memory; run the command again with "
            "fewer --workers to resume"
        )
        self.suspects = suspects


def prepare_items(
    job: Job, items: Mapping[int, Sequence[Any]], workers: int, advance: Callable[..., None]
) -> None:
    """Prepare work items by number, in this process if one worker is enough, else in several.

    Sources that may end or stop the process which reads them, of a job with patience, are read in
    other processes only.

    advance: gets the bytes read since the last call, and how many units they held.
    Raises the error of a work item, and WorkerDied.
    """
    if job.patience or min(workers, len(items)) > 1:
        prepare_in_processes(job, items, workers, advance)
        return
    prepare = job.open()
    for number, sources in items.items():
        prepare_item(job, prepare, number, sources, advance)


def prepare_in_processes(
    job: Job, items: Mapping[int, Sequence[Any]], workers: int, advance: Callable[..., None]
) -> None:
    context = get_context("spawn")  # a fork may inherit locks that the progress bar holds
    board = Board(context, min(workers, len(items)))
    pool = ProcessPoolExecutor(board.workers, context, Worker.start, (job, board))
    with pool:
        try:
            with without_interrupts():
                waiting = {pool.submit(Worker.prepare, *item) for item in items.items()}
            reported = (0, 0)
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                now = board.counts()
                advance(*(new - old for new, old in zip(now, reported, strict=True)))
                reported = now
                for item in done:
                    item.result()
                board.end_hanging(job.patience)
        except BrokenProcessPool as error:
            raise WorkerDied([items[n][place] for n, place in board.being_read()]) from error
        finally:
            board.stop.value = True
            late = threading.Timer(GRACE, board.end_all)
            late.start()
            pool.shutdown(cancel_futures=True)
            late.cancel()


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Let processes that start here ignore Ctrl-C from their first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


GRACE = 5  # seconds in which workers that were stopped end by themselves

PID, ITEM, SOURCE, SIZE, SECONDS, BYTES, UNITS = range(7)
"""Columns of a worker's row on the board: its process; what it reads, and the bytes of that; when
it last got on; and how much it has read."""
COLUMNS = 7
IDLE = -1  # of ITEM


class Board:
    """What the workers tell, in memory that all processes share.

    It is without locks, which a worker that dies would hold for ever: each writes its own row.
    """

    def __init__(self, context: Any, workers: int):
        self.workers = workers
        self.stop = context.RawValue("b")  # true when a work item failed
        self.started = context.Value("q")
        self.memory = context.RawArray("q", [0, IDLE, 0, 0, 0, 0, 0] * workers)

    def rows(self) -> list[list[int]]:
        return [self.memory[at : at + COLUMNS] for at in range(0, len(self.memory), COLUMNS)]

    def counts(self) -> tuple[int, int]:
        """Bytes and units that were read."""
        rows = self.rows()
        return sum(row[BYTES] for row in rows), sum(row[UNITS] for row in rows)

    def being_read(self) -> list[tuple[int, int]]:
        """(item, place) of the sources that workers are at, or were at when they ended."""
        return [(row[ITEM], row[SOURCE]) for row in self.rows() if row[ITEM] != IDLE]

    def end_hanging(self, patience: float | None) -> None:
        """Kill the workers that have not got on with a source for `patience` seconds.

        A source may take longer by its bytes: a worker reports nothing while it opens a file.
        """
        for row in self.rows():
            late = time.monotonic() - row[SECONDS]
            if patience and row[ITEM] != IDLE and late > patience + row[SIZE] / DISK:
                os.kill(row[PID], signal.SIGKILL)

    def end_all(self) -> None:
        """Kill the workers that still live."""
        processes = {row[PID] for row in self.rows()}
        for child in active_children():
            if child.pid in processes:
                child.kill()


class Worker:
    """The state of a worker process."""

    job: ClassVar[Job]
    run: ClassVar[Prepare]
    board: ClassVar[Board]
    row: ClassVar[int]  # where its row begins

    @classmethod
    def start(cls, job: Job, board: Board) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process stops the workers
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
        threading.Thread(target=end_with_parent, daemon=True).start()
        with board.started.get_lock():
            cls.row = COLUMNS * board.started.value
            board.started.value += 1
        cls.job, cls.board = job, board
        cls.write(PID, os.getpid())
        cls.run = staticmethod(job.open())

    @classmethod
    def write(cls, column: int, value: int) -> None:
        cls.board.memory[cls.row + column] = value

    @classmethod
    def prepare(cls, number: int, sources: Sequence[Any]) -> None:
        prepare_item(cls.job, cls.run, number, cls.noted(number, sources), cls.advance)
        cls.write(ITEM, IDLE)

    @classmethod
    def noted(cls, number: int, sources: Sequence[Any]) -> Iterator[Any]:
        for place, source in enumerate(sources):
            cls.check_stop()
            cls.write(ITEM, IDLE)  # until the row is whole
            cls.write(SOURCE, place)
            cls.write(SIZE, source.size)
            cls.write(SECONDS, int(time.monotonic()))
            cls.write(ITEM, number)
            yield source

    @classmethod
    def advance(cls, size: int, units: int = 0) -> None:
        cls.check_stop()
        cls.write(SECONDS, int(time.monotonic()))
        for column, more in ((BYTES, size), (UNITS, units)):
            cls.write(column, cls.board.memory[cls.row + column] + more)

    @classmethod
    def check_stop(cls) -> None:
        if cls.board.stop.value:
            raise InterruptedError("another work item failed")


def end_with_parent() -> None:
    """End this process with its parent, or it would write beside the workers of the next run."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
