"""The facts that a video file declares, its index of packets, and its frames, checked one by one.

A file is read from its first frame to its last and is never sought in. It is damaged if a frame
does not come or is flagged, or if FFmpeg reports an error while it decodes. The decoders of VP8,
and of HEVC without checksums, report next to nothing.
"""

import math
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from .ffmpeg_log import Report, ffmpeg_reports, listening, reports_of
from .hdr import TRANSFERS


COUNTED_CODECS = ("h264", "hevc", "vp9", "av1")  # a packet shows one frame, unless it holds a field
TEXT_ART = ("tty", "bin", "xbin", "adf", "idf")  # FFmpeg would draw any text as a picture
CLOCK = 10  # times the guessed rate: an average above that is no rate of frames
SLACK = 0.1  # seconds by which a file may be shorter than it declares
WITNESSES = {"vp9": "libvpx-vp9"}  # it notices damage that FFmpeg's own decoder passes over
CHECKSUM = re.compile(rb"\x50\x01\x84.\x00", re.DOTALL)  # of a picture, in a unit of HEVC's stream
TRANSPORT = "mpegts"
CLOCK_WRAP = 2**33  # ticks after which the clock of MPEG-TS begins anew
FAR = 500  # packets from a joint, in which lost frames are looked for
HOLE = 30  # steps of time: a longer one is a pause, not some lost frames
UNSTAMPED = np.iinfo(np.int64).min
KEY, DISCARD = 1, 2  # flags of a packet

Turn = tuple[int, int, int, int]
"""(a, b, c, d): the stored pixel (x, y) is shown at (ax + cy, bx + dy)."""
UPRIGHT: Turn = (1, 0, 0, 1)


class VideoError(ValueError):
    """A file that cannot serve; one line names the file, the cause and the remedy."""


@dataclass(frozen=True)
class VideoInfo:
    path: Path
    container: str
    codec: str
    width: int
    """as shown: turned upright, with square pixels"""
    height: int
    fps: float
    """frames per second on average; 0.0 if the file does not declare it"""
    frames: int
    """as declared, which may be more than can be shown; 0 if the file does not declare it"""
    turn: Turn
    interlaced: bool
    streams: int
    """video streams in the file, of which the best is read"""
    aspect: float = 1.0
    """a stored pixel's width by its height"""
    transfer: str = ""
    """PQ or HLG for high dynamic range, else empty"""
    start: int | None = None
    """the stamp of the first frame that can be shown, in ticks"""
    witness: str = ""
    """the decoder by which frames are checked"""
    strict: str = ""
    """what it shall check beyond its usual, a value of FFmpeg's err_detect"""


@dataclass(frozen=True)
class Index:
    """The facts in a file's packets, read without decoding."""

    times: np.ndarray
    """seconds of every shown frame, rising from 0.0; from the frame rate if it has no stamps"""
    hidden: int
    """frames that an edit list hides"""
    stamped: bool
    """every shown frame has a time stamp, and no two share one"""
    lost: int = 0
    """frames at the beginning that can never be shown: what they refer to was cut off"""
    leading: range = range(0)
    """the packets after the first key frame that are shown before it, if at all"""


def probe(path: str | os.PathLike) -> VideoInfo:
    """The facts that a file declares; only its first frame is decoded.

    Raises: VideoError for a file that is missing, empty, no video, or broken at its start.
    """
    with open_video(path) as (container, stream):
        key = None
        for packet in from_first_key(packets_of(container, stream)):
            key = key or bytes(packet)
            if frames := packet.decode():
                first = frames[0]
                break
        else:
            raise VideoError(f"{path} has no frame that can be decoded; leave it out")
        turn = turn_of(path, first)
        aspect = float(stream.sample_aspect_ratio or 1)
        width, height = shown_size(first, aspect, turn)
        return VideoInfo(
            path=Path(path),
            container=container.format.name,
            codec=stream.codec_context.codec.canonical_name,
            width=width,
            height=height,
            fps=declared_rate(stream),
            frames=stream.frames,
            turn=turn,
            aspect=aspect,
            interlaced=first.interlaced_frame,
            transfer=TRANSFERS.get(stream.codec_context.color_trc, ""),
            streams=len(container.streams.video),
            start=first.pts,
            witness=witness_of(stream, first),
            strict=strictness(stream.codec_context.codec.canonical_name, key or b""),
        )


