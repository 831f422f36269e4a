"""Conditions of a video's frames, in files beside it: one row per frame.

clip.mp4 has clip.actions.npy, or .csv, or .jsonl, and so on for each name of CONDITIONS; an array
file that holds the video, clip.npz, may hold them too, under these names. A .csv has a frame's
numbers on each line, after an optional line of names; a .jsonl a number or a list. A suffix may be
written in capitals.

F frames, A numbers of an action, D numbers of a pose.
"""

import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np

from tttvideo.data.tokens import CONDITIONS
from tttvideo.files import replacing

from .probe import one_line


DAMAGE = (OSError, ValueError, EOFError, BadZipFile, ZlibError)  # what a damaged file raises
MOST = np.iinfo(np.int32).max


def read_conditions(path: Path, number: int | None, frames: int) -> dict[str, np.ndarray]:
    """The conditions of a video by their names, one row for each of its `frames`; {} for none.

    path: the video file, array file or folder of pictures.
    number: of the video in an array file that holds several, as do then the arrays beside it.
    Raises: ValueError, in one line, as `read_condition` does, and for another number of rows.
    """
    found = {name: file for name in CONDITIONS if (file := find_condition(path, name))}
    rows = {name: read_condition(file, name, number) for name, file in found.items()}
    if "classes" in rows and len(rows["classes"]) == 1:
        rows["classes"] = rows["classes"].repeat(frames)
    for name, array in rows.items():
        if len(array) != frames:
            what = f"video {number} of {path}" if number is not None else str(path)
            raise ValueError(
                f"{found[name]} has {len(array)} rows of {name} for the {frames} frames of {what}; "
                "give one row for each frame"
            )
    return rows


def write_conditions(path: Path, **arrays: np.ndarray) -> None:
    """Write the conditions of a video beside it: clip.mp4 gets clip.actions.npy and so on."""
    path = with_name(path)
    for name, rows in arrays.items():
        out = path.parent / f"{title(path)}.{name}.npy"
        with replacing(out) as partial, open(partial, "wb") as file:
            np.save(file, checked(rows, name, str(path)))


def title(path: Path) -> str:
    """The name that conditions share with a video, or with a folder of pictures."""
    return path.name if path.is_dir() else path.stem


def with_name(path: Path) -> Path:
    """A path that ends in a name, which `.` and `..` do not."""
    return path.resolve() if path.name in ("", "..") else path


def beside(path: Path, name: str) -> list[Path]:
    """The files of a condition beside a video, or beside a folder of pictures."""
    path = with_name(path)
    if not path.parent.is_dir():
        return []
    files = condition_files(path.parent, path.parent.stat().st_mtime_ns)
    return files.get(f"{title(path)}.{name}", [])


@lru_cache(maxsize=16)
def condition_files(folder: Path, changed: int) -> dict[str, list[Path]]:
    """The files of conditions in a folder, by their names without suffix, such as clip.actions.

    changed: time of the last change of the folder, in ns.
    """
    found: dict[str, list[Path]] = {}
    for name in sorted(os.listdir(folder)):
        if is_condition(file := folder / name) and file.is_file():
            found.setdefault(file.stem, []).append(file)
    return found


def is_condition(path: Path) -> bool:
    """Whether a file is by its name the condition of a video, such as clip.actions.npy."""
    name = Path(path.stem).suffix[1:]
    return path.suffix.lower() in READERS and name in CONDITIONS


def find_condition(path: Path, name: str) -> Path | None:
    """The file that holds a condition of a video; None if there is none.

    Raises: ValueError where there are two.
    """
    files = beside(path, name)
    if path.suffix.lower() == ".npz" and path.is_file() and name in arrays_of(path):
        files = [*files, path]
    if len(files) > 1:
        raise ValueError(f"{path} has {name} in {files[0]} and in {files[1]}; remove one of them")
    return files[0] if files else None


