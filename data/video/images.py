"""Videos that are stored as images: pictures in a folder, animated WebP, arrays (arrays.py).

They are read as VideoReader reads a file: every frame once and in order, the short side resized
bilinearly by FFmpeg's scaler, cropped around its centre, exact where nothing is resized.

H height, W width.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from av import VideoFrame
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps

from .probe import UPRIGHT, Index, VideoError, VideoInfo, one_line
from .reader import Frame, check_size, crop, scaled_size, size_text


PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # others of Pillow start programs
DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of more than 8 bits


class Images(Protocol):
    """The stored images of one video, uint8 (H, W, 3), with its facts."""

    library: str

    def info(self) -> VideoInfo: ...
    def times(self) -> np.ndarray: ...
    def __iter__(self) -> Iterator[np.ndarray]: ...


class ImageReader:
    """All frames of a video that is stored as images, each once and in order; see VideoReader.

    Raises: VideoError for images that cannot serve, and during an iteration for damage.
    """

    def __init__(self, images: Images, size: int) -> None:
        check_size(size)
        self.images, self.size, self.info = images, size, images.info()
        self.index = Index(images.times(), 0, True)
        self.width, self.height = scaled_size(self.info.width, self.info.height, size)
        self.backend, self.reason = images.library, "the frames are stored as images"
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Frame]:
        scaler = VideoReformatter()
        for image, time in zip(self.images, self.index.times.tolist(), strict=True):
            if image.shape[:2] != (self.info.height, self.info.width):
                height, width = image.shape[:2]
                first = size_text((self.info.width, self.info.height))
                raise VideoError(
                    f"{self.info.path} has an image of {size_text((width, height))} at {time:g} s, "
                    f"and its first is of {first}; make all of one size, or put them into folders "
                    "by size"
                )
            frame = VideoFrame.from_ndarray(image, format="rgb24")
            frame = scaler.reformat(
                frame, self.width, self.height, "rgb24", interpolation="BILINEAR"
            )
            yield Frame(crop(frame.to_ndarray(), self.size), time)

    def expected(self) -> int:
        """The number of frames that must come."""
        return len(self.index.times)


def image_info(
    path: Path, container: str, codec: str, size: tuple[int, int], fps: float, frames: int
) -> VideoInfo:
    """The facts of a video of images; size: (width, height)."""
    width, height = size
    return VideoInfo(
        path=path,
        container=container,
        codec=codec,
        width=width,
        height=height,
        fps=fps,
        frames=frames,
        turn=UPRIGHT,
        interlaced=False,
        streams=1,
    )


# --- a folder of pictures


@dataclass(frozen=True)
class Pictures:
    """The pictures of a folder, in natural order, as the frames of a video of `fps`."""

    path: Path
    fps: float

    library = "pillow"

    @cached_property
    def files(self) -> list[Path]:
        files = pictures_of([file for file in self.path.iterdir() if file.is_file()])
        if not files:
            raise VideoError(f"the folder {self.path} has no pictures; leave it out")
        return files

    def info(self) -> VideoInfo:
        size = load_picture(self.files[0]).size
        codec = kind_of(self.files[0]).removeprefix(".")
        return image_info(self.path, "pictures", codec, size, self.fps, len(self.files))

    def times(self) -> np.ndarray:
        return np.arange(len(self.files)) / self.fps

    def __iter__(self) -> Iterator[np.ndarray]:
        for file in self.files:
            yield np.asarray(load_picture(file))


def pictures_of(files: list[Path]) -> list[Path]:
    """Of the files of a folder, the pictures of the most frequent kind, in natural order.

    Raises VideoError for two kinds that are equally frequent.
    """
    kinds: dict[str, list[Path]] = {}
    for file in files:
        if is_picture(file):
            kinds.setdefault(kind_of(file), []).append(file)
    most = sorted(kinds, key=lambda kind: len(kinds[kind]))
    if len(most) > 1 and len(kinds[most[-1]]) == len(kinds[most[-2]]):
        raise VideoError(
            f"the folder {files[0].parent} has as many pictures {most[-1]} as {most[-2]}, of which "
            "only one kind can be the frames of a video; move the others"
        )
    return sorted(kinds[most[-1]], key=natural) if most else []


def is_picture(file: Path) -> bool:
    """Whether a file's name is that of a picture, and it is not hidden."""
    return file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".")


