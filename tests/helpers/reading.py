"""The figures of reading video that the README states.

python tests/helpers/reading.py damage           wrong frames that pass, of 40 files of each codec
python tests/helpers/reading.py speed VIDEO...   every frame at 64 pixels, against bare decord
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np

from tttvideo.data.video.drawn.pan import torus_picture
from tttvideo.data.video.reader import VideoReader, decord_frames


WIDTH, HEIGHT, FRAMES, SIZE = 192, 108, 60, 64
FILES, INVERTED = 40, 8  # files of each codec, and bytes inverted in each
MOST, REPEATS = 400, 3  # frames of a video that are timed
X265 = {"preset": "veryfast", "x265-params": "log-level=none"}
HASHED = {**X265, "x265-params": "log-level=none:hash=1"}
KINDS: dict[str, tuple[str, str, dict[str, str], str]] = {
    "H.264 CABAC": ("mp4", "libx264", {"preset": "veryfast"}, "yuv420p"),
    "H.264 CAVLC": ("mp4", "libx264", {"preset": "ultrafast"}, "yuv420p"),
    "HEVC": ("mp4", "libx265", X265, "yuv420p"),
    "HEVC with MD5": ("mp4", "libx265", HASHED, "yuv420p"),
    "VP9": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "5"}, "yuv420p"),
    "AV1": ("mp4", "libsvtav1", {"preset": "12"}, "yuv420p"),
    "VP8": ("webm", "libvpx", {"deadline": "realtime"}, "yuv420p"),
    "VP8 in Ogg": ("ogv", "libvpx", {"deadline": "realtime"}, "yuv420p"),
    "MJPEG": ("avi", "mjpeg", {}, "yuvj420p"),
    "MPEG-4": ("avi", "mpeg4", {}, "yuv420p"),
    "MPEG-2 in TS": ("ts", "mpeg2video", {}, "yuv420p"),
    "FFV1 with checksums": ("mkv", "ffv1", {"level": "3", "slicecrc": "1"}, "yuv420p"),
    "FFV1 without": ("avi", "ffv1", {"level": "1"}, "yuv420p"),
    "PNG": ("mov", "png", {}, "rgb24"),
    "ProRes": ("mov", "prores_ks", {}, "yuv422p10le"),
}
"""Container, encoder, its options, and format of the pixels."""


def write(path: Path, kind: str) -> None:
    """A drawn picture that moves, with a little noise."""
    _, encoder, options, pixels = KINDS[kind]
    random = np.random.default_rng(0)
    picture = np.tile(torus_picture(40, random), (2, 2, 1)).astype(float)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        for n in range(FRAMES):
            image = picture[n : n + HEIGHT, 2 * n : 2 * n + WIDTH]
            noisy = (image + random.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
        container.mux(stream.encode(None))


def read(path: Path) -> np.ndarray:
    return np.stack([frame.image for frame in VideoReader(path, SIZE)])


def inverted(path: Path, random: np.random.Generator) -> bytes:
    """The file with bytes inverted at a random place of a random packet."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size > 60 and p.pos]
    begin, size = packets[random.integers(len(packets))]
    at = begin + int(random.integers(32, size - INVERTED))
    data = bytearray(path.read_bytes())
    data[at : at + INVERTED] = bytes(255 - byte for byte in data[at : at + INVERTED])
    return bytes(data)


def damage() -> None:
    for kind, (suffix, *_) in KINDS.items():
        random, found = np.random.default_rng(0), Counter[str]()
        with TemporaryDirectory() as folder:
            path, damaged = (Path(folder, f"{name}.{suffix}") for name in ("whole", "damaged"))
            write(path, kind)
            whole = read(path)
            for _ in range(FILES):
                damaged.write_bytes(inverted(path, random))
                try:
                    equal = np.array_equal(read(damaged), whole)
                except ValueError:
                    found["refused"] += 1
                else:
                    found["unharmed" if equal else "wrong"] += 1
        print(f"{kind}: {found['wrong']} wrong, {found['refused']} refused", flush=True)


def bare(path: Path) -> Iterator[np.ndarray]:
    reader = VideoReader(path, SIZE)
    with suppress(EOFError):
        yield from decord_frames(path, reader.width, reader.height)


def checked(path: Path) -> Iterator[object]:
    yield from VideoReader(path, SIZE)


def rate(frames: Callable[[Path], Iterator[object]], path: Path) -> tuple[float, float]:
    """The best frames per second, by the clock and of processor time."""
    rates = []
    for _ in range(REPEATS):
        begin = time.perf_counter(), time.process_time()
        count = sum(1 for _ in islice(frames(path), MOST))
        rates.append((count / (time.perf_counter() - begin[0]), time.process_time() - begin[1]))
    return max(clock for clock, _ in rates), count / min(seconds for _, seconds in rates)


def speed(paths: list[Path]) -> None:
    for path in paths:
        ours, theirs = rate(checked, path), rate(bare, path)
        clock, processor = (our / their for our, their in zip(ours, theirs, strict=True))
        print(f"{path.name}: {clock:.2f} of bare decord by the clock, {processor:.2f} by processor")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["damage"]:
            damage()
        case ["speed", *videos]:
            speed([Path(video) for video in videos])
        case _:
            sys.exit(__doc__)
