"""A corpus of text: files in; shards of tokens for training and validation, and a manifest, out.

out/manifest.json     what is in it, written last
out/tokenizer.json    unless tokens are bytes
out/train/00000.bin   token files
out/validation/...
out/working/          until it is finished: the plan, and what is done; a killed run goes on there
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tttvideo.data.tokens import MANIFEST, WORKING
from tttvideo.files import read_json, write_json, write_text
from tttvideo.progress import progress

from .corpus_workers import (
    LISTED,
    Job,
    Options,
    Source,
    do_units,
    is_finished,
    record_path,
    sorted_documents,
)
from .documents import TEXT_SUFFIXES, Advance, Utf8, find_files, once, pieces
from .python_corpus import stdlib_files
from .tokenizer import ByteTokenizer, JsonTokenizer, Tokenizer, read_tokenizer, train_bpe


VERSION = 2  # of what the same inputs and options give
STDLIB = "stdlib"  # the word for the built-in corpus; a file of that name is ./stdlib
PARTS = ("train", "validation")
UNIT_BYTES, MOST_UNITS = 1 << 24, 1 << 10
TRAINING_PIECE = 1 << 16  # characters; the trainer holds 256 pieces at a time


@dataclass(frozen=True)
class Vocabulary:
    """How text becomes tokens: as bytes, by a tokenizer.json, or by a BPE trained on the text."""

    tokenizer: str = "bytes"
    train_bpe: int | None = None


def prepare_text(
    inputs: Sequence[str],
    out: Path,
    vocabulary: Vocabulary,
    options: Options,
    workers: int,
    max_bad: float,
) -> tuple[dict[str, Any], bool]:
    """Prepare a corpus, or go on with it; returns its manifest, and whether it was there before.

    inputs: files, folders, globs, or "stdlib".
    max_bad: share of malformed lines that is let pass; above it, what is done is kept.
    Raises ValueError for input that cannot serve, and for an `out` that holds something else.
    """
    check(inputs, options, workers, max_bad)
    tokenizer = given_tokenizer(vocabulary)
    sources = find_sources(inputs)
    described = {
        "version": VERSION,
        "inputs": list(inputs),
        "tokenizer": tokenizer.name if tokenizer else f"BPE of {vocabulary.train_bpe} tokens",
        **asdict(options),
    }
    plan = described | {"files": [[str(s.path), s.size, s.changed, s.part] for s in sources]}
    if manifest := begin(out, plan):
        check_lines(manifest["lines"], manifest["malformed"], max_bad)
        return manifest, True
    work = out / WORKING
    try:
        tokenizer = tokenizer or trained_tokenizer(work, vocabulary.train_bpe, sources, options)
        units = group(sources)
        job = Job(work, options, tokenizer.name, tokenizer.to_json())
        do_rest(job, units, workers)
        remedy = f"delete {work} and prepare it again"
        records = [read_json(record_path(work, n), remedy) for n in range(len(units))]
        check_parts(records, options)
    except ValueError:  # the input's fault: nothing of it is of use
        shutil.rmtree(work)
        if not any(out.iterdir()):
            out.rmdir()
        raise
    told = {"plan": digest(plan), "options": described, **counts(records)}
    check_lines(told["lines"], told["malformed"], max_bad)
    return finish(out, told, tokenizer, records), False


def check(inputs: Sequence[str], options: Options, workers: int, max_bad: float) -> None:
    if not 0 <= options.validation < 1:
        raise ValueError(f"--validation {options.validation} must be 0 or more and less than 1")
    if not 0 <= max_bad <= 1:
        raise ValueError(f"--max-bad {max_bad} must be from 0 to 1")
    for name, count in (("shard-tokens", options.shard_tokens), ("workers", workers)):
        if count < 1:
            raise ValueError(f"--{name} {count} must be 1 or more")
    if options.validation and set(inputs) == {STDLIB}:
        raise ValueError(f"{STDLIB} has its own validation documents; leave --validation out")


def given_tokenizer(vocabulary: Vocabulary) -> Tokenizer | None:
    """The tokenizer asked for; None when it is to be trained."""
    if vocabulary.train_bpe is not None:
        return None
    if vocabulary.tokenizer == ByteTokenizer.name:
        return ByteTokenizer()
    return read_tokenizer(vocabulary.tokenizer)


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """The files of all inputs; one that is named several times is read once."""
    sources = []
    for name in inputs:
        if name == STDLIB:
            for part, files in zip(PARTS, stdlib_files(), strict=True):
                sources += [source_of(path, part) for path in files]
            continue
        for path in find_files([name], TEXT_SUFFIXES):
            if not path.name.lower().endswith(TEXT_SUFFIXES):
                raise ValueError(f"{path} does not end in one of {', '.join(TEXT_SUFFIXES)}")
            sources.append(source_of(path))
    return once(sources, key=lambda source: source.path.resolve())


def source_of(path: Path, part: str | None = None) -> Source:
    facts = path.stat()
    return Source(path, facts.st_size, facts.st_mtime_ns, part)


def begin(out: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """Make `out` ready for a plan; returns the manifest when it was carried out before.

    Raises ValueError when something else is there.
    """
    planned, work = out / WORKING / "plan.json", out / WORKING
    if (out / MANIFEST).exists():
        manifest = read_manifest(out / MANIFEST)
        if manifest["plan"] != digest(plan):
            raise another(out, plan, manifest["options"])
        if work.exists():  # killed after the last step but this
            shutil.rmtree(work)
        return manifest
    if planned.exists():
        before = read_json(planned, f"delete {work} and prepare it again")
        if digest(before) != digest(plan):
            raise another(out, plan, before)
        return None
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder for the corpus")
    for part in PARTS:
        if (out / part).exists():
            raise ValueError(f"{out / part} is there already; choose another --out")
    work.mkdir(parents=True, exist_ok=True)
    write_json(planned, plan)
    return None


def another(out: Path, plan: dict[str, Any], there: dict[str, Any]) -> ValueError:
    named = [name for name in there if name != "files" and there[name] != plan.get(name)]
    what = (
        f"{named[0]} is {there[named[0]]!r} there and {plan.get(named[0])!r} here"
        if named
        else ("files were added, removed or changed since")
    )
    return ValueError(f"{out} holds another corpus ({what}); choose another --out, or delete it")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a corpus; ValueError for one of something else, which is left alone."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if {"plan", "options", "lines", "malformed", "totals", "hash"} <= manifest.keys():
            return manifest
    except (ValueError, AttributeError):
        pass
    raise ValueError(f"{path} is not the manifest of a corpus of text; choose another --out")


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def trained_tokenizer(
    work: Path, vocab_size: int, sources: Sequence[Source], options: Options
) -> JsonTokenizer:
    """The BPE of the training documents; trained now, unless it was."""
    path = work / "tokenizer.json"
    if not path.exists():
        total = sum(source.size for source in sources if source.part != "validation")
        with progress("training the tokenizer", total, "B") as advance:
            text = train_bpe(training_texts(sources, options, advance), vocab_size)
        write_text(path, text)
    return read_tokenizer(path)


def training_texts(sources: Sequence[Source], options: Options, advance: Advance) -> Iterator[str]:
    learned = [source for source in sources if source.part != "validation"]
    for goes, document in sorted_documents(learned, options, advance):
        if goes == "train":
            yield from pieces(Utf8().all(document.chunks), TRAINING_PIECE)


def group(sources: Sequence[Source]) -> list[list[Source]]:
    """Files in units of `UNIT_BYTES` or, in a large corpus, larger ones, so that they stay few."""
    most = max(UNIT_BYTES, sum(source.size for source in sources) // MOST_UNITS)
    units, size = [], most
    for source in sources:
        if size + source.size > most:
            units.append([])
            size = 0
        units[-1].append(source)
        size += source.size
    return units


def do_rest(job: Job, units: Sequence[Sequence[Source]], workers: int) -> None:
    """Do the units that are not finished."""
    rest = {n: unit for n, unit in enumerate(units) if not is_finished(job.folder, n)}
    total = sum(source.size for unit in rest.values() for source in unit)
    if len(rest) < len(units):
        print(f"going on: {len(units) - len(rest)} of {len(units)} units are done", flush=True)
    with progress("preparing", total, "B") as advance:
        do_units(job, rest, workers, advance)


def check_lines(lines: int, malformed: dict[str, Any], max_bad: float) -> None:
    if malformed["count"] > max_bad * lines:
        raise ValueError(
            f"{malformed['count']} of {lines} lines hold no text, a larger share than --max-bad "
            f"{max_bad}: {'; '.join(malformed['first'][:3])}; what is done is kept, and a larger "
            "--max-bad goes on from there"
        )


def check_parts(records: Sequence[dict[str, Any]], options: Options) -> None:
    for part in PARTS if options.validation else PARTS[:1]:
        if not any(record["shards"][part] for record in records):
            bad = "; ".join(merged(records, "malformed")["first"][:3])
            raise ValueError(
                f"no text is left for {part}{bad and f' ({bad})'}; "
                "give more documents, another --validation or --seed"
            )


def counts(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "lines": sum(record["lines"] for record in records),
        "empty": sum(record["empty"] for record in records),
        "malformed": merged(records, "malformed"),
        "damaged": merged(records, "damaged"),
    }


def merged(records: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """What is wrong in all units: the count, and the first places."""
    first = [place for record in records for place in record[name]["first"]]
    return {"count": sum(record[name]["count"] for record in records), "first": first[:LISTED]}


def finish(
    out: Path, told: dict[str, Any], tokenizer: Tokenizer, records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Move shards to their places, write the manifest, and remove what was needed until then."""
    work, shards = out / WORKING, []
    for part in PARTS:
        found = [shard for record in records for shard in record["shards"][part]]
        for number, shard in enumerate(found):
            target = f"{part}/{number:05}.bin"
            (out / part).mkdir(exist_ok=True)
            if (work / shard["file"]).exists() or not (out / target).exists():
                os.replace(work / shard["file"], out / target)
            shards.append(shard | {"file": target})
    if tokenizer.to_json() is not None:
        write_text(out / "tokenizer.json", tokenizer.to_json())
    manifest = told | {
        "hash": digest([[shard["file"], shard["sha256"]] for shard in shards]),
        "tokenizer": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "totals": {part: totals(shards, part) for part in PARTS},
        "shards": shards,
    }
    write_json(out / MANIFEST, manifest)
    shutil.rmtree(work)
    return manifest


def totals(shards: Sequence[dict[str, Any]], part: str) -> dict[str, int]:
    ours = [shard for shard in shards if shard["file"].startswith(f"{part}/")]
    return {name: sum(shard[name] for shard in ours) for name in ("documents", "bytes", "tokens")}
