"""Input files of a command, from the paths, folders and globs that it names."""

from collections.abc import Callable, Iterable
from glob import glob, has_magic
from pathlib import Path
from typing import Any, TypeVar


DISK = 20e6  # bytes per second of the slowest disk; an index may be anywhere in a file

Item = TypeVar("Item")


def find_files(
    inputs: Iterable[str | Path], suffixes: tuple[str, ...], names: str = ""
) -> list[Path]:
    """The named files, and the files below named folders or of globs that end in a suffix.

    The files of a folder or glob are sorted. A file that is named several times comes once, at its
    first place.
    names: the suffixes as an error lists them, if there are many.
    Raises: ValueError for a path that does not exist, for an empty file, and for a folder or a
    glob without such a file.
    """
    files: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir() or (not path.exists() and has_magic(str(path))):
            files += search(path, suffixes, names or ", ".join(suffixes))
        elif not path.exists():
            raise ValueError(f"there is no file or folder {path}")
        elif not path.stat().st_size:
            raise ValueError(f"{path} is empty; leave it out or put something into it")
        else:
            files.append(path)
    return unique(files, key=Path.resolve)


def search(path: Path, suffixes: tuple[str, ...], names: str) -> list[Path]:
    """The files below a folder, or of a glob, that end in a suffix, sorted."""
    found = path.rglob("*") if path.is_dir() else map(Path, glob(str(path), recursive=True))
    files = sorted(file for file in found if is_input(file, suffixes))
    if not files:
        kind = "folder" if path.is_dir() else "pattern"
        raise ValueError(f"the {kind} {path} has no file that ends in {names}")
    return files


def is_input(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether a file ends in a suffix and is no "._" file, which macOS writes beside others."""
    name = path.name.lower()
    return name.endswith(suffixes) and path.is_file() and not name.startswith("._")


def unique(items: Iterable[Item], key: Callable[[Item], Any]) -> list[Item]:
    """The items, each key once, at its first place."""
    first: dict[Any, Item] = {}
    for item in items:
        first.setdefault(key(item), item)
    return list(first.values())


def stamp(path: Path) -> tuple[int, int]:
    """Bytes, and the time of the last change in ns, of a file or of all files in a folder.

    The time of a folder counts too: its names are the order of pictures. (0, 0) if it is gone.
    """
    try:
        files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
        facts = [file.stat() for file in files]
        times = [fact.st_mtime_ns for fact in (*facts, path.stat())]
    except OSError:
        return 0, 0
    return sum(fact.st_size for fact in facts), max(times)