def read_index(info: VideoInfo) -> Index:
    """Read all packets. Raises VideoError for a file that was cut short or lost a part."""
    stamps, decoding, flags, end = array("q"), array("q"), bytearray(), -math.inf
    with ffmpeg_reports() as reports, open_video(info.path) as (container, stream):
        for packet in packets_of(container, stream):
            if packet.is_corrupt and info.container != TRANSPORT:
                raise cut_short(info, len(stamps))
            if packet.size:
                stamps.append(UNSTAMPED if packet.pts is None else packet.pts)
                decoding.append(UNSTAMPED if packet.dts is None else packet.dts)
                flags.append(KEY * packet.is_keyframe + DISCARD * packet.is_discard)
                if not packet.is_discard:
                    end = max(end, (packet.pts or 0) + (packet.duration or 0))
        number, tick = stream.index, float(stream.time_base)
        declared = declared_end(container, stream)
    ticks, order, kinds = np.array(stamps), np.array(decoding), np.array(flags, np.uint8)
    lacking = info.container == "avi" and len(order) < info.frames and (np.diff(order) == 1).all()
    if lacking or declared - end * tick > max(SLACK, 3 / (info.fps or 1.0)):
        raise cut_short(info, len(stamps))
    for stamp in incomplete(reports, number):
        at = np.flatnonzero(order % CLOCK_WRAP == stamp % CLOCK_WRAP)
        if not (at.size and at_joint(ticks, kinds, int(at[0]))):
            raise damaged(info, int(at[:1].sum()), "packets of its transport stream are missing")
    for report in reports:
        if report.error and report.source == info.container:
            raise VideoError(
                f"{info.path} is damaged ({report.text}); fetch it again or leave it out"
            )
    return index_of(info, ticks, kinds, tick)


def incomplete(reports: Iterable[Report], stream: int) -> set[int]:
    """The decoding stamps of frames in whose packets of MPEG-TS the count breaks."""
    text = re.compile(rf"Packet corrupt \(stream = {stream}, dts = (\S+)\)")
    found = (text.match(report.text) for report in reports if report.source == TRANSPORT)
    stamps = {match[1] for match in found if match}
    return {UNSTAMPED if stamp == "NOPTS" else int(stamp) for stamp in stamps}


def at_joint(ticks: np.ndarray, flags: np.ndarray, last: int) -> bool:
    """Whether segments of MPEG-TS were joined behind a frame, which is no damage.

    The count of packets begins anew there, so FFmpeg calls the last frame before it corrupt. The
    next segment begins with a key frame, and no frame is missing before it.
    """
    keys = np.flatnonzero(flags[: last + 2] & KEY)
    if last in keys or last + 1 not in keys:
        return False
    before, here = ticks[keys[-2:]][0], ticks[last + 1]
    near = ticks[max(0, last - FAR) : last + FAR]
    steps = np.diff(np.sort(near[(near >= before) & (near <= here)]))
    usual = np.median(steps) if len(steps) else 1.0
    return not ((steps > 1.5 * usual) & (steps < HOLE * usual)).any()


def index_of(info: VideoInfo, ticks: np.ndarray, flags: np.ndarray, tick: float) -> Index:
    """From the packets' stamps and flags, each (N,), in the file's order."""
    start = int((flags & KEY > 0).argmax())  # 0 if none is a key frame
    leading = leading_packets(ticks, flags, start)
    shown = flags & DISCARD == 0
    hidden = int((~shown[start:]).sum())
    if info.start is not None:
        shown[leading] &= ticks[leading] >= info.start
    shown[:start] = False
    times = np.sort(ticks[shown])
    distinct = bool((times != UNSTAMPED).all() and (np.diff(times) > 0).all())
    times = (times - times[:1]) * tick if distinct else np.arange(len(times)) / (info.fps or 1.0)
    lost = len(ticks) - hidden - len(times)
    return Index(times, hidden, distinct, lost, range(leading.start, leading.stop))


def leading_packets(ticks: np.ndarray, flags: np.ndarray, start: int) -> slice:
    """The packets that follow the first key frame and precede it in time."""
    stop = start + 1
    while stop < len(ticks) and not flags[stop] & KEY and ticks[stop] < ticks[start]:
        stop += 1
    return slice(start + 1, stop)


def packets_of(container: Any, stream: Any) -> Iterator[Any]:
    """All packets, and the one that ends decoding.

    At the end PyAV looks up streams that appeared after the beginning, and does not find them.
    """
    with suppress(IndexError):
        yield from container.demux(stream)


def from_first_key(packets: Iterable[Any]) -> Iterator[Any]:
    """The packets from the first key frame on, since none before it can be shown.

    If none is a key frame, all.
    """
    packets, early = iter(packets), []
    for packet in packets:
        if packet.is_keyframe:
            yield packet
            yield from packets
            return
        early.append(packet)
    yield from early


@contextmanager
def open_video(path: str | os.PathLike) -> Iterator[tuple[Any, Any]]:
    """The container and its best video stream; FFmpeg's errors become VideoErrors."""
    check_file(Path(path))
    try:
        # a playlist may name other files: only this one is read
        options = {"protocol_whitelist": "file"}
        with av.open(
            os.path.abspath(path), options=options, metadata_errors="replace"
        ) as container:
            stream: Any = container.streams.best("video")
            if container.format.name in TEXT_ART:
                raise VideoError(f"{path} is text, not video; leave it out")
            if stream is None or stream.disposition & Disposition.attached_pic:
                raise VideoError(f"{path} has no video stream; leave it out")
            stream.thread_count = 1
            yield container, stream
    except av.FFmpegError as error:
        raise VideoError(
            f"{path} cannot be read as video ({one_line(error)}); leave it out or re-encode it"
        ) from error


