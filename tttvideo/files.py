"""The one way to write a file: under a temporary name, synchronised to the disk, then renamed.

kernels/tuning.py writes its cache itself, because kernels import torch and triton only.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write a file to; it replaces `path` at the end.

    After an error the old file is unchanged and the temporary one is removed. The temporary name
    has another suffix, so that no reader takes half a file for a whole one: a library that chooses
    the format by the suffix needs the format as an argument.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        sync(partial)  # before the rename: a power cut must not leave an empty file of that name
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some network file systems refuse to synchronise a folder
        sync(path.parent)


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


def read_json(path: Path, remedy: str) -> Any:
    """The value in a JSON file. Raises ValueError with `remedy` for a file that is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
