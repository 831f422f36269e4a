"""Token files: a header, the tokens, and the starts of documents; folders of token files.

Layout: 4096 bytes of header (a magic line, then JSON, padded with spaces and a newline), the tokens
as little-endian uint16 or uint32, then the starts of documents as little-endian int64. A video is a
document; its frames are consecutive runs of grid[0] * grid[1] tokens.

What else is known about the frames of a video, its conditions, lies in arrays beside the file, one
row per frame: clip.bin has clip.actions.npy, clip.poses.npy and so on.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tttvideo.files import read_json, replacing
from tttvideo.progress import Advance, progress
from tttvideo.typed import typed


MAGIC = b"tttvideo tokens 1\n"
HEADER_BYTES = 4096
MANIFEST, WORKING = "manifest.json", "working"  # of a corpus: its last file, its folder before
CHECKED = 1 << 22  # tokens, or bytes, that are compared at once
FEW = 1 << 26  # bytes of tokens that take a moment to compare, in all files
SAME_TOKENS = (
    "kind",
    "tokenizer",
    "vocab_size",
    "grid",
    "bos",
    "eos",
)  # the facts that fix what a token means
SAME_CONDITIONS = ("conditions", "action_kinds", "pose_periods")  # and what a condition means
CONDITIONS = ("actions", "poses", "ages", "seconds", "classes")
"""Arrays that may lie beside a token file, F frames in all:
actions: (F,) integers, or (F, A) numbers: what leads from a frame to the next.
poses: (F, 2) cells, integers, or (F, D) numbers: where a frame was taken from.
ages: (F, P) frames since what a token shows was last seen in its video; -1: not before.
seconds: (F,) the time from a frame to the next.
classes: (F,) integers: the class of the frame's video.
"""
AXES = {"actions": (1, 2), "poses": (2,), "ages": (2,), "seconds": (1,), "classes": (1,)}


@dataclass(frozen=True)
class Header:
    """The facts about the tokens of a file."""

    kind: str  # "text" or "video"
    tokenizer: str  # "bytes", the hash of a tokenizer.json, or that of a frame tokenizer
    vocab_size: int
    grid: tuple[int, int] | None = None  # rows and columns of a frame; None for text
    fps: float | None = None  # frames per second; None for text and for videos that differ
    tokens: int = 0
    documents: int = 0
    bos: int | None = None  # the tokens before and after each document; None for video
    eos: int | None = None
    conditions: tuple[str, ...] = ()  # the arrays beside the file, of CONDITIONS
    action_kinds: int | None = None  # of actions that are integers
    pose_periods: tuple[int, int] | None = None  # of poses that are cells of a torus
    copies: bool = False  # whether it holds altered copies of its videos too

    @property
    def frame(self) -> int:
        """The number of tokens of a frame; 1 for text."""
        return self.grid[0] * self.grid[1] if self.grid else 1

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    @property
    def file_bytes(self) -> int:
        return HEADER_BYTES + self.tokens * self.dtype.itemsize + self.documents * 8

    def pack(self) -> bytes:
        text = MAGIC + json.dumps(asdict(self)).encode()
        assert len(text) < HEADER_BYTES
        return text.ljust(HEADER_BYTES - 1) + b"\n"

    @staticmethod
    def unpack(path: Path) -> Header:
        """Read a header. Raises ValueError for a file that is missing, damaged or no token file."""
        if not path.is_file():
            raise ValueError(f"there is no token file {path}; make one with `tttvideo prepare`")
        with open(path, "rb") as file:
            head = file.read(HEADER_BYTES)
        if not head.startswith(MAGIC):
            raise ValueError(f"{path} is not a token file; make one with `tttvideo prepare`")
        try:
            header = typed(Header, json.loads(head[len(MAGIC) :]))
            header.check()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} has a damaged header ({error}); prepare it again") from error
        if (size := path.stat().st_size) != header.file_bytes:
            raise ValueError(
                f"{path} has {size} bytes, but its header asks for {header.file_bytes}; it was cut "
                "off or changed: prepare it again"
            )
        return header

    def check(self) -> None:
        """Raises ValueError for facts that no file can have."""
        kinds = {"text": self.grid is None, "video": self.grid is not None}
        sizes = {"grid": self.grid or (1,), "pose_periods": self.pose_periods or (1,)}
        sizes |= {"action_kinds": (1 if self.action_kinds is None else self.action_kinds,)}
        good = {
            "kind": kinds.get(self.kind, False),
            **{name: min(values) >= 1 for name, values in sizes.items()},
            "vocab_size": 1 <= self.vocab_size <= 1 << 32,
            "tokens": self.tokens >= 0 and self.tokens % max(1, self.frame) == 0,
            "documents": self.documents >= (self.tokens > 0),
            "fps": self.fps is None or self.fps > 0,
            "bos": self.bos is None or 0 <= self.bos < self.vocab_size,
            "eos": self.eos is None or 0 <= self.eos < self.vocab_size,
            "conditions": len({*self.conditions} & {*CONDITIONS}) == len(self.conditions),
        }
        for name, is_good in good.items():
            if not is_good:
                raise ValueError(f"{name} {getattr(self, name)} cannot be")


class TokenFile:
    """An open token file: `header`, `starts` of documents, and memory maps, which are `tokens`
    and, by name, `conditions`.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.header = Header.unpack(self.path)
        count, dtype = self.header.tokens, self.header.dtype
        if not count:
            raise ValueError(f"{path} holds no tokens")
        self.tokens = np.memmap(self.path, dtype, "r", HEADER_BYTES, (count,))
        offset = HEADER_BYTES + count * dtype.itemsize
        self.starts = np.fromfile(self.path, "<i8", self.header.documents, offset=offset)
        self.check_starts()
        self.conditions = {name: self.condition(name) for name in self.header.conditions}

    def check_starts(self) -> None:
        """Raises ValueError for documents that do not follow one another from the first token on,
        and for videos that are no whole frames."""
        starts, count = self.starts, self.header.tokens
        in_order = starts[0] == 0 and starts[-1] <= count and (np.diff(starts) >= 0).all()
        if not in_order or (starts % self.header.frame).any():
            raise ValueError(
                f"{self.path} has starts of documents out of order; it was changed: prepare it "
                "again"
            )

    def condition(self, name: str) -> np.ndarray:
        """The array of a condition. Raises ValueError if it is not of this file's frames."""
        path, frames = condition_path(self.path, name), self.header.tokens // self.header.frame
        try:
            rows = np.lib.format.open_memmap(path, mode="r")
            if rows.dtype.kind not in "iuf" or rows.ndim not in AXES[name]:
                raise ValueError(f"{rows.dtype} {rows.shape}")
        except (OSError, ValueError, EOFError, OverflowError) as error:
            raise ValueError(f"{path} is missing or damaged; prepare it again") from error
        if len(rows) != frames:
            raise ValueError(f"{path} has {len(rows)} rows for {frames} frames; prepare it again")
        return rows


