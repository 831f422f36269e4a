"""A corpus of text: files in; shards of tokens for training and validation, and a manifest, out.

out/manifest.json     the description of the corpus, written last
out/tokenizer.json    unless tokens are bytes
out/train/00000.bin   token files
out/validation/...
out/working/          until the end: the plan and the finished work items; a killed run resumes here
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tttvideo.data.inputs import TEXT_SUFFIXES, find_files, unique
from tttvideo.data.tokens import MANIFEST, WORKING
from tttvideo.files import read_json, write_json, write_text
from tttvideo.progress import Advance, progress

from .corpus_workers import (
    LISTED,
    PARTS,
    Counts,
    Job,
    Options,
    Source,
    is_finished,
    prepare_items,
    read_by_part,
    record_path,
)
from .documents import Utf8Decoder, split_text
from .python_corpus import stdlib_files
from .tokenizer import ByteTokenizer, JsonTokenizer, Tokenizer, read_tokenizer, train_bpe


VERSION = 2  # changes when the same inputs and options give another corpus
STDLIB = "stdlib"  # the name of the built-in corpus; a file of that name is ./stdlib
ITEM_BYTES, MOST_ITEMS = 1 << 24, 1 << 10
TRAINING_PIECE = 1 << 16  # characters; the trainer holds 256 pieces at a time


def prepare_text(
    inputs: Sequence[str],
    out: Path,
    vocabulary: str | int,
    options: Options,
    workers: int,
    max_bad: float,
) -> tuple[dict[str, Any], bool]:
    """Prepare a corpus, or resume it; returns its manifest, and whether it was finished before.

    inputs: files, folders, globs, or "stdlib".
    vocabulary: "bytes", the path of a tokenizer.json, or the size of a BPE to train on the text.
    max_bad: the largest share of malformed lines; above it, the finished work items are kept.
    Raises: ValueError for input that cannot serve, and for an `out` that holds something else.
    """
    check_options(inputs, options, workers, max_bad)
    tokenizer = given_tokenizer(vocabulary)
    sources = find_sources(inputs)
    described = {
        "version": VERSION,
        "inputs": list(inputs),
        "tokenizer": tokenizer.name if tokenizer else f"BPE of {vocabulary} tokens",
        **asdict(options),
    }
    plan = described | {"files": [[str(s.path), s.size, s.changed, s.part] for s in sources]}
    if manifest := open_folder(out, plan):
        check_lines(manifest["lines"], manifest["malformed"], max_bad)
        return manifest, True
    try:
        tokenizer = tokenizer or trained_tokenizer(out / WORKING, int(vocabulary), sources, options)
        records = prepare_sources(out / WORKING, options, tokenizer, sources, workers)
        totals = total_counts(records)
        check_parts(records, totals, options)
    except ValueError:  # caused by the input: nothing written so far is of use
        shutil.rmtree(out / WORKING)
        if not any(out.iterdir()):
            out.rmdir()
        raise
    about = {"plan": digest(plan), "options": described, **totals}
    check_lines(about["lines"], about["malformed"], max_bad)
    return publish(out, about, tokenizer, records), False


def check_options(inputs: Sequence[str], options: Options, workers: int, max_bad: float) -> None:
    if not 0 <= options.validation < 1:
        raise ValueError(f"--validation {options.validation} must be 0 or more and less than 1")
    if not 0 <= max_bad <= 1:
        raise ValueError(f"--max-bad {max_bad} must be from 0 to 1")
    for name, count in (("shard-tokens", options.shard_tokens), ("workers", workers)):
        if count < 1:
            raise ValueError(f"--{name} {count} must be 1 or more")
    if options.validation and set(inputs) == {STDLIB}:
        raise ValueError(f"{STDLIB} has its own validation documents; leave --validation out")


def given_tokenizer(vocabulary: str | int) -> Tokenizer | None:
    """The tokenizer that `vocabulary` names; None if it is to be trained."""
    if isinstance(vocabulary, int):
        return None
    return ByteTokenizer() if vocabulary == ByteTokenizer.name else read_tokenizer(vocabulary)


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """The files of all inputs, each once."""
    sources = []
    for name in inputs:
        if name == STDLIB:
            for part, files in zip(PARTS, stdlib_files(), strict=True):
                sources += [new_source(path, part) for path in files]
            continue
        for path in find_files([name], TEXT_SUFFIXES):
            if not path.name.lower().endswith(TEXT_SUFFIXES):
                raise ValueError(f"{path} does not end in one of {', '.join(TEXT_SUFFIXES)}")
            sources.append(new_source(path))
    return unique(sources, key=lambda source: source.path.resolve())


def new_source(path: Path, part: str | None = None) -> Source:
    facts = path.stat()
    return Source(path, facts.st_size, facts.st_mtime_ns, part)


def open_folder(out: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """Create the working folder of a plan or find it; returns the manifest of a finished corpus.

    Raises ValueError when `out` holds something else.
    """
    planned, work = out / WORKING / "plan.json", out / WORKING
    if (out / MANIFEST).exists():
        manifest = read_manifest(out / MANIFEST)
        if manifest["plan"] != digest(plan):
            raise other_corpus(out, plan, manifest["options"])
        if work.exists():  # the last run was killed just before its end
            shutil.rmtree(work)
        return manifest
    if planned.exists():
        before = read_json(planned, f"delete {work} and prepare it again")
        if digest(before) != digest(plan):
            raise other_corpus(out, plan, before)
        return None
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder for the corpus")
    for part in PARTS:
        if (out / part).exists():
            raise ValueError(f"{out / part} exists already; choose another --out")
    work.mkdir(parents=True, exist_ok=True)
    write_json(planned, plan)
    return None


def other_corpus(out: Path, plan: dict[str, Any], before: dict[str, Any]) -> ValueError:
    """The error for a folder that holds the corpus of another plan."""
    changed = [name for name in before if name != "files" and before[name] != plan.get(name)]
    difference = (
        f"{changed[0]} is {before[changed[0]]!r} there and {plan.get(changed[0])!r} here"
        if changed
        else "files were added, removed or changed since"
    )
    return ValueError(
        f"{out} holds another corpus ({difference}); choose another --out, or delete it"
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a corpus. Raises ValueError for any other file."""
    keys = {"plan", "options", "lines", "malformed", "totals", "hash"}
    with suppress(ValueError):
        manifest = read_json(path, "")
        if isinstance(manifest, dict) and keys <= manifest.keys():
            return manifest
    raise ValueError(f"{path} is not the manifest of a corpus of text; choose another --out")


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


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


