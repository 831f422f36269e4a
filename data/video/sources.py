"""Where videos come from: the files, folders, pictures and arrays that a command names."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path

from tttvideo.data.inputs import unique

from .arrays import ARRAY_SUFFIXES, ArrayVideo, could_be_video, count_videos, read_header
from .conditions import is_condition
from .images import (
    PICTURE_SUFFIXES,
    ImageReader,
    Images,
    Pictures,
    WebP,
    is_animated,
    is_picture,
    natural,
    pictures_of,
)
from .probe import VideoError, VideoInfo, probe
from .reader import VideoReader


RATE = 25.0
"""Frames per second of pictures and arrays, which have none of their own; FFmpeg's choice too."""
# fmt: off
VIDEO_SUFFIXES = (
    ".264", ".265", ".266", ".3g2", ".3gp", ".apng", ".asf", ".avi", ".avs2", ".avs3", ".cdxl",
    ".dav", ".divx", ".dv", ".evc", ".f4v", ".flv", ".gif", ".gxf", ".h261", ".h264", ".h265",
    ".h266", ".hevc", ".ivf", ".ivr", ".kux", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg",
    ".mjpg", ".mkv", ".moflex", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut",
    ".obu", ".ogg", ".ogm", ".ogv", ".qt", ".rcv", ".rm", ".rmvb", ".ts", ".ty", ".usm", ".vc1",
    ".viv", ".vob", ".vvc", ".webm", ".wmv", ".wtv", ".xmv", ".y4m",
)
# fmt: on
TYPESCRIPT = (".ts", ".mts")  # suffixes of MPEG transport streams and of program text
VIDEO_IN_OGG = (b"\x80theora", b"OVP80", b"BBCD", b"\x01video")  # how streams of video begin


@dataclass(frozen=True)
class VideoSource:
    """One video: a file, a folder of pictures, or one of the videos in an array."""

    path: Path
    number: int | None = None
    """of the video inside an array file that holds several"""
    fps: float | None = None
    """frames per second of pictures and arrays; None for a file that has its own times"""

    @property
    def name(self) -> str:
        return f"{self.path}" if self.number is None else f"{self.path}#{self.number}"

    def info(self) -> VideoInfo:
        """The facts that the video declares. Raises VideoError for one that cannot be opened."""
        images = self.images()
        return images.info() if images else probe(self.path)

    def open(self, size: int) -> VideoReader | ImageReader:
        """Its frames, uint8 (size, size, 3). Raises VideoError for a video that cannot serve."""
        images = self.images()
        return ImageReader(images, size) if images else VideoReader(self.path, size)

    def images(self) -> Images | None:
        """The images that it is stored as; None for a video file."""
        suffix = self.path.suffix.lower()
        if self.fps is None:
            return WebP(self.path) if suffix == ".webp" else None
        if suffix in ARRAY_SUFFIXES and not self.path.is_dir():
            return ArrayVideo(self.path, self.number, self.fps)
        return Pictures(self.path, self.fps)


@dataclass
class Found:
    """The videos in the inputs of a command, and what was passed over in its folders."""

    videos: list[VideoSource] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    """number of files by kind: a suffix, or a few words"""
    conditions: int = 0
    """files of actions, poses and the like beside the videos"""

    @property
    def sentence(self) -> str:
        """For people, such as `12 videos, 3 other files passed over: .txt 2, .ts that is no ...`"""
        text = counted(len(self.videos), "video")
        if rates := {source.fps for source in self.videos if source.fps}:
            count = sum(source.fps is not None for source in self.videos)
            text += f" ({count:,} of pictures or arrays, at {rates.pop():g} frames per second)"
        if self.conditions:
            text += f", {counted(self.conditions, 'file')} of conditions"
        if self.passed_over:
            kinds = ", ".join(f"{kind} {n:,}" for kind, n in self.passed_over.most_common())
            text += f", {counted(self.passed_over.total(), 'other file')} passed over: {kinds}"
        return text


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def printable(text: str) -> str:
    """Text that can be printed, though names of files in it may be no Unicode."""
    return text.encode(errors="backslashreplace").decode()