def kind_of(picture: Path) -> str:
    """The suffix, in its short spelling."""
    suffix = picture.suffix.lower()
    return {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix, suffix)


def natural(path: Path) -> list[tuple[list[str | int], str]]:
    """A key that sorts 2 before 10, folder by folder."""
    return [
        ([int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", part.casefold())], part)
        for part in path.parts
    ]


def load_picture(path: Path) -> Image.Image:
    """A picture, turned upright, in RGB without transparency: what is transparent shows its colour.

    Raises: VideoError for one that cannot be read exactly.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode in DEEP:
                raise VideoError(f"{path} has more than 8 bits a colour; convert it to 8 bits")
            if image.format == "TIFF" and (pages := getattr(image, "n_frames", 1)) > 1:
                raise VideoError(
                    f"{path} has {pages} pages; save them as files of one page each, or all as an "
                    ".npy of (T, H, W, 3)"
                )
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(
            f"{path} cannot be read as a picture ({one_line(error)}); make it anew or move it"
        ) from error


# --- animated WebP, which FFmpeg does not read


@dataclass(frozen=True)
class WebP:
    path: Path

    library = "pillow"

    @cached_property
    def durations(self) -> np.ndarray:
        """Seconds of every frame; 0 is shown for 0.1 s, as browsers do."""
        found = [ms / 1000 or 0.1 for ms in webp_durations(self.path)]
        if not found:
            raise VideoError(f"{self.path} is one picture; name its folder to read its pictures")
        return np.array(found)

    def info(self) -> VideoInfo:
        count, seconds = len(self.durations), float(self.durations.sum())
        with self.opened() as image:
            return image_info(self.path, "webp", "webp", image.size, count / seconds, count)

    def times(self) -> np.ndarray:
        return np.cumsum(self.durations) - self.durations

    def __iter__(self) -> Iterator[np.ndarray]:
        with self.opened() as image:
            for number in range(len(self.durations)):
                try:
                    image.seek(number)
                    yield np.asarray(image.convert("RGB"))
                except (OSError, EOFError) as error:
                    raise VideoError(
                        f"{self.path} is damaged after {number} good frames: {one_line(error)}; "
                        "fetch it again or leave it out"
                    ) from error

    def opened(self) -> Image.Image:
        try:
            return Image.open(self.path, formats=("WEBP",))
        except OSError as error:
            raise VideoError(
                f"{self.path} cannot be read as WebP ({one_line(error)}); fetch it again or leave "
                "it out"
            ) from error


def webp_durations(path: Path) -> list[int]:
    """Milliseconds of every frame, of the ANMF chunks of the RIFF container.

    See https://developers.google.com/speed/webp/docs/riff_container; none in a still picture.
    """
    found = []
    with open(path, "rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            start = file.tell()
            if head[:4] == b"ANMF":
                found.append(int.from_bytes(file.read(15)[12:], "little"))
            file.seek(start + size + size % 2)
    return found


def is_animated(path: Path) -> bool:
    """Whether a .webp or .png file holds an animation, by its first bytes.

    One that cannot be opened counts as a picture, which fails when its folder is read.
    """
    if path.suffix.lower() not in (".png", ".webp"):
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(1 << 16)
    except OSError:
        return False
    if head.startswith(b"\x89PNG"):
        return b"acTL" in head.partition(b"IDAT")[0]
    return head[:4] == b"RIFF" and head[12:16] == b"VP8X" and bool(head[20] & 2)
