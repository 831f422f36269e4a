"""Files that take their names only when they are whole, and on the disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write a file under, which takes its place at the end.

    After an error what was at `path` is still there, and nothing else. The temporary name does not
    end as `path` does, so that nobody takes half a file for a whole one: a library that goes by the
    suffix has to be told the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with open(partial, "r+b") as file:
            os.fsync(file.fileno())  # a power cut must not leave the name alone
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