def check_vocabulary(tokens: np.ndarray, vocab_size: int, path: Path) -> None:
    """Raises ValueError for tokens (N,) that are not below `vocab_size`; reads each token once."""
    if tokens.size and tokens.max() >= vocab_size:
        raise ValueError(
            f"{path} has the token {tokens.max()}, and its vocabulary ends at {vocab_size - 1}; it "
            "was changed: prepare it again"
        )


def condition_path(path: Path, name: str) -> Path:
    return path.with_suffix(f".{name}.npy")


class JoinedArrays:
    """Several arrays, read as one; a slice inside one of them is not copied."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays = arrays
        self.ends = np.cumsum([len(array) for array in arrays])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int | slice) -> Any:
        if not isinstance(index, slice):
            place = range(len(self))[index]
            number = int(np.searchsorted(self.ends, place, "right"))
            return self.arrays[number][place - self.ends[number]]
        start, stop, step = index.indices(len(self))
        assert step == 1
        first, last = np.searchsorted(self.ends, [start, stop - 1], "right")
        parts = []
        for array, end in zip(self.arrays[first : last + 1], self.ends[first:], strict=False):
            begin = end - len(array)
            parts.append(array[max(0, start - begin) : max(0, stop - begin)])
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [self.arrays[0][:0]])


class JoinedTokens(JoinedArrays):
    """Tokens of several files, read as one; those that are read are compared with the vocabulary,
    so that a file that was changed is refused before an embedding looks outside of its table."""

    def __init__(self, path: Path, files: Sequence[TokenFile]):
        super().__init__([file.tokens for file in files])
        self.path, self.vocab_size = path, files[0].header.vocab_size

    def __getitem__(self, index: int | slice) -> Any:
        found = super().__getitem__(index)
        check_vocabulary(found, self.vocab_size, self.path)
        return found


class Tokens:
    """One or several token files, read as one: `path`, `header`, `tokens`, `starts`, `conditions`.

    `tokens` has a length and slices over all files; `starts` (D,) int64 are places in them.
    `conditions` are arrays by name, with a row per frame.
    """

    def __init__(
        self, path: Path, files: Sequence[TokenFile], hashes: Mapping[Path, str] | None = None
    ):
        self.path, self.files, self.hashes = path, files, hashes or {}
        self.tokens = JoinedTokens(path, files)
        names = files[0].header.conditions
        self.conditions = {n: JoinedArrays([file.conditions[n] for file in files]) for n in names}
        begins = [0, *self.tokens.ends]
        self.starts = np.concatenate([f.starts + a for f, a in zip(files, begins, strict=False)])
        self.header = replace(
            files[0].header,
            tokens=len(self.tokens),
            documents=len(self.starts),
            fps=files[0].header.fps if len({file.header.fps for file in files}) == 1 else None,
            copies=any(file.header.copies for file in files),
        )

    def check_tokens(self, advance: Advance) -> None:
        """Raises ValueError where a token is not in the vocabulary."""
        for file in self.files:
            for start in range(0, len(file.tokens), CHECKED):
                part = file.tokens[start : start + CHECKED]
                check_vocabulary(part, self.header.vocab_size, file.path)
                advance(part.nbytes)

    def check_hashes(self, advance: Advance) -> None:
        """Raises ValueError for a file that is not the one in the manifest."""
        for path, listed in self.hashes.items():
            found = hashlib.sha256()
            with open(path, "rb") as file:
                while part := file.read(CHECKED):
                    found.update(part)
                    advance(len(part))
            if found.hexdigest() != listed:
                raise ValueError(
                    f"{path} is not the file that {MANIFEST} lists: its hash is another; it was "
                    "changed: prepare it again"
                )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content, from the hashes in the manifest or else from all files."""
        hashes = [self.hashes.get(file.path) or file_hash(file.path) for file in self.files]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_tokens(path: str | Path, verify: bool = False) -> Tokens:
    """Open a token file, or a folder of shards, such as train/ of a prepared corpus.

    Headers, starts and sizes are always checked, tokens where there are few of them, and else when
    they are read. verify: read all, and compare tokens with the vocabulary and files with the
    hashes in the manifest.
    Raises: ValueError if there is none, for damaged ones, and for shards that differ in their
    tokens or are not those in the manifest of the corpus.
    """
    data = open_parts(Path(path))
    size = sum(file.tokens.nbytes for file in data.files)
    if verify:
        total = size + sum(file.stat().st_size for file in data.hashes)
        with progress(f"verifying {path}", total, "B") as advance:
            data.check_tokens(advance)
            data.check_hashes(advance)
    elif size <= FEW:
        data.check_tokens(lambda _: None)
    return data