def prepare_sources(
    work: Path, options: Options, tokenizer: Tokenizer, sources: Sequence[Source], workers: int
) -> list[dict[str, Any]]:
    """The records of all work items, after those that are not finished are prepared."""
    items = dict(enumerate(group_sources(sources)))
    rest = {n: item for n, item in items.items() if not is_finished(work, n)}
    if len(rest) < len(items):
        print(f"resuming: {len(items) - len(rest)} of {len(items)} parts are done", flush=True)
    job = Job(work, options, tokenizer.name, tokenizer.to_json())
    total = sum(source.size for item in rest.values() for source in item)
    with progress("preparing", total, "B") as advance:
        prepare_items(job, rest, workers, advance)
    remedy = f"delete {work} and prepare it again"
    return [read_json(record_path(work, n), remedy) for n in items]


def group_sources(sources: Sequence[Source]) -> list[list[Source]]:
    """Files in work items of `ITEM_BYTES`, or larger ones when these would be too many."""
    most = max(ITEM_BYTES, sum(source.size for source in sources) // MOST_ITEMS)
    items: list[list[Source]] = []
    size = most
    for source in sources:
        if size + source.size > most:
            items.append([])
            size = 0
        items[-1].append(source)
        size += source.size
    return items


def check_lines(lines: int, malformed: Mapping[str, Any], max_bad: float) -> None:
    if malformed["count"] > max_bad * lines:
        raise ValueError(
            f"{malformed['count']} of {lines} lines hold no text, a larger share than --max-bad "
            f"{max_bad}: {'; '.join(malformed['first'][:3])}; the finished work is kept, and a "
            "larger --max-bad resumes it"
        )


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
    totals: dict[str, Any] = {name: sum(r[name] for r in records) for name in ("lines", "empty")}
    for name in ("malformed", "damaged"):
        first = [place for record in records for place in record[name]["first"]]
        count = sum(record[name]["count"] for record in records)
        totals[name] = {"count": count, "first": first[:LISTED]}
    return totals


def publish(
    out: Path, about: dict[str, Any], tokenizer: Tokenizer, records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Move the shards out of the working folder, write the manifest, and remove that folder."""
    shards = [shard for part in PARTS for shard in move_shards(out, part, records)]
    if (text := tokenizer.to_json()) is not None:
        write_text(out / "tokenizer.json", text)
    manifest = about | {
        "hash": digest([[shard["file"], shard["sha256"]] for shard in shards]),
        "tokenizer": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "totals": {part: total_sizes(shards, part) for part in PARTS},
        "shards": shards,
    }
    write_json(out / MANIFEST, manifest)
    shutil.rmtree(out / WORKING)
    return manifest


def move_shards(
    out: Path, part: str, records: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Move the shards of a part to its folder, unless a killed run did; yields their facts."""
    found = [shard for record in records for shard in record["shards"][part]]
    for number, shard in enumerate(found):
        source, target = out / WORKING / shard["file"], f"{part}/{number:05}.bin"
        (out / part).mkdir(exist_ok=True)
        if source.exists() or not (out / target).exists():
            os.replace(source, out / target)
        yield shard | {"file": target}


def total_sizes(shards: Sequence[Mapping[str, Any]], part: str) -> dict[str, int]:
    chosen = [shard for shard in shards if shard["file"].startswith(f"{part}/")]
    return {name: sum(shard[name] for shard in chosen) for name in ("documents", "bytes", "tokens")}
