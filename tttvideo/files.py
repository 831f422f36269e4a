"""The one way to write a file: under a name of its own, synchronised to the disk, then renamed.

And the one way to work in a folder alone: `locked`. kernels/tuning.py writes its cache itself,
because kernels import torch and triton only.
"""

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, the largest file
HELD = (errno.EAGAIN, errno.EACCES)  # what a lock of another process raises
log = logging.getLogger("tttvideo")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; it replaces `path` at the end.

    After an error the old file is unchanged and the temporary one is removed. Two who write `path`
    at once have two names. A temporary name has another suffix, so that no reader takes half a file
    for a whole one: a library that chooses the format by the suffix needs the format as an
    argument.
    Raises: OSError, with the name of the file, where the disk has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = new_partial(path)
    try:
        yield partial
        sync(partial)  # before the rename: a power cut must not leave an empty file of that name
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL:
            raise no_room(path, str(error.strerror)) from error
        raise
    finally:
        os.close(descriptor)
    with suppress(OSError):  # some network file systems refuse to synchronise a folder
        sync(path.parent)


def no_room(path: Path, reason: str) -> OSError:
    """The error for a file that could not be written to its end."""
    return OSError(
        f"{path} cannot be written: {reason}. What was there before is unchanged; make room and "
        "run the command again"
    )


def new_partial(path: Path) -> tuple[int, Path]:
    """A new file for what will replace `path`: its descriptor, which holds a lock, and its name.

    It is always created, so that nothing is written through a symbolic link. A file that nobody
    holds was left by a run that was killed, and is removed.
    """
    for number in count():
        partial = path.with_name(f"{path.name}{f'.{number}' if number else ''}.partial")
        remove_abandoned(partial)
        with suppress(FileExistsError):
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            with suppress(OSError):  # without locks such files are not removed
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if names(partial, descriptor):
                return descriptor, partial
            os.close(descriptor)  # removed before it was locked
    raise AssertionError


def remove_abandoned(partial: Path) -> None:
    """Remove a temporary file that no living process holds."""
    try:
        descriptor = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if names(partial, descriptor):
                partial.unlink()
    finally:
        os.close(descriptor)


def names(path: Path, descriptor: int) -> bool:
    """Whether a path is the name of an open file, rather than of nothing or of a newer one."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def locked(path: Path, shared: bool = False) -> Iterator[int]:
    """Hold the lock file `path`, which is removed at the end, against all who work in its folder.

    The system frees the lock of a process that died, and the next one takes it over. Yields an open
    file: a process that it is passed to holds the lock as well.

    shared: let others hold it who share it too.
    Raises: ValueError, which names the process, where another holds it.
    """
    made = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = take_lock(path, shared)
    try:
        yield descriptor
    finally:
        with suppress(OSError):  # others may still share it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            if made:
                path.parent.rmdir()
        os.close(descriptor)


def lock_beside(file: Path) -> Path:
    """The lock file of whoever writes one file."""
    return file.with_name(f".{file.name}.lock")


def take_lock(path: Path, shared: bool) -> int:
    """The open lock file, locked, with this process in it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(descriptor, 200).decode(errors="replace").strip()
            if error.errno in HELD:
                os.close(descriptor)
                raise ValueError(
                    f"another run ({owner or 'it has just begun'}) is working in {path.parent}; "
                    "wait for its end, or end it first"
                ) from error
            log.warning("%s is on a file system without locks; let no other run write there", path)
        if names(path, descriptor):
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            return descriptor
        os.close(descriptor)  # its owner removed it meanwhile


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(
    path: Path, value: Any, indent: int | None = 1, default: Callable[[Any], Any] | None = None
) -> None:
    """Write a value as JSON; `default` converts what JSON has no form for."""
    write_text(path, json.dumps(value, indent=indent, default=default) + "\n")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The mapping in a JSON file. Raises ValueError with `remedy` for a file that holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged (it holds no mapping); {remedy}")
    return value
