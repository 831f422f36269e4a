"""A corpus: sources in; shards of tokens for training and validation, and a manifest, out.

out/manifest.json     the description of the corpus, written last
out/train/00000.bin   token files, and the arrays beside them
out/validation/...
out/working/          until the end: the plan and the finished work items; a killed run resumes here

The work items of a plan are the same wherever they are prepared: several machines may share them,
in one folder or in one each, and whoever merges them gets the bits of a single run.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tttvideo.files import read_json, replacing, write_json
from tttvideo.progress import counting_progress

from .tokens import MANIFEST, WORKING
from .work_items import PARTS, Job, WorkerDied, is_finished, prepare_items, record_path, shard_files


MOST_ITEMS = 1 << 10

Source = TypeVar("Source", bound=Any)
Items = Mapping[int, Sequence[Source]]


@dataclass(frozen=True)
class Run:
    """How a run takes part in the making of a corpus; nothing of it changes the corpus."""

    workers: int
    max_bad: float
    """the largest share of bad sources; above it, the finished work items are kept"""
    part: tuple[int, int] | None = None
    """(I, N): prepare the I-th of N parts of the work items, and publish nothing"""
    merge: Sequence[Path] | None = None
    """prepare nothing and publish what was prepared in `out` and in these folders"""

    @property
    def name(self) -> str:
        """In the names of files that parts in one folder must not share."""
        return "{}-{}".format(*(self.part or (1, 1)))

    def check_bad(self, bad: int, total: int, what: str, first: Sequence[str]) -> None:
        """Raises ValueError if the share of bad sources is larger than `max_bad`."""
        if bad > self.max_bad * total:
            raise ValueError(
                f"{bad} of {total} {what}, a larger share than --max-bad {self.max_bad}: "
                f"{'; '.join(first[:3])}; the finished work is kept, and a larger --max-bad "
                "resumes it"
            )


def part_of(key: bytes, validation: float, seed: int) -> str:
    """The part for what has this key, chosen by the key and the seed alone."""
    digest = hashlib.sha256(f"{seed} ".encode() + key).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "validation" if share < validation else "train"


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def open_folder(
    out: Path, plan: dict[str, Any], run: Run, kind: str, keys: Collection[str]
) -> dict[str, Any] | None:
    """Create the working folder of a plan or find it; returns the manifest of a finished corpus.

    kind, keys: of the corpus, and those that its manifest has besides the common ones.
    Raises ValueError when `out` holds something else.
    """
    planned, work = out / WORKING / "plan.json", out / WORKING
    if (out / MANIFEST).exists():
        manifest = read_manifest(out / MANIFEST, kind, keys)
        if manifest["plan"] != digest(plan):
            raise other_corpus(out, plan, manifest["options"])
        if work.exists():  # the last run was killed just before its end
            shutil.rmtree(work)
        return manifest
    if planned.exists():
        check_plan(planned, plan, out)
        return None
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder for the corpus")
    check_empty(out, but=WORKING)  # another part may just begin
    work.mkdir(parents=True, exist_ok=True)
    own = planned.with_name(f"plan.{run.name}.json")
    write_json(own, plan)
    os.replace(own, planned)  # parts that begin at the same time write the same
    return None


def check_empty(out: Path, but: str = "") -> None:
    """Raises ValueError for a folder that holds anything, except hidden files and `but`."""
    held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if held := [name for name in held if name != but and not name.startswith(".")]:
        raise ValueError(f"{out} holds other files, such as {held[0]}; choose another --out")


def check_plan(planned: Path, plan: dict[str, Any], out: Path) -> None:
    """Raises ValueError unless `planned` holds this plan."""
    before = read_json(planned, f"delete {planned.parent} and prepare it again")
    if digest(before) != digest(plan):
        raise other_corpus(out, plan, before)


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


def read_manifest(path: Path, kind: str, keys: Collection[str]) -> dict[str, Any]:
    """The manifest of a corpus. Raises ValueError for any other file."""
    with suppress(ValueError):
        manifest = read_json(path, "")
        if isinstance(manifest, dict) and {"plan", "options", "totals", "hash", *keys} <= {
            *manifest
        }:
            return manifest
    raise ValueError(f"{path} is not the manifest of a corpus of {kind}; choose another --out")


@contextmanager
def removed_after_an_error(out: Path, run: Run) -> Iterator[None]:
    """After a ValueError, which the input causes, nothing written so far is of use.

    Other machines may still write there when parts are prepared.
    """
    try:
        yield
    except ValueError:
        if not run.part and run.merge is None:
            shutil.rmtree(out / WORKING)
            if not any(out.iterdir()):
                out.rmdir()
        raise


def group_sources(sources: Sequence[Source], least: int) -> dict[int, list[Source]]:
    """Sources in numbered work items of `least` bytes, or larger ones if these were too many."""
    most = max(least, sum(source.size for source in sources) // MOST_ITEMS)
    items: list[list[Source]] = []
    size = most
    for source in sources:
        if size + source.size > most:
            items.append([])
            size = 0
        items[-1].append(source)
        size += source.size
    return dict(enumerate(items))


def prepare_sources(job: Job, items: Items, run: Run, unit: str) -> list[dict[str, Any]]:
    """The records of the run's work items, after those that are not finished are prepared.

    unit: what the progress bar counts: "B" for bytes, or what the job counts besides.
    """
    if run.part:
        number, parts = run.part
        items = {n: item for n, item in items.items() if n % parts == number - 1}
    rest = {n: item for n, item in items.items() if not is_finished(job.folder, n)}
    if len(rest) < len(items):
        print(f"resuming: {len(items) - len(rest)} of {len(items)} work items are done", flush=True)
    total = sum(source.size for item in rest.values() for source in item)
    if rest:
        with counting_progress("preparing", total, unit) as advance:
            prepare_surviving(job, rest, run.workers, advance)
    return read_records(job.folder, items)


def prepare_surviving(job: Job, items: Items, workers: int, advance: Callable[..., None]) -> None:
    """Prepare work items, without the sources that end the process which reads them."""
    while items:
        try:
            return prepare_items(job, items, workers, advance)
        except WorkerDied as error:
            if not job.exclude(error.suspects):
                raise
            items = {n: item for n, item in items.items() if not is_finished(job.folder, n)}


def read_records(work: Path, items: Items) -> list[dict[str, Any]]:
    remedy = f"delete {work} and prepare it again"
    return [read_json(record_path(work, n), remedy) for n in items]


def merged_records(
    out: Path, plan: dict[str, Any], items: Items, folders: Sequence[Path]
) -> list[dict[str, Any]]:
    """The records of all work items, after those in other folders are brought to `out`.

    Raises: ValueError for the parts of another corpus, and for work items that are in no folder.
    """
    work = out / WORKING
    for folder in folders:
        planned = folder / WORKING / "plan.json"
        if not planned.exists():
            raise ValueError(f"{folder} holds no part of a corpus; name folders that --part wrote")
        check_plan(planned, plan, folder)
        for number in items:
            if is_finished(planned.parent, number) and not record_path(work, number).exists():
                bring(planned.parent, work, number)
    missing = [number for number in items if not is_finished(work, number)]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(items)} work items are not prepared, the first for "
            f"{items[missing[0]][0].path}; run every --part to its end before --merge"
        )
    return read_records(work, items)


def bring(source: Path, work: Path, number: int) -> None:
    """Put the shards of a work item, then its record, into another working folder."""
    shards = read_json(record_path(source, number), "prepare it again")["shards"].values()
    names = [name for part in shards for shard in part for name, _ in shard_files(shard)]
    for name in (*names, record_path(source, number).name):
        with replacing(work / name) as partial:
            shutil.copyfile(source / name, partial)


def publish(
    out: Path, about: dict[str, Any], tokens: dict[str, Any], records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Move the shards out of the working folder, write the manifest, and remove that folder.

    about, tokens: what the manifest tells of the corpus, and of its tokens.
    """
    shards = [shard for part in PARTS for shard in move_shards(out, part, records)]
    files = [list(file) for shard in shards for file in shard_files(shard)]
    totals = {part: total_sizes(shards, part) for part in PARTS}
    manifest = about | {"hash": digest(files), **tokens, "totals": totals, "shards": shards}
    write_json(out / MANIFEST, manifest)
    shutil.rmtree(out / WORKING)
    return manifest


def move_shards(
    out: Path, part: str, records: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Move the shards of a part to its folder, unless a killed run did; yields their facts."""
    found = [shard for record in records for shard in record["shards"][part]]
    for number, shard in enumerate(found):
        moved = shard | {"file": f"{part}/{number:05}.bin"}
        (out / part).mkdir(exist_ok=True)
        for (source, _), (target, _) in zip(shard_files(shard), shard_files(moved), strict=True):
            if (out / WORKING / source).exists() or not (out / target).exists():
                os.replace(out / WORKING / source, out / target)
        yield moved


def total_sizes(shards: Sequence[Mapping[str, Any]], part: str) -> dict[str, int]:
    chosen = [shard for shard in shards if shard["file"].startswith(f"{part}/")]
    names = [name for name in ("documents", "bytes", "frames", "tokens") if name in shards[0]]
    return {name: sum(shard[name] for shard in chosen) for name in names}