def check_file(path: Path) -> None:
    if not path.exists():
        raise VideoError(f"{path} does not exist; check the name")
    if not path.is_file():
        raise VideoError(f"{path} is not a file; name the video files themselves")
    if not path.stat().st_size:
        raise VideoError(f"{path} is empty (0 bytes); fetch it again or leave it out")


def checked_frames(
    info: VideoInfo, index: Index, expected: int, **options: str
) -> Iterator[av.VideoFrame]:
    """All frames, as PyAV decodes them.

    expected: the number of frames that must come; 0: unknown.
    options: for FFmpeg's decoder.
    Raises: VideoError at a frame that is damaged or missing.
    """
    good = 0
    with open_video(info.path) as (container, stream), listening():
        decode = decoder_of(info, stream, options)
        packets = enumerate(from_first_key(packets_of(container, stream)), index.leading.start - 1)
        for n, packet in packets:
            try:
                with av.logging.Capture() as logs:
                    frames = decode(packet)
            except av.FFmpegError as error:
                raise damaged(info, good, one_line(error)) from error
            errors = [report.text for report in reports_of(logs) if report.error]
            if errors and n not in index.leading:
                raise damaged(info, good, errors[0])
            for frame in frames:
                if frame.is_corrupt:
                    raise damaged(info, good, "the next one does not decode cleanly")
                if expected and good == expected:
                    raise damaged(info, good, "more follow than it has packets")
                yield frame
                good += 1
    if good < expected:
        raise damaged(info, good, f"{expected} were expected")


def decoder_of(info: VideoInfo, stream: Any, options: dict[str, str]) -> Callable[[Any], list]:
    """From a packet to the frames that it completes."""
    decoder = stream.codec_context
    if info.witness != decoder.codec.name:
        decoder = av.CodecContext.create(info.witness, "r")
        decoder.thread_count = 1
    decoder.options = ({"err_detect": info.strict} if info.strict else {}) | options
    return decoder.decode


def shown_size(frame: av.VideoFrame, aspect: float, turn: Turn) -> tuple[int, int]:
    """Width and height with square pixels, turned upright."""
    stored = round(frame.width * aspect) or 1, frame.height
    return stored if turn[0] else stored[::-1]


def strictness(codec: str, key_frame: bytes) -> str:
    """What a decoder checks besides: that a slice of H.264 ends where its data end; the MD5 of
    each picture where an encoder of HEVC has added it.
    """
    if codec == "hevc" and CHECKSUM.search(key_frame):
        return "crccheck"
    return "aggressive" if codec == "h264" else ""


def witness_of(stream: Any, first: av.VideoFrame) -> str:
    """The decoder that tells of the most damage."""
    codec = stream.codec_context.codec
    own, other = codec.name, WITNESSES.get(codec.canonical_name)
    eight_bits = first.format.components[0].bits == 8  # libvpx may be built for no more
    return other if other in av.codecs_available and eight_bits else own


def turn_of(path: str | os.PathLike, frame: av.VideoFrame) -> Turn:
    """The display matrix. Raises VideoError for an angle that is no multiple of 90 degrees."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = np.sign(entries := np.frombuffer(matrix, dtype="<i4")[:5]).tolist()
    if not (a or b or c or d):
        return UPRIGHT
    if (a or d) and (b or c):
        angle = round(math.degrees(math.atan2(entries[1], entries[0])))
        raise VideoError(f"{path} is shown turned by {angle} degrees; re-encode it upright")
    return a, b, c, d


def is_mirrored(turn: Turn) -> bool:
    a, b, c, d = turn
    return a * d - b * c < 0


def declared_rate(stream: Any) -> float:
    """Frames per second on average; 0.0 if the file does not declare it.

    The average of raw DV, and of an AVI with empty packets, is the rate of a clock (60,000).
    """
    average, guessed = float(stream.average_rate or 0), float(stream.guessed_rate or 0)
    return guessed if not average or average > CLOCK * guessed > 0 else average


def declared_end(container: Any, stream: Any) -> float:
    """The second at which the video ends by its header; 0.0 if only other streams declare one.

    A stream's duration counts from its first stamp, but that of a fragmented mp4, which declares no
    number of frames, counts from 0, as a container's does. MPEG-TS declares nothing.
    """
    if container.format.name == TRANSPORT:
        return 0.0
    if stream.duration:
        fragmented = "mp4" in container.format.name and not stream.frames
        first = 0 if fragmented else stream.start_time or 0
        return float((first + stream.duration) * stream.time_base)
    alone = len(container.streams) == 1
    return (container.duration or 0) / av.time_base if alone else 0.0


def cut_short(info: VideoInfo, found: int) -> VideoError:
    declared = f"the {info.frames}" if info.frames else "those"
    return VideoError(
        f"{info.path} is cut short or damaged: it has {found} frames of {declared} it declares; "
        "fetch it again or leave it out"
    )


def damaged(info: VideoInfo, good: int, reason: str) -> VideoError:
    return VideoError(
        f"{info.path} is damaged after {good} good frames: {reason}; fetch it again or leave it out"
    )


def one_line(error: Exception) -> str:
    """The first line of a message, without the place in decord's source and the file's name."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(r"^(\[[\d:]+\] \S+: )+(\[.*?\] )?", "", text.strip().splitlines()[0])