def open_parts(path: Path) -> Tokens:
    """Open a token file, or those of a folder, after the cheap checks."""
    if not path.is_file():
        check_finished(path.parent)
    if not path.is_dir():
        return Tokens(path, [TokenFile(path)])
    parts = [str(path / name) for name in ("train", "validation") if (path / name).is_dir()]
    if parts:
        raise ValueError(f"{path} is a corpus; name a part of it: {' or '.join(parts)}")
    shards = sorted(path.glob("*.bin"))
    if not shards:
        raise ValueError(f"the folder {path} has no token file; make some with `tttvideo prepare`")
    allow_open_files(len(shards) * (1 + len(CONDITIONS)))
    files = [TokenFile(shard) for shard in shards]
    manifest = read_manifest(path.parent)
    if manifest and "action_kinds" in manifest:  # a shard may lack some kinds
        for file in files:
            file.header = replace(file.header, action_kinds=manifest["action_kinds"])
            file.header.check()
    for file in files[1:]:
        same = (*SAME_TOKENS, *SAME_CONDITIONS, "bos", "eos")
        if found := difference(files[0].header, file.header, same):
            raise ValueError(f"{shards[0]} and {file.path} do not belong in one folder: {found}")
    hashes = listed_hashes(path, files, manifest) if manifest else None
    return Tokens(path, files, hashes)


