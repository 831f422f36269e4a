"""Videos that are stored in NumPy arrays, one or several in a file.

T frames, N videos, H height, W width, C colours (1 grey, 3 RGB).
"""

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

from .images import image_info
from .probe import VideoError, VideoInfo, one_line


ARRAY_SUFFIXES = (".npy", ".npz")
FRAMES_KEYS = ("frames", "video", "image")  # of the arrays in an .npz
MOVING_MNIST = (20, 64, 64)  # T, H, W of an array (T, N, H, W)


@dataclass(frozen=True)
class ArrayHeader:
    """The array of frames in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    key: str | None
    """its name in an .npz"""


@dataclass(frozen=True)
class ArrayVideo:
    """One video of an array file: (T, H, W), (T, H, W, C), number of (N, T, H, W, C), Moving MNIST.

    Memory is bounded: an .npy is mapped, an .npz is read frame by frame. Nothing is unpickled.
    """

    path: Path
    number: int | None
    fps: float

    library = "numpy"

    @cached_property
    def header(self) -> ArrayHeader:
        return read_header(self.path)

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C)"""
        count = count_videos(self.path, self.header)
        if (self.number is None) != (count is None) or (self.number or 0) >= (count or 1):
            raise VideoError(f"{self.path} has no video {self.number}; it has {count or 1}")
        shape = self.header.shape
        if is_moving_mnist(shape):
            return *MOVING_MNIST, 1
        T, H, W, C = shape[-4:] if len(shape) > 3 else (*shape, 1)
        return T, H, W, C

    def info(self) -> VideoInfo:
        T, H, W, _ = self.shape
        container = self.path.suffix.lower().removeprefix(".")
        return image_info(self.path, container, "uint8", (W, H), self.fps, T)

    def times(self) -> np.ndarray:
        return np.arange(self.shape[0]) / self.fps

    def __iter__(self) -> Iterator[np.ndarray]:
        _, H, W, C = self.shape
        for image in self.mapped() if self.header.key is None else self.streamed():
            yield np.ascontiguousarray(np.broadcast_to(image.reshape(H, W, C), (H, W, 3)))

    def mapped(self) -> np.ndarray:
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError) as error:
            raise unreadable(self.path, error) from error
        if self.number is None:
            return array
        return array[:, self.number] if is_moving_mnist(array.shape) else array[self.number]

    def streamed(self) -> Iterator[np.ndarray]:
        T, H, W, C = self.shape
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.header.key}.npy") as f:
                read_npy_header(f)
                for _ in range(T):
                    if len(data := f.read(H * W * C)) < H * W * C:
                        raise EOFError("it ends early")
                    yield np.frombuffer(data, np.uint8)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise unreadable(self.path, error) from error


def read_header(path: Path) -> ArrayHeader:
    """The header of the array of frames in an .npy or .npz. Raises VideoError without one."""
    try:
        if path.suffix.lower() == ".npy":
            with open(path, "rb") as file:
                return ArrayHeader(*read_npy_header(file), key=None)
        with zipfile.ZipFile(path) as archive:
            keys = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
            key = next((key for key in FRAMES_KEYS if key in keys), None)
            if key is None and len(keys) != 1:
                raise VideoError(
                    f"{path} has the arrays {', '.join(keys) or '(none)'}; name that of its frames "
                    f"{' or '.join(FRAMES_KEYS)}"
                )
            key = key or keys[0]
            with archive.open(f"{key}.npy") as file:
                return ArrayHeader(*read_npy_header(file), key=key)
    except VideoError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise unreadable(path, error) from error


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, type and whether the order is Fortran's; the file is then at the first number."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"its format is {version}, of arrays with named fields")
    return shape, dtype, fortran


def count_videos(path: Path, header: ArrayHeader) -> int | None:
    """The number of videos N in an array that has an axis of them; None for a single video.

    Raises: VideoError for an array that is no video, with the way to make it one.
    """
    shape, name = header.shape, f"the array {header.key}" if header.key else "its array"
    layouts = "(T, H, W), (T, H, W, 1 or 3) or (N, T, H, W, 1 or 3)"
    if header.dtype != np.uint8:
        raise VideoError(
            f"{path}: {name} is {header.dtype} {shape}; frames must be uint8 from 0 to 255: "
            "x.astype('uint8'), after 255 * x if it is from 0 to 1"
        )
    moving = is_moving_mnist(shape)
    if 0 in shape or not (
        moving or len(shape) == 3 or (len(shape) in (4, 5) and shape[-1] in (1, 3))
    ):
        raise VideoError(
            f"{path}: {name} is {shape}; it must be {layouts}, or Moving MNIST's (20, N, 64, 64): "
            "x[..., None] adds an axis of colour, np.moveaxis(x, -3, -1) puts it last"
        )
    count = shape[1] if moving else shape[0] if len(shape) == 5 else None
    if header.key and (count is not None or header.fortran):
        part = f"np.ascontiguousarray(np.load('{path.name}')['{header.key}'])"
        raise VideoError(
            f"{path}: {name} is {shape}, which cannot be read in parts from an .npz; save it as "
            f"an .npy: np.save('{path.stem}.npy', {part})"
        )
    return count


def is_moving_mnist(shape: tuple[int, ...]) -> bool:
    """Whether an array is (20, N, 64, 64), N videos of 20 grey frames."""
    return len(shape) == 4 and (shape[0], *shape[2:]) == MOVING_MNIST


def could_be_video(header: ArrayHeader) -> bool:
    """Whether an array that is found in a folder is worth a complaint if it is no video."""
    return len(header.shape) > 3 or (len(header.shape) == 3 and header.dtype == np.uint8)


def unreadable(path: Path, error: Exception) -> VideoError:
    return VideoError(
        f"{path} cannot be read as an array ({one_line(error)}); save it again or leave it out"
    )