def find_videos(inputs: Iterable[str | Path], fps: float | None = None) -> Found:
    """The videos that are named, and those in named folders and globs, in natural order.

    Links are followed. A folder of pictures without another video is a video. What is no video is
    passed over and counted in a folder, and refused where it is named. A video that is named
    several times comes once, at its first place.

    fps: frames per second of pictures and arrays, which have none of their own; None: RATE.
    Raises: ValueError for a path that does not exist, for an empty file, for a named file that is
    no video, for a folder or a glob without a video, for a folder with as many pictures of one kind
    as of another, and for an `fps` that nothing needs.
    """
    found = Found()
    for path in map(Path, inputs):
        if path.is_dir():
            found.videos += search(path, found, fps or RATE)
        elif not path.exists() and has_magic(str(path)):
            found.videos += match(path, found, fps or RATE)
        else:
            found.videos += named(path, fps or RATE)
    found.videos = unique(found.videos, key=lambda video: (video.path.resolve(), video.number))
    if fps is not None and not any(video.fps for video in found.videos):
        raise ValueError(
            f"a rate of {fps:g} frames per second is given, but all videos have their own times; "
            "it is for folders of pictures and for arrays"
        )
    return found


def one_video(path: str | Path, fps: float | None = None) -> VideoSource:
    """The only video of a path; see `find_videos`. Raises ValueError for several."""
    videos = find_videos([path], fps).videos
    if len(videos) == 1:
        return videos[0]
    raise ValueError(
        f"{path} holds {len(videos):,} videos, and one is wanted; name it, such as {videos[0].name}"
    )


def named(path: Path, fps: float) -> list[VideoSource]:
    """The videos of a file that a person named, or one of an array, such as clips.npy#3."""
    whole, _, number = str(path).rpartition("#")
    if not path.exists() and number.isdigit() and Path(whole).suffix.lower() in ARRAY_SUFFIXES:
        videos = array_videos(Path(whole), fps) if Path(whole).is_file() else []
        if len(videos) <= int(number):
            raise ValueError(f"there is no video {path}; {whole} holds {len(videos):,} videos")
        return [videos[int(number)]]
    if not path.exists():
        raise ValueError(f"there is no file or folder {path}")
    if not path.stat().st_size and path.is_file():
        raise ValueError(f"{path} is empty (0 bytes); fetch it again or leave it out")
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return array_videos(path, fps)
    if path.suffix.lower() in PICTURE_SUFFIXES and not is_animated(path):
        raise ValueError(
            f"{path} is one picture; name its folder, whose pictures become the frames of a video"
        )
    return [VideoSource(path)]


def array_videos(path: Path, fps: float) -> list[VideoSource]:
    """Every video of an array file. Raises VideoError for an array that is no video."""
    count = count_videos(path, read_header(path))
    numbers = [None] if count is None else range(count)
    return [VideoSource(path, number, fps) for number in numbers]


def search(folder: Path, found: Found, fps: float) -> list[VideoSource]:
    """The videos below a folder."""
    before = found.passed_over.copy()
    videos = [
        video
        for files in walk(folder, found.passed_over)
        for video in videos_among(files, found, fps)
    ]
    return videos or nothing(f"the folder {folder}", found.passed_over - before)


def match(pattern: Path, found: Found, fps: float) -> list[VideoSource]:
    """The videos among the files, and below the folders, of a glob."""
    before = found.passed_over.copy()
    paths = sorted(map(Path, glob(str(pattern), recursive=True)), key=natural)
    folders = {path for path in paths if path.is_dir()}
    paths = [path for path in paths if folders.isdisjoint(path.parents)]  # once, for `**`
    files = [path for path in paths if is_visible_file(path, found.passed_over)]
    videos = videos_among(files, found, fps, pictures=False)
    for folder in (path for path in paths if path in folders):
        for files in walk(folder, found.passed_over):
            videos += videos_among(files, found, fps)
    return videos or nothing(f"the pattern {pattern}", found.passed_over - before)