def is_token_data(path: str | Path) -> bool:
    """Whether a path names a token file, or a folder with some, rather than videos."""
    if Path(path).is_dir():
        return any(Path(path).glob("*.bin")) or (Path(path) / MANIFEST).is_file()
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def allow_open_files(more: int) -> None:
    """Raise this process's limit, often 1,024: each mapped array keeps its file open."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        most = soft + more if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft + more, most), hard))


def check_finished(corpus: Path) -> None:
    if (corpus / WORKING).exists() and not (corpus / MANIFEST).exists():
        raise ValueError(
            f"{corpus} is not finished; run the `tttvideo prepare` again, or with --merge when all "
            "of its parts are done"
        )


def difference(one: Header, other: Header, names: Sequence[str] = SAME_TOKENS) -> str:
    """The first of the named facts in which two headers differ, in words; "" if they are equal."""
    facts = ((name, getattr(one, name), getattr(other, name)) for name in names)
    return next((f"{name} is {a} and {b}" for name, a, b in facts if a != b), "")


def read_manifest(corpus: Path) -> dict[str, Any] | None:
    """The manifest of a corpus; None without one. Raises ValueError for a damaged one."""
    try:
        manifest = read_json(corpus / MANIFEST, "prepare it again")
    except FileNotFoundError:
        return None
    shards = manifest.get("shards")
    whole = isinstance(manifest.get("action_kinds", 1), int)
    if not whole or not isinstance(shards, list) or not all(map(is_shard, shards)):
        raise ValueError(f"{corpus / MANIFEST} is damaged; prepare it again")
    return manifest


def is_shard(facts: Any) -> bool:
    """Whether these are the facts about a shard in a manifest."""
    types = {"file": str, "sha256": str, "tokens": int, "documents": int}
    if not isinstance(facts, dict) or not isinstance(facts.get("arrays", {}), dict):
        return False
    return all(isinstance(facts.get(name), kind) for name, kind in types.items())


def listed_hashes(
    path: Path, files: Sequence[TokenFile], manifest: Mapping[str, Any]
) -> dict[Path, str]:
    """Hashes of a folder's shards, and of the arrays beside them, from the manifest of its corpus.

    Raises: ValueError for shards that are missing, were added, or have another size.
    """
    facts = [(f"{path.name}/{f.path.name}", f.header.tokens, f.header.documents) for f in files]
    listed = [shard for shard in manifest["shards"] if shard["file"].startswith(f"{path.name}/")]
    if facts != [(shard["file"], shard["tokens"], shard["documents"]) for shard in listed]:
        raise ValueError(
            f"{path} does not hold the shards that {path.parent / MANIFEST} lists; prepare it again"
        )
    hashes: dict[Path, str] = {}
    for file, shard in zip(files, listed, strict=True):
        hashes[file.path] = shard["sha256"]
        arrays = shard.get("arrays", {})
        hashes |= {condition_path(file.path, n): arrays[n] for n in file.conditions if n in arrays}
    return hashes


@contextmanager
def token_writer(path: str | Path, header: Header) -> Iterator[TokenWriter]:
    """Open a token file to write; it appears when the context ends without an error.

    with token_writer(path, header) as out:
        out.start_document()
        out.write(tokens, poses=poses)
    """
    path = Path(path)
    with ExitStack() as stack:
        names = (path, *(condition_path(path, name) for name in header.conditions))
        partial = [stack.enter_context(replacing(name)) for name in names]
        file, *arrays = (stack.enter_context(open(name, "w+b")) for name in partial)
        file.write(bytes(HEADER_BYTES))
        beside = dict(zip(header.conditions, map(ArrayWriter, arrays), strict=True))
        writer = TokenWriter(file, header, beside)
        yield writer
        for array in beside.values():
            array.finish()
        writer.finish()
        hashes = [checked_hash(*both) for both in zip(partial, writer.content, strict=True)]
        writer.hashes = dict(zip(names, hashes, strict=True))


def checked_hash(path: Path, content: tuple[bytes, int]) -> str:
    """The hash of a file that was just written, if it holds what was meant: a first part, and a
    rest of this checksum. Raises OSError for another content."""
    first, checksum = content
    found, rest = hashlib.sha256(), 0
    with open(path, "rb") as file:
        begin = file.read(len(first))
        found.update(begin)
        while part := file.read(CHECKED):
            found.update(part)
            rest = zlib.crc32(part, rest)
    if begin != first or rest != checksum:
        raise OSError(
            f"{path} does not hold what was written to it; another program writes there, or the "
            "disk is failing"
        )
    return found.hexdigest()


class TokenWriter:
    """Appends documents to an open token file.

    header: may be replaced until the file is closed.
    hashes: of the file and of the arrays beside it, when they are written.
    """

    def __init__(self, file: BinaryIO, header: Header, conditions: Mapping[str, ArrayWriter]):
        self.file, self.header, self.conditions = file, header, conditions
        self.count, self.checksum = 0, 0  # of the tokens: a checksum can be taken back, a hash not
        self.starts: list[int] = []
        self.checksums: list[tuple[int, ...]] = []  # of tokens and arrays, before each document
        self.hashes: dict[Path, str] = {}

    def start_document(self) -> None:
        self.starts.append(self.count)
        arrays = (array.checksum for array in self.conditions.values())
        self.checksums.append((self.checksum, *arrays))

    def write(self, tokens: np.ndarray, **conditions: np.ndarray) -> None:
        """Append tokens (any shape of integers below vocab_size), and rows of each condition."""
        assert tokens.size == 0 or tokens.max() < self.header.vocab_size
        assert conditions.keys() == self.conditions.keys()
        data = tokens.astype(self.header.dtype).tobytes()
        self.file.write(data)
        self.count += tokens.size
        self.checksum = zlib.crc32(data, self.checksum)
        for name, rows in conditions.items():
            assert len(rows) * self.header.frame == tokens.size
            self.conditions[name].write(rows)

    def cut_back(self, documents: int) -> None:
        """Take back all documents after the first `documents`."""
        if documents == len(self.starts):
            return
        self.count = self.starts[documents]
        self.checksum, *others = self.checksums[documents]
        del self.starts[documents:], self.checksums[documents:]
        truncate(self.file, HEADER_BYTES + self.count * self.header.dtype.itemsize)
        for array, checksum in zip(self.conditions.values(), others, strict=True):
            array.cut_back(self.count // self.header.frame, checksum)

    def finish(self) -> None:
        """Write the starts of documents and the header."""
        starts = np.array(self.starts, "<i8").tobytes()
        self.file.write(starts)
        self.checksum = zlib.crc32(starts, self.checksum)
        self.file.seek(0)
        self.header = replace(self.header, tokens=self.count, documents=len(self.starts))
        self.file.write(self.header.pack())
        self.file.flush()

    @property
    def content(self) -> list[tuple[bytes, int]]:
        """Of the file and of each array: the header, and the checksum of the rest."""
        arrays = [(array.header, array.checksum) for array in self.conditions.values()]
        return [(self.header.pack(), self.checksum), *arrays]


class ArrayWriter:
    """Appends rows to an open .npy file, whose type is that of the first rows."""

    def __init__(self, file: BinaryIO):
        self.file, self.count, self.checksum = file, 0, 0
        self.row: np.ndarray | None = None
        self.header = b""

    def write(self, rows: np.ndarray) -> None:
        if self.row is None:
            self.row = np.zeros_like(rows[:0])
            self.write_header()
        assert (rows.dtype, rows.shape[1:]) == (self.row.dtype, self.row.shape[1:])
        data = rows.tobytes()
        self.file.write(data)
        self.count += len(rows)
        self.checksum = zlib.crc32(data, self.checksum)

    def write_header(self) -> None:
        """The header for the present number of rows; numpy leaves room for any other number."""
        assert self.row is not None
        facts = np.lib.format.header_data_from_array_1_0(self.row)
        packed = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            packed, facts | {"shape": (self.count, *self.row.shape[1:])}
        )
        self.header = packed.getvalue()
        self.file.seek(0)
        self.file.write(self.header)

    def cut_back(self, count: int, checksum: int) -> None:
        """Keep the first `count` rows, which have this checksum."""
        if self.row is not None:
            size = self.row.dtype.itemsize * math.prod(self.row.shape[1:])
            truncate(self.file, self.file.tell() - (self.count - count) * size)
            self.count, self.checksum = count, checksum

    def finish(self) -> None:
        if self.row is None:
            raise ValueError("no frame was written, so that its conditions have no type")
        self.write_header()
        self.file.flush()


def truncate(file: BinaryIO, size: int) -> None:
    file.seek(size)
    file.truncate()