def read_condition(path: Path, name: str, number: int | None = None) -> np.ndarray:
    """The rows of a condition, in the form that CONDITIONS states.

    path: a .npy, .csv or .jsonl, or an .npz that holds an array of this name.
    number: the video whose rows these are, where an array has several.
    Raises: ValueError, in one line, for files of another kind, rows of another form, and numbers
        that are not finite.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is no file of {name}; give one of {', '.join(READERS)}")
    if not path.is_file():
        raise ValueError(f"there is no file {path}; it should have the {name} of the frames")
    try:
        rows = np.asarray(reader(path, name))
    except KeyError as error:
        held = ", ".join(arrays_of(path)) or "nothing"
        raise ValueError(f"{path} holds no array {name}, but {held}; rename one") from error
    except DAMAGE as error:
        raise ValueError(
            f"{path} cannot be read as {name}: {one_line(error)}; a row is a number, or "
            "a list of as many numbers as the others"
        ) from error
    if number is not None:
        rows = rows_of_video(rows, number, f"{path}: {name}")
    return checked(rows, name, str(path))


def rows_of_video(rows: np.ndarray, number: int, what: str) -> np.ndarray:
    videos = len(rows) if rows.ndim else 0
    if number >= videos:
        raise ValueError(f"{what} are of {videos} videos; there is none for video {number}")
    return rows[number]


def checked(rows: np.ndarray, name: str, where: str) -> np.ndarray:
    """Rows in the form that CONDITIONS states, as int32 or float32.

    Raises: ValueError for rows of another form, and for values that the condition cannot have.
    """
    shape, whole, wide = rows.shape, rows.dtype.kind in "biu", name in ("poses", "ages")
    rows = rows[None] if rows.ndim == 0 and name == "classes" else rows
    rows = rows[:, 0] if rows.ndim == 2 and shape[1] == 1 and not wide else rows
    fits = rows.ndim == 1 + wide or (rows.ndim == 2 and name == "actions")
    if not fits or rows.dtype.kind not in "biuf" or (name in ("ages", "classes") and not whole):
        raise ValueError(
            f"{where} has {name} of shape {shape} and type {rows.dtype}; they must be {FORMS[name]}"
        )
    check_values(rows, name, where)
    if name == "actions" and rows.ndim == 1 and not whole:
        rows = rows[:, None]
    return rows.astype(np.int32 if whole and name != "seconds" else np.float32)


def check_values(rows: np.ndarray, name: str, where: str) -> None:
    """Raise ValueError for the first row with a number that the condition cannot have."""
    bad, allowed = ~np.isfinite(rows), "finite"
    if name == "seconds":
        bad, allowed = bad | (rows <= 0), "finite and above 0"
    elif rows.dtype.kind in "iu":
        counted = rows.ndim == 1 or name == "ages"
        least = -1 if name == "ages" else 0 if counted else -MOST
        bad, allowed = (rows < least) | (rows > MOST), f"from {least} to {MOST}"
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise ValueError(f"{where}: {name} of frame {row} are {rows[row]}; they must be {allowed}")


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def read_csv(path: Path, name: str) -> list[Any]:
    """Rows of numbers; integers where all are."""
    found = lines(path)
    if found and not is_number(found[0].split(",")[0]):  # names of the columns
        del found[0]
    return [[number(cell) for cell in line.split(",")] for line in found]


def number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def is_number(text: str) -> bool:
    try:
        return number(text) is not None
    except ValueError:
        return False


def arrays_of(path: Path) -> list[str]:
    """The names of the arrays in an .npz. Raises ValueError for a damaged one."""
    try:
        with open(path, "rb") as file, np.load(file) as arrays:  # closed where it is damaged
            return list(arrays)
    except DAMAGE as error:
        raise ValueError(
            f"{path} cannot be read as arrays ({one_line(error)}); save it again or leave it out"
        ) from error


def read_npz(path: Path, name: str) -> np.ndarray:
    with open(path, "rb") as file, np.load(file) as arrays:  # closed where it is damaged
        return arrays[name]


READERS: dict[str, Callable[[Path, str], Any]] = {
    ".npy": lambda path, name: np.load(path),
    ".npz": read_npz,
    ".csv": read_csv,
    ".jsonl": lambda path, name: [json.loads(line) for line in lines(path)],
}
"""Functions of the path and the name of a condition, by the suffix of the file."""
FORMS = {
    "actions": "(frames,) integers, or (frames, numbers)",
    "poses": "(frames, numbers)",
    "ages": "(frames, tokens) integers",
    "seconds": "(frames,) numbers",
    "classes": "(frames,) integers, or one integer",
}


def seconds_between(times: np.ndarray) -> np.ndarray:
    """The condition `seconds` of frames at these times (F,), in seconds and rising: (F,) float32.

    After the last frame it is the time before it; a single frame has one second.
    """
    steps = np.diff(times)
    after = np.append(steps, steps[-1:] if len(steps) else 1.0)
    return after[: len(times)].astype(np.float32)
