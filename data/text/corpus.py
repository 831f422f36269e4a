"""A corpus of text: documents in; shards of tokens, the tokenizer and a manifest out.

out/tokenizer.json    unless tokens are bytes; the other files are those of data/corpus.py
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tttvideo.data.corpus import (
    Run,
    digest,
    group_sources,
    merged_records,
    open_folder,
    part_of,
    prepare_sources,
    publish,
    removed_after_an_error,
)
from tttvideo.data.inputs import find_files, unique
from tttvideo.data.tokens import WORKING
from tttvideo.data.work_items import PARTS, Prepare, Shards
from tttvideo.files import write_text
from tttvideo.progress import Advance, progress

from .documents import (
    Document,
    Malformed,
    Utf8Decoder,
    encode_chunks,
    split_text,
    text_header,
)
from .formats import SUFFIX_NAMES, SUFFIXES, read_documents
from .python_corpus import stdlib_files
from .tokenizer import (
    ByteTokenizer,
    JsonTokenizer,
    Tokenizer,
    load_tokenizer,
    read_tokenizer,
    train_bpe,
)
from .unpack import check_encoding


VERSION = 3  # changes when the same inputs and options give another corpus
STDLIB = "stdlib"  # the name of the built-in corpus; a file of that name is ./stdlib
ITEM_BYTES = 1 << 24
TRAINING_PIECE = 1 << 16  # characters; the trainer holds 256 pieces at a time
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
    bos: str | None = None
    """the name of the token before each document; None: by the usual names"""
    eos: str | None = None


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

    documents: int = 0  # of any kind: the others are among them
    empty: int = 0
    malformed: Faults = field(default_factory=Faults)
    damaged: Faults = field(default_factory=Faults)


def prepare_text(
    inputs: Sequence[str], out: Path, vocabulary: str | int, options: Options, run: Run
) -> tuple[dict[str, Any], bool]:
    """Prepare a corpus, or resume it; returns its manifest, and whether it was finished before.

    inputs: files, folders, globs, or "stdlib".
    vocabulary: "bytes", the path of a tokenizer.json, or the size of a BPE to train on the text.
    Of a part of a corpus the counts are returned alone, without a hash.
    Raises: ValueError for input that cannot serve, and for an `out` that holds something else.
    """
    if options.validation and set(inputs) == {STDLIB}:
        raise ValueError(f"{STDLIB} has its own validation documents; leave --validation out")
    tokenizer = given_tokenizer(vocabulary, options)
    sources = find_sources(inputs)
    described = {
        "version": VERSION,
        "inputs": list(inputs),
        "tokenizer": tokenizer.name if tokenizer else f"BPE of {vocabulary} tokens",
        **asdict(options),
    }
    plan = described | {"files": [[str(s.path), s.size, s.changed, s.part] for s in sources]}
    if manifest := open_folder(out, plan, run, "text", ("documents", "malformed")):
        check_malformed(manifest, run)
        return manifest, True
    items = group_sources(sources, ITEM_BYTES)
    with removed_after_an_error(out, run):
        if run.merge is not None:
            records = merged_records(out, plan, items, run.merge)
        tokenizer = tokenizer or trained_tokenizer(out / WORKING, int(vocabulary), sources, options)
        if run.merge is None:
            job = TextJob(out / WORKING, options, tokenizer.name, tokenizer.to_json())
            records = prepare_sources(job, items, run, "B")
        totals = total_counts(records)
        if run.part:
            return totals, False
        check_parts(records, totals, options)
    check_malformed(totals, run)
    if (text := tokenizer.to_json()) is not None:
        write_text(out / "tokenizer.json", text)
    facts = {"tokenizer": tokenizer.name, "vocab_size": tokenizer.vocab_size}
    about = {"plan": digest(plan), "options": described, **totals}
    return publish(out, about, facts, records), False


def given_tokenizer(vocabulary: str | int, options: Options) -> Tokenizer | None:
    """The tokenizer that `vocabulary` names; None if it is to be trained."""
    if isinstance(vocabulary, int):
        return None
    if vocabulary == ByteTokenizer.name:
        return ByteTokenizer()
    return read_tokenizer(vocabulary, (options.bos, options.eos))


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """The files of all inputs, each once."""
    sources = []
    for name in inputs:
        if name == STDLIB:
            for part, files in zip(PARTS, stdlib_files(), strict=True):
                sources += [new_source(path, part) for path in files]
            continue
        for path in find_files([name], SUFFIXES, SUFFIX_NAMES):
            if not path.name.lower().endswith(SUFFIXES):
                raise ValueError(f"{path} does not end in {SUFFIX_NAMES}")
            with open(path, "rb") as file:
                check_encoding(file.read(4), str(path))  # at once, not after hours
            sources.append(new_source(path))
    return unique(sources, key=lambda source: source.path.resolve())


def new_source(path: Path, part: str | None = None) -> Source:
    facts = path.stat()
    return Source(path, facts.st_size, facts.st_mtime_ns, part)


def trained_tokenizer(
    work: Path, vocab_size: int, sources: Sequence[Source], options: Options
) -> JsonTokenizer:
    """The BPE of the training documents, trained unless an earlier run did that."""
    path = work / "tokenizer.json"
    if not path.exists():
        sources = [source for source in sources if source.part != "validation"]
        total = sum(source.size for source in sources)
        with progress("training the tokenizer", total, "B") as advance:
            text = train_bpe(training_texts(sources, options, advance), vocab_size)
        write_text(path, text)
    return read_tokenizer(path)


def training_texts(sources: Sequence[Source], options: Options, advance: Advance) -> Iterator[str]:
    """The training documents, in pieces."""
    for part, document in read_by_part(sources, options, Counts(), advance):
        if part == "train":
            yield from split_text(Utf8Decoder().decode_all(document.chunks), TRAINING_PIECE)


@dataclass(frozen=True)
class TextJob:
    """The arguments common to all work items of a corpus."""

    folder: Path
    options: Options
    tokenizer: str
    tokenizer_json: str | None
    patience = None

    def open(self) -> Prepare:
        marks = self.options.bos, self.options.eos
        tokenizer = load_tokenizer(self.tokenizer, self.tokenizer_json, marks)
        return partial(prepare_files, self, tokenizer)

    def exclude(self, suspects: Sequence[Source]) -> bool:
        return False  # no text ends a process


def prepare_files(
    job: TextJob, tokenizer: Tokenizer, number: int, sources: Iterable[Source], advance: Advance
) -> dict[str, Any]:
    """Turn the files of a work item into shards; returns its record."""
    counts = Counts()
    header, most = text_header(tokenizer), job.options.shard_tokens
    shards = {p: Shards(job.folder, f"{number:05}.{p}", header, most, "bytes") for p in PARTS}
    with shards["train"], shards["validation"]:
        for part, document in read_by_part(sources, job.options, counts, advance):
            wrong = write_document(shards[part], tokenizer, document)
            if wrong is not None:
                counts.damaged.add(f"{document.place} at byte {wrong:,}")
        for written in shards.values():
            written.end_shard()
    records = {part: written.records for part, written in shards.items()}
    return {"shards": records, **asdict(counts)}


def read_by_part(
    sources: Iterable[Source], options: Options, counts: Counts, advance: Advance
) -> Iterator[tuple[str, Document]]:
    """The documents of files, each with its part.

    Malformed and empty documents are left out and added to `counts`. The part depends on the first
    chunk of a document and the seed alone.
    """
    for source in sources:
        for document in read_documents(source.path, options.field, advance):
            counts.documents += 1
            if isinstance(document, Malformed):
                counts.malformed.add(f"{document.place} {document.reason}")
            elif head := next(document.chunks, b""):
                whole = replace(document, chunks=chain([head], document.chunks))
                yield source.part or part_of(head, options.validation, options.seed), whole
            else:
                counts.empty += 1


def write_document(shards: Shards, tokenizer: Tokenizer, document: Document) -> int | None:
    """Append a document to a part; returns the place of its first byte that is no UTF-8."""
    writer, utf8 = shards.next_writer(), Utf8Decoder()
    writer.start_document()
    writer.write(np.array([tokenizer.bos]))
    for tokens, size in encode_chunks(tokenizer, document.chunks, utf8):
        writer.write(tokens)
        shards.size += size
    writer.write(np.array([tokenizer.eos]))
    return utf8.damaged


def check_malformed(totals: Mapping[str, Any], run: Run) -> None:
    count, first = totals["malformed"]["count"], totals["malformed"]["first"]
    run.check_bad(count, totals["documents"], "documents hold no text", first)


def check_parts(
    records: Sequence[Mapping[str, Any]], totals: Mapping[str, Any], options: Options
) -> None:
    for part in PARTS if options.validation else PARTS[:1]:
        if not any(record["shards"][part] for record in records):
            bad = "; ".join(totals["malformed"]["first"][:3])
            raise ValueError(
                f"no text is left for {part}{bad and f' ({bad})'}; "
                "give more documents, another --validation or --seed"
            )


def total_counts(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all work items, and the first places of their faults."""
    totals: dict[str, Any] = {
        name: sum(r[name] for r in records) for name in ("documents", "empty")
    }
    for name in ("malformed", "damaged"):
        first = [place for record in records for place in record[name]["first"]]
        count = sum(record[name]["count"] for record in records)
        totals[name] = {"count": count, "first": first[:LISTED]}
    return totals
