"""Laws of reading and writing video: every frame, once, in order, at its time, or an error.

A test's video counts its frames: twelve tiles of each picture are the bits of its number.
"""

import gc
import os
import re
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from threading import Barrier

import av
import numpy as np
import pytest

from tttvideo.data.video import reader as reader_room
from tttvideo.data.video.drawn import bouncing_glyphs
from tttvideo.data.video.ffmpeg_log import Report, ffmpeg_reports
from tttvideo.data.video.probe import VideoError, packets_of, probe
from tttvideo.data.video.reader import VideoReader, open_decord
from tttvideo.data.video.writer import video_writer, write_video


WIDTH, HEIGHT, SIZE = 96, 64, 64
TICK = Fraction(1, 9000)
BACKENDS = ["decord", "pyav"]


def numbered(n: int) -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), (40, 60, 80), np.uint8)
    for bit in range(12):
        if n >> bit & 1:
            y, x = 8 + 16 * (bit // 4), 18 + 16 * (bit % 4)
            image[y : y + 14, x : x + 14] = 255
    return image


def number_of(image: np.ndarray) -> int:
    """Of a frame that was cropped to its middle."""
    tiles = [image[8 + 16 * (bit // 4) + 7, 2 + 16 * (bit % 4) + 7].mean() for bit in range(12)]
    return sum(int(tile > 128) << bit for bit, tile in enumerate(tiles))


def numbers(path: Path, **arguments) -> list[int]:
    return [number_of(frame.image) for frame in VideoReader(path, SIZE, **arguments)]


def make(
    path: Path,
    count=40,
    codec="libx264",
    pixels="yuv420p",
    rate=30,
    times=None,
    container=None,
    draw=numbered,
    **options,
) -> Path:
    """A video of drawn frames; `times` are in TICKs, `container` has options of its format."""
    options = {"preset": "veryfast", **options} if codec == "libx264" else options
    with av.open(str(path), "w", options=container) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        if times is not None:
            stream.codec_context.time_base = TICK
        for n in range(count):
            frame = av.VideoFrame.from_ndarray(draw(n), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[n], TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def patch(path: Path, where: int, new: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[where : where + len(new)] = new
    path.write_bytes(data)
    return path


def packets(path: Path) -> list[tuple[int, int]]:
    """(place in the file, bytes) of each packet."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def trim(path: Path, first: int) -> Path:
    """Let the edit list begin at frame `first`, as cutting without encoding does."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        seconds = first / stream.average_rate
        ticks = seconds / stream.time_base
    at = path.read_bytes().find(b"elst") + 12
    length, begin = struct.unpack(">2i", path.read_bytes()[at : at + 8])  # in ms, in ticks
    return patch(path, at, struct.pack(">2i", length - round(1000 * seconds), begin + round(ticks)))


def turn(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Set the display matrix of the track."""
    at = path.read_bytes().find(b"tkhd") + 44
    matrix = a, b, 0, c, d, 0, 0, 0, 2**14
    return patch(path, at, struct.pack(">9i", *(round(x * 2**16) for x in matrix)))


def noise(count: int, height: int, width: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return list(random.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- every frame, once, in order


SEQUENCES = [
    pytest.param("a.mp4", {"bf": "3", "g": "250"}, id="b-frames"),
    pytest.param("a.mp4", {"x264-params": "open-gop=1:keyint=10:bframes=3"}, id="open-gop"),
    pytest.param("a.mp4", {"x264-params": "intra-refresh=1:keyint=10"}, id="intra-refresh"),
    pytest.param("a.mov", {"bf": "2", "g": "12"}, id="mov"),
    pytest.param("a.mkv", {"bf": "2", "g": "12"}, id="mkv"),
    pytest.param("a.mp4", {"codec": "libx265", "x265-params": "log-level=none"}, id="h265"),
    pytest.param("a.webm", {"codec": "libvpx-vp9", "deadline": "realtime"}, id="vp9"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "options"), SEQUENCES)
def test_frames_are_complete_and_in_order(tmp_path, name, options, backend):
    path = make(tmp_path / name, **options)
    assert numbers(path, backend=backend) == list(range(40))


UNSUITED = [
    pytest.param("a.ts", {}, "h264 in mpegts", id="mpeg-ts"),
    pytest.param("a.avi", {"codec": "mpeg4"}, "mpeg4 in avi", id="avi"),
    pytest.param("a.webm", {"codec": "libvpx", "auto-alt-ref": "1"}, "vp8 in matroska", id="vp8"),
    pytest.param("a.mp4", {"x264-params": "tff=1"}, "interlaced", id="interlaced"),
    pytest.param("a.h264", {}, "h264 in h264", id="raw"),
]


@pytest.mark.parametrize(("name", "options", "reason"), UNSUITED)
def test_files_that_decord_reads_wrong_are_read_by_pyav_with_the_reason(
    tmp_path, name, options, reason
):
    path = make(tmp_path / name, **options)
    reader = VideoReader(path, SIZE)
    assert reader.backend == "pyav" and reason in reader.reason
    assert [number_of(frame.image) for frame in reader] == list(range(40))
    with pytest.raises(VideoError, match=f"decord cannot serve: .*{reason}"):
        VideoReader(path, SIZE, backend="decord")


STREAMED = [
    pytest.param("a.webm", {"codec": "libvpx-vp9", "deadline": "realtime"}, id="webm"),
    pytest.param("a.mkv", {"bf": "2"}, id="mkv"),
]


@pytest.mark.parametrize(("name", "options"), STREAMED)
def test_a_stream_without_a_duration_is_read_by_pyav_with_the_reason(tmp_path, name, options):
    path = make(tmp_path / name, container={"live": "1"}, **options)
    reader = VideoReader(path, SIZE)
    assert reader.backend == "pyav" and reader.reason.startswith("decord cannot open it (Failed to")
    assert [number_of(frame.image) for frame in reader] == list(range(40))
    with pytest.raises(VideoError, match="decord cannot serve: decord cannot open it") as caught:
        VideoReader(path, SIZE, backend="decord")
    assert str(caught.value).count(str(path)) == 1


def test_a_file_that_decord_counts_otherwise_is_read_by_pyav_with_the_reason(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mp4")
    monkeypatch.setattr(reader_room, "open_decord", lambda *arguments: range(39))
    reader = VideoReader(path, SIZE)
    assert reader.reason == "decord counts 39 frames, and 40 can be shown"
    assert [number_of(frame.image) for frame in reader] == list(range(40))


@pytest.mark.skipif("libsvtav1" not in av.codecs_available, reason="PyAV has no AV1 encoder here")
def test_av1_is_read_by_pyav(tmp_path):
    path = make(tmp_path / "a.mp4", codec="libsvtav1", preset="12")
    assert VideoReader(path, SIZE).backend == "pyav"
    assert numbers(path) == list(range(40))


def test_frames_that_an_edit_list_hides_are_not_shown(tmp_path):
    path = trim(make(tmp_path / "a.mp4", bf="2", g="250"), first=11)
    reader = VideoReader(path, SIZE)
    assert reader.info.frames == 40
    assert reader.backend == "pyav" and "hides 11 frames" in reader.reason
    assert [number_of(frame.image) for frame in reader] == list(range(11, 40))
    assert len(open_decord(path, WIDTH, HEIGHT)) == 40  # it would repeat the last one


def test_a_video_of_one_frame_has_one_frame(tmp_path):
    path = make(tmp_path / "a.mp4", count=1)
    assert [(number_of(image), time) for image, time in VideoReader(path, SIZE)] == [(0, 0.0)]


def test_a_reader_can_be_iterated_again_and_left_early(tmp_path):
    reader = VideoReader(make(tmp_path / "a.mp4"), SIZE)
    assert number_of(next(iter(reader)).image) == 0
    assert [number_of(frame.image) for frame in reader] == list(range(40))
    assert len({id(frame.image.base) for frame in reader}) == 1  # None: each owns its memory


def test_a_file_that_decord_would_hold_in_memory_is_read_by_pyav(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mp4")
    monkeypatch.setattr(reader_room, "MOST_BYTES", 40 * HEIGHT * WIDTH * 3)
    reader = VideoReader(path, SIZE)
    assert reader.backend == "pyav" and "may come to hold" in reader.reason


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_reading_600_frames_does_not_grow_memory(tmp_path):
    write_video(tmp_path / "a.mp4", (numbered(n) for n in range(600)), 30)
    for n, _ in enumerate(VideoReader(tmp_path / "a.mp4", 256, backend="pyav")):
        if n == 100:
            before = resident()
    assert n == 599
    assert resident() - before < 500 * 256 * 256 * 3 // 4


# --- times


@pytest.mark.parametrize("backend", BACKENDS)
def test_times_are_the_time_stamps_from_the_first_frame_on(tmp_path, backend):
    times = [900 + 300 * n + 13 * n * n for n in range(40)]
    path = make(tmp_path / "a.mp4", times=times, bf="2")
    read = [frame.time for frame in VideoReader(path, SIZE, backend=backend)]
    assert read == pytest.approx([float((time - 900) * TICK) for time in times], abs=1e-6)


CONTAINERS = [
    pytest.param("a.avi", {"bf": "2"}, id="avi-b-frames"),  # stamps in the order of decoding
    pytest.param("a.avi", {"bf": "2", "codec": "mpeg4"}, id="avi-mpeg4"),
    pytest.param("a.ts", {"bf": "2"}, id="mpeg-ts"),
    pytest.param("a.flv", {"bf": "2"}, id="flv"),
    pytest.param("a.h264", {}, id="no-stamps"),
    pytest.param("a.mkv", {"bf": "2", "rate": 2500}, id="shared-stamps"),  # whole milliseconds
]


@pytest.mark.parametrize(("name", "options"), CONTAINERS)
def test_times_rise_by_the_frame_rate_in_every_container(tmp_path, name, options):
    path = make(tmp_path / name, **{"rate": 25, **options})
    reader = VideoReader(path, SIZE)
    times = [frame.time for frame in reader]
    assert times == pytest.approx([n / reader.info.fps for n in range(40)], abs=2e-3)
    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize("name", ["a.avi", "a.ts"])
def test_times_are_exact_where_packets_may_hold_a_field(tmp_path, name):
    path = make(tmp_path / name, **{"bf": "3", "x264-params": "tff=1:b-pyramid=2"})
    read = list(VideoReader(path, SIZE))
    assert [number_of(frame.image) for frame in read] == list(range(40))
    assert [frame.time for frame in read] == pytest.approx([n / 30 for n in range(40)], abs=1e-3)


LATE = ["a.mp4", "a.mov", "a.mkv", "a.flv", "a.ts"]


@pytest.mark.parametrize("name", LATE)
def test_a_picture_that_begins_late_is_read_from_zero(tmp_path, name):
    path = make(tmp_path / name, times=[13500 + 300 * n for n in range(40)])
    times = [frame.time for frame in VideoReader(path, SIZE)]
    assert times == pytest.approx([n / 30 for n in range(40)], abs=2e-3)


def test_a_transport_stream_whose_clock_wraps_is_read(tmp_path):
    wrap = 2**33 // 10  # in TICKs: a stamp has 33 bits and counts 1 / 90,000 s
    path = make(tmp_path / "a.ts", times=[wrap - 9000 + 300 * n for n in range(80)], count=80)
    read = list(VideoReader(path, SIZE))
    assert [number_of(frame.image) for frame in read] == list(range(80))
    assert [frame.time for frame in read] == pytest.approx([n / 30 for n in range(80)], abs=1e-3)


def test_a_fragment_of_an_mp4_is_read_alone(tmp_path):
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path = make(tmp_path / "a.mp4", g="20", bf="0", sc_threshold="0", container=fragments)
    data = path.read_bytes()
    first, second = (at.start() - 4 for at in list(re.finditer(b"moof", data))[:2])
    path.write_bytes(data[:first] + data[second:])
    read = list(VideoReader(path, SIZE))
    assert [number_of(frame.image) for frame in read] == list(range(20, 40))
    assert [frame.time for frame in read] == pytest.approx([n / 30 for n in range(20)], abs=1e-3)


# --- frames that can never be shown


def without_start(source: Path, target: Path, first: int) -> Path:
    """The packets from `first` on, in another container."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in list(old.demux(video=0))[first:-1]:
            packet.stream = stream
            new.mux(packet)
    return target


H264 = {"bf": "0", "g": "10", "sc_threshold": "0"}
H264_OPEN = {"x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"}
H265 = {"codec": "libx265", "x265-params": "log-level=none:keyint=10:open-gop=1:scenecut=0"}
STARTS = [
    pytest.param({**H264}, "a.mkv", 5, 10, id="h264-between-key-frames"),
    pytest.param({**H264}, "a.ts", 5, 10, id="h264-in-mpeg-ts"),
    pytest.param({"codec": "mpeg4", "g": "10"}, "a.avi", 5, 10, id="mpeg4-in-avi"),
    pytest.param({**H264_OPEN}, "a.mkv", 10, None, id="h264-leading-pictures"),
    pytest.param({**H265}, "a.mkv", 10, None, id="h265-leading-pictures"),
    pytest.param({**H265}, "a.ts", 10, None, id="h265-leading-pictures-in-mpeg-ts"),
    pytest.param({"codec": "mpeg2video", "g": "10", "bf": "2"}, "a.ts", 11, None, id="mpeg2"),
]


@pytest.mark.parametrize(("options", "name", "cut", "first"), STARTS)
def test_frames_whose_references_were_cut_off_are_neither_shown_nor_counted(
    tmp_path, caplog, options, name, cut, first
):
    path = without_start(make(tmp_path / "whole.mkv", **options), tmp_path / name, cut)
    reader = VideoReader(path, SIZE)
    read = [number_of(frame.image) for frame in reader]
    assert read == list(range(40 - len(read), 40)) and (first is None or read[0] == first)
    assert len(reader.index.times) == len(read) and reader.index.lost == 40 - cut - len(read) > 0
    assert reader.backend == "pyav"
    assert f"{reader.index.lost} frames at its beginning cannot be shown" in caplog.text


# --- pixels


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [64, 48, 35, 24])  # decord pads rows of 48 and 24 to whole pixels
def test_a_lossless_video_is_read_back_to_the_bit(tmp_path, backend, size):
    images = noise(35, size, size)
    write_video(tmp_path / "a.mp4", images, 30, lossless=True)
    back = [frame.image for frame in VideoReader(tmp_path / "a.mp4", size, backend=backend)]
    assert np.array_equal(back, images)


def test_a_video_for_browsers_is_read_back_approximately(tmp_path):
    images = [numbered(n) for n in range(20)]
    write_video(tmp_path / "a.mp4", images, 12.5)
    assert numbers(tmp_path / "a.mp4") == list(range(20))
    info = probe(tmp_path / "a.mp4")
    assert (info.codec, info.width, info.height, info.fps) == ("h264", WIDTH, HEIGHT, 12.5)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")


def test_decord_and_pyav_resize_to_nearly_the_same_pixels(tmp_path):
    path = make(tmp_path / "a.mp4", count=10)
    pairs = zip(*(VideoReader(path, 23, backend=backend) for backend in BACKENDS), strict=True)
    errors = [np.square(a.image.astype(float) - b.image).mean() for a, b in pairs]
    assert 10 * np.log10(255**2 / max(errors)) > 40


def test_a_frame_is_resized_by_its_short_side_and_cropped_around_its_centre(tmp_path):
    ramp = np.zeros((48, 96, 3), np.uint8)
    ramp[..., 0] = np.arange(96) * 2
    write_video(tmp_path / "a.mp4", [ramp], 30, lossless=True)
    (frame,) = VideoReader(tmp_path / "a.mp4", 24)
    assert frame.image.shape == (24, 24, 3)
    assert frame.image[..., 0].mean() == pytest.approx(ramp[..., 0].mean(), abs=1)
    assert frame.image[12, -1, 0] - int(frame.image[12, 0, 0]) == pytest.approx(2 * 46, abs=4)


def make_growing(path: Path, codec: str, **options) -> Path:
    """20 frames, then 20 of twice the width and height, with their headers inside the stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height = WIDTH, HEIGHT
        for scale in (1, 2):
            coder = av.CodecContext.create(codec, "w")
            coder.width, coder.height, coder.pix_fmt = scale * WIDTH, scale * HEIGHT, "yuv420p"
            coder.time_base, coder.options = Fraction(1, 30), options
            for n in range(20):
                image = numbered(n).repeat(scale, axis=0).repeat(scale, axis=1)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = 20 * scale + n
                mux(container, stream, coder.encode(frame.reformat(format="yuv420p")))
            mux(container, stream, coder.encode(None))
    return path


def mux(container, stream, packets) -> None:
    for packet in packets:
        packet.stream = stream
        container.mux(packet)


GROWING = [
    pytest.param("a.webm", "libvpx-vp9", {"deadline": "realtime"}, id="vp9"),
    pytest.param("a.mkv", "libx264", {"bf": "0"}, id="h264-in-mkv"),
    pytest.param("a.mp4", "libx264", {"bf": "0"}, id="h264-in-mp4"),
    pytest.param("a.ts", "libx264", {"bf": "2"}, id="h264-in-mpeg-ts"),
]


@pytest.mark.parametrize(("name", "codec", "options"), GROWING)
def test_a_picture_that_changes_its_size_is_scaled_with_a_note(
    tmp_path, caplog, name, codec, options
):
    reader = VideoReader(make_growing(tmp_path / name, codec, **options), SIZE)
    begun = reader.backend
    for _ in range(2):
        frames = iter(reader)
        first = next(frames)
        assert reader.backend == begun  # so that an iteration gives what the one before it gave
        assert [number_of(frame.image) for frame in (first, *frames)] == [*range(20)] * 2
    note = f"{tmp_path / name}: the picture changes from 96x64 to 192x128 at 0.67 s"
    assert [note in message for message in caplog.messages] == [True]
    assert reader.backend == "pyav"


def test_asked_for_decord_refuses_a_picture_that_changes_its_size(tmp_path):
    path = make_growing(tmp_path / "a.mkv", "libx264", bf="0")
    with pytest.raises(VideoError, match="decord cannot serve: .* changes its size at frame 20"):
        list(VideoReader(path, SIZE, backend="decord"))


MATRICES = {
    "upright": (1, 0, 0, 1),
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "transposed": (0, 1, 1, 0),
}


@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_read_in_the_orientation_in_which_they_are_shown(tmp_path, name):
    image = np.full((48, 48, 3), 40, np.uint8)
    image[:12, :24] = 250, 60, 60
    write_video(tmp_path / "a.mp4", [image] * 3, 30, lossless=True)
    turn(tmp_path / "a.mp4", *MATRICES[name])
    shown = {
        "upright": image,
        "90": np.rot90(image, -1),
        "180": np.rot90(image, 2),
        "270": np.rot90(image),
        "mirrored": image[:, ::-1],
        "transposed": image.swapaxes(0, 1),
    }[name]
    backends = ["auto", "pyav"] if name in ("mirrored", "transposed") else BACKENDS
    for backend in backends:
        back = [frame.image for frame in VideoReader(tmp_path / "a.mp4", 48, backend=backend)]
        assert len(back) == 3 and all((frame == shown).all() for frame in back), backend


@pytest.mark.parametrize(
    ("standard", "rate"), [("ntsc", Fraction(30000, 1001)), ("pal", Fraction(25))]
)
def test_the_rate_of_raw_dv_is_not_that_of_its_clock(tmp_path, standard, rate):
    height, pixels = {"ntsc": (480, "yuv411p"), "pal": (576, "yuv420p")}[standard]
    with av.open(str(tmp_path / "a.dv"), "w") as container:
        stream = container.add_stream("dvvideo", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 720, height, pixels
        for image in noise(3, height, 720):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    reader = VideoReader(tmp_path / "a.dv", SIZE)
    assert reader.info.fps == pytest.approx(float(rate))
    assert [frame.time for frame in reader] == pytest.approx([n / rate for n in range(3)])


@pytest.mark.parametrize("rate", [Fraction(1, 300), 240, 2400])
def test_an_unusual_rate_that_frames_have_is_believed(tmp_path, rate):
    reader = VideoReader(make(tmp_path / "a.mp4", rate=rate), SIZE)
    assert reader.info.fps == pytest.approx(float(rate))
    assert [frame.time for frame in reader] == pytest.approx([n / float(rate) for n in range(40)])


def test_a_turned_file_declares_the_shown_size(tmp_path):
    info = probe(turn(make(tmp_path / "a.mp4", count=2), 0, 1, -1, 0))
    assert (info.width, info.height) == (HEIGHT, WIDTH)


def test_an_odd_angle_is_refused(tmp_path):
    path = turn(make(tmp_path / "a.mp4", count=2), 0.866, 0.5, -0.5, 0.866)
    with pytest.raises(VideoError, match="turned by 30 degrees; re-encode it upright"):
        probe(path)


# --- files that cannot serve


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "f4"), "fltp", "mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


HOPELESS = [
    pytest.param(lambda path: None, "does not exist", id="missing"),
    pytest.param(lambda path: path.mkdir(), "is not a file", id="folder"),
    pytest.param(lambda path: path.touch(), "is empty", id="zero-bytes"),
    pytest.param(lambda path: path.write_text("Call me Ishmael.\n"), "cannot be read", id="text"),
    pytest.param(lambda path: path.write_bytes(noise(1, 99, 99)[0]), "cannot be read", id="noise"),
    pytest.param(sound_only, "has no video stream", id="audio-only"),
]


@pytest.mark.parametrize(("create", "cause"), HOPELESS)
@pytest.mark.parametrize(
    "door", [probe, lambda path: VideoReader(path, SIZE)], ids=["probe", "read"]
)
def test_a_file_that_is_no_video_is_refused_with_name_and_cause_in_one_line(
    tmp_path, create, cause, door
):
    path = tmp_path / "a.mp4"
    create(path)
    with pytest.raises(VideoError, match=cause) as caught:
        door(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["index-last.mp4", "index-first.mp4", "a.mkv"])
def test_a_file_that_was_cut_short_is_refused(tmp_path, name, share):
    path = tmp_path / name
    if name == "index-first.mp4":
        write_video(path, noise(40, HEIGHT, WIDTH), 30)
    else:
        make(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(VideoError, match="cut short|cannot be read|no frame that can"):
        list(VideoReader(path, SIZE))


@pytest.mark.parametrize("left", [1, 20, 35])
def test_a_file_that_begins_late_and_was_cut_short_is_refused(tmp_path, left):
    times = [13500 + 300 * n for n in range(40)]
    path = make(tmp_path / "a.mp4", times=times, container={"movflags": "faststart"})
    end, _ = packets(path)[left]
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(VideoError, match=f"is cut short .* it has {left} frames of the 40"):
        VideoReader(path, SIZE)


DAMAGE = {
    "decord": r"damaged( after \d+ good|: decord cannot read all)",
    "pyav": r"damaged after \d+ good",
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_flipped_bytes_are_noticed(tmp_path, backend):
    path = tmp_path / "a.mp4"
    write_video(path, noise(40, HEIGHT, WIDTH), 30)
    for place, size in packets(path)[10:30]:
        half = path.read_bytes()[place + size // 2 : place + size]
        patch(path, place + size // 2, bytes(255 - byte for byte in half))
    with pytest.raises(VideoError, match=DAMAGE[backend]):
        list(VideoReader(path, SIZE, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_frame_is_noticed_and_none_is_repeated(tmp_path, backend):
    path = make(tmp_path / "a.mp4", bf="0")
    place, size = packets(path)[30]
    patch(path, place + 4, b"\x0c" + (size - 6) * b"\xff" + b"\x80")  # filler in its stead
    read = []
    with pytest.raises(VideoError, match=DAMAGE[backend]):
        for frame in VideoReader(path, SIZE, backend):
            read.append(number_of(frame.image))
    assert read == list(range(len(read)))


TRANSPORTED = [
    pytest.param({"bf": "3", "g": "15"}, id="h264"),
    pytest.param({"codec": "libx265", "x265-params": "log-level=none:keyint=15"}, id="h265"),
    pytest.param({"codec": "mpeg2video", "g": "15", "rate": 30}, id="mpeg2"),
]


@pytest.mark.parametrize("options", TRANSPORTED[:2])  # mpeg2 takes no clock of 9,000 ticks
def test_joined_segments_of_mpeg_ts_are_read(tmp_path, options):
    """The clock of the first two is continuous, and that of the third begins again."""
    joined = tmp_path / "joined.ts"
    with joined.open("wb") as file:
        for first in (0, 40, 0):
            times = [300 * (first + n) for n in range(40)]
            file.write(make(tmp_path / "part.ts", times=times, **options).read_bytes())
    assert numbers(joined) == [*range(40)] * 3


@pytest.mark.parametrize("options", TRANSPORTED)
def test_a_lost_packet_of_mpeg_ts_gives_no_wrong_frame(tmp_path, options):
    path, refused = make(tmp_path / "a.ts", **options), 0
    whole = [frame.image for frame in VideoReader(path, SIZE)]
    rows = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 188)
    picture = [n for n, row in enumerate(rows) if int.from_bytes(row[1:3]) & 0x1FFF == 256]
    lost = picture[2:-1:5]  # nothing tells of the first and of the last
    for n in lost:
        path.write_bytes(np.delete(rows, n, axis=0).tobytes())
        try:
            assert np.array_equal([frame.image for frame in VideoReader(path, SIZE)], whole)
        except VideoError as error:
            refused += "damaged after" in str(error)
    assert refused > len(lost) / 2


def test_a_lost_chunk_of_an_avi_is_noticed(tmp_path):
    path = make(tmp_path / "a.avi", bf="2")
    place, _ = packets(path)[20]
    patch(path, place - 8, b"JUNK")  # FFmpeg resumes at the next chunk
    with pytest.raises(VideoError, match="cut short or damaged: it has 39 frames of the 40"):
        VideoReader(path, SIZE)


def test_a_stream_that_appears_late_does_not_end_the_reading():
    class Container:  # as PyAV does, which counts the streams anew at the end
        def demux(self, stream):
            yield from "packets"
            raise IndexError("list index out of range")

    assert "".join(packets_of(Container(), None)) == "packets"


HASH = "log-level=none:hash=1"  # an MD5 for each picture
WITNESSED = [
    pytest.param("a.webm", {"codec": "libvpx-vp9", "deadline": "realtime"}, 10, id="vp9"),
    pytest.param("a.mkv", {"codec": "ffv1", "level": "3", "slicecrc": "1"}, 10, id="ffv1"),
    pytest.param("a.mov", {"codec": "png", "pixels": "rgb24"}, 10, id="png"),
    pytest.param("a.mp4", {"codec": "libx265", "x265-params": HASH}, 10, id="h265-with-md5"),
    pytest.param("a.ogv", {"codec": "libvpx", "deadline": "realtime"}, 10, id="ogg"),
    pytest.param("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}, 3, id="mjpeg"),
    pytest.param("a.mp4", {"preset": "ultrafast"}, 8, id="h264-cavlc"),
]


@pytest.mark.parametrize(("name", "options", "least"), WITNESSED)
def test_eight_flipped_bytes_are_noticed_where_a_decoder_can_tell(tmp_path, name, options, least):
    images, noticed = noise(20, HEIGHT, WIDTH), 0
    path = make(tmp_path / name, count=20, draw=lambda n: images[n], **options)
    whole = path.read_bytes()
    for tenth in range(10):
        place = int(len(whole) * (0.3 + 0.05 * tenth))
        path.write_bytes(whole)
        patch(path, place, bytes(255 - byte for byte in whole[place : place + 8]))
        for _ in range(2):  # FFmpeg says the same again, which is no less an error
            try:
                list(VideoReader(path, SIZE))
            except VideoError as error:
                noticed += "damaged" in str(error)
    assert noticed >= 2 * least


def test_the_log_of_ffmpeg_is_left_as_it_was():
    av.logging.set_level(None)
    with ffmpeg_reports() as reports, ffmpeg_reports():
        assert av.logging.get_level() == av.logging.WARNING
    av.logging.log(av.logging.ERROR, "h264", "after")
    assert (av.logging.get_level(), av.logging.get_skip_repeated()) == (None, True)
    assert reports == []


def test_reading_leaves_the_log_of_ffmpeg_as_it_was_even_if_left_early(tmp_path):
    for backend in BACKENDS:
        frames = iter(VideoReader(make(tmp_path / "a.mp4"), SIZE, backend))
        next(frames)
        assert av.logging.get_level() == av.logging.WARNING
        frames.close()
        gc.collect()
        assert av.logging.get_level() is None


def test_reports_about_other_things_than_pictures_are_no_damage():
    with ffmpeg_reports() as reports:
        for text in ("SEI type 5 size 9 truncated", "Overread VUI by 8 bits", "bad\n picture"):
            av.logging.log(av.logging.ERROR, "h264", text)
        av.logging.log(av.logging.INFO, "h264", "concealing")
    assert reports == [Report(True, "h264", "bad picture")]


def test_a_thread_hears_of_its_own_damage_only():
    def say(text: str) -> list[str]:
        with ffmpeg_reports() as reports:
            both.wait()
            av.logging.log(av.logging.ERROR, "h264", text)
            both.wait()
        return [report.text for report in reports]

    both = Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(say, ["one", "two"])) == [["one"], ["two"]]


def test_a_thread_that_does_not_listen_stays_as_silent_as_before(caplog):
    with ThreadPoolExecutor(1) as threads, ffmpeg_reports() as reports:
        threads.submit(av.logging.log, av.logging.ERROR, "h264", "elsewhere").result()
    assert caplog.messages == [] and reports == []


def test_the_options_of_decord_make_it_raise_instead_of_repeating_a_frame(tmp_path):
    path = trim(make(tmp_path / "a.mp4", bf="2", g="250"), first=11)
    reader, read = open_decord(path, SIZE, SIZE), []
    with pytest.raises(Exception, match="more than 0 duplicate frames"):
        for _ in range(40):
            read.append(reader.next().asnumpy())
    assert len(read) == 29


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size is 0; it must be a whole number of pixels, at least 1"),
        ({"size": 6.5}, "size is 6.5"),
        ({"size": 8, "backend": "opencv"}, "backend 'opencv' is not one of auto, decord, pyav"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        VideoReader(make(tmp_path / "a.mp4", count=1), **arguments)


def test_without_decord_pyav_reads_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_room, "find_spec", lambda name: None)
    reader = VideoReader(make(tmp_path / "a.mp4", count=3), SIZE)
    assert (reader.backend, reader.reason) == ("pyav", "decord is not installed")


def test_importing_loads_neither_torch_nor_decord():
    code = "import sys, tttvideo.data.video.reader; print({'torch', 'decord'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr


# --- writing


def test_an_exception_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyError), video_writer(tmp_path / "a.mp4", 30) as writer:
        writer.write(numbered(0))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_old_file_unchanged(tmp_path):
    path = make(tmp_path / "a.mp4", count=3)
    with pytest.raises(ValueError, match="the first one was"):
        write_video(path, [numbered(0), numbered(0)[:-2]], 30)
    assert list(tmp_path.iterdir()) == [path]
    assert numbers(path) == [0, 1, 2]


def test_a_video_without_frames_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no frame was written"):
        write_video(tmp_path / "a.mp4", [], 30)
    assert list(tmp_path.iterdir()) == []


def test_the_same_frames_are_written_as_the_same_bytes(tmp_path):
    frames = list(bouncing_glyphs(10))
    for n in range(4):
        write_video(tmp_path / f"{n}.mp4", frames, 30)
    assert len({path.read_bytes() for path in tmp_path.glob("*.mp4")}) == 1


def test_odd_frames_repeat_their_last_row_and_column(tmp_path):
    write_video(tmp_path / "a.mp4", [np.full((33, 47, 3), 120, np.uint8)], 30)
    info = probe(tmp_path / "a.mp4")
    assert (info.width, info.height) == (48, 34)
    (frame,) = VideoReader(tmp_path / "a.mp4", 34)
    assert np.abs(frame.image.astype(int) - 120).max() <= 2


@pytest.mark.parametrize("fps", [10, 29.97, 30000 / 1001, 0.5])
def test_the_frame_rate_is_kept(tmp_path, fps):
    write_video(tmp_path / "a.mp4", noise(3, 8, 8), fps)
    assert probe(tmp_path / "a.mp4").fps == pytest.approx(fps, rel=1e-4)
    times = [frame.time for frame in VideoReader(tmp_path / "a.mp4", 8)]
    assert times == pytest.approx([0, 1 / fps, 2 / fps], rel=1e-3)


@pytest.mark.parametrize(
    ("path", "fps", "message"),
    [
        ("a.avi", 30, r"does not end in \.mp4"),
        ("no/a.mp4", 30, "the folder .*no does not exist"),
        ("a.mp4", 0, "fps is 0; it must be from 0.01 to 1000"),
        ("a.mp4", float("nan"), "fps is nan"),
    ],
)
def test_a_place_or_rate_that_cannot_be_written_is_refused(tmp_path, path, fps, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / path, [], fps)


def test_a_frame_of_another_type_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"frame is float64 \(8, 8, 3\); it must be uint8"):
        write_video(tmp_path / "a.mp4", [np.zeros((8, 8, 3))], 30)