def nothing(where: str, passed_over: Counter[str]) -> list[VideoSource]:
    rest = Found(passed_over=passed_over).sentence.partition(", ")[2]
    raise ValueError(
        f"{where} has no video{f' ({rest})' if rest else ''}; videos end in "
        f"{', '.join((*VIDEO_SUFFIXES, *ARRAY_SUFFIXES))}, or are folders of pictures"
    )


def walk(folder: Path, passed_over: Counter[str]) -> Iterator[list[Path]]:
    """The files of a folder and of each folder below it, in natural order; a folder comes once.

    Hidden files and folders, and what cannot be opened, are counted and passed over.
    """

    def refused(error: OSError) -> None:
        passed_over["folders that cannot be opened"] += 1

    seen = set()
    for here, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        facts = os.stat(here)
        if (facts.st_dev, facts.st_ino) in seen:  # a link to it came before: perhaps a loop
            folders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        passed_over.update("hidden" for name in folders if name[0] == ".")
        folders[:] = sorted((n for n in folders if n[0] != "."), key=lambda n: natural(Path(n)))
        paths = sorted((Path(here, name) for name in names), key=natural)
        yield [path for path in paths if is_visible_file(path, passed_over)]


def is_visible_file(path: Path, passed_over: Counter[str]) -> bool:
    """Whether a path is a file that is not hidden; what is neither file nor folder is counted."""
    if path.name.startswith("."):  # also the "._" files that macOS writes beside others
        passed_over["hidden"] += 1
        return False
    try:
        mode = path.stat().st_mode
    except OSError:
        passed_over["broken links"] += 1
        return False
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        passed_over["pipes and devices"] += 1
    return stat.S_ISREG(mode)


def videos_among(
    files: list[Path], found: Found, fps: float, pictures: bool = True
) -> list[VideoSource]:
    """The videos among the files of one folder; the other files are counted.

    pictures: whether its pictures are a video, if there is no other.
    """
    videos, stills = [], []
    for file in files:
        if is_condition(file):
            found.conditions += 1
        elif is_picture(file) and not is_animated(file):
            stills.append(file)
        elif label := kind_passed_over(file):
            found.passed_over[label] += 1
        else:
            videos += found_in(file, fps)
    frames = pictures_of(stills) if pictures and not videos and len(stills) > 1 else []
    found.passed_over.update(file.suffix.lower() for file in set(stills) - set(frames))
    return videos or ([VideoSource(frames[0].parent, None, fps)] if frames else [])


def kind_passed_over(file: Path) -> str:
    """The kind of a file that is no video; empty for a video."""
    suffix = file.suffix.lower()
    if suffix in TYPESCRIPT and is_text(file):
        return f"{suffix} that is no video"
    if suffix == ".ogg" and is_sound(file):
        return f"{suffix} that is no video"
    if suffix in ARRAY_SUFFIXES and not is_video_array(file):
        return f"{suffix} that is no video"
    if suffix in (*VIDEO_SUFFIXES, *ARRAY_SUFFIXES, *PICTURE_SUFFIXES):
        return ""
    return suffix or "without suffix"


def is_text(file: Path) -> bool:
    """Whether a file begins as text; one that cannot be opened is found, and fails when it is."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(1024)
    except OSError:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a letter that was cut
    return b"\0" not in head


def is_sound(file: Path) -> bool:
    """Whether an Ogg file has no stream of video, all of which begin at its start."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(4096)
    except OSError:
        return False
    return head.startswith(b"OggS") and not any(mark in head for mark in VIDEO_IN_OGG)


def is_video_array(file: Path) -> bool:
    """Whether an array file has frames, or is damaged so that nobody knows."""
    try:
        return could_be_video(read_header(file))
    except VideoError:
        return True


def found_in(file: Path, fps: float) -> list[VideoSource]:
    """The videos of a file in a folder; one that cannot be read is found, and fails when opened."""
    if file.suffix.lower() not in ARRAY_SUFFIXES:
        return [VideoSource(file)]
    try:
        return array_videos(file, fps)
    except VideoError:
        return [VideoSource(file, None, fps)]
