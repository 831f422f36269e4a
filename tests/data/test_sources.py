"""Laws of finding videos, and of reading those that are stored as images."""

import os
import pickle
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tttvideo.data.frames import HeldFrames, open_parts
from tttvideo.data.video import images as images_room
from tttvideo.data.video import sources as sources_room
from tttvideo.data.video.probe import VideoError
from tttvideo.data.video.sources import VIDEO_SUFFIXES, VideoSource, find_videos
from tttvideo.data.video.writer import write_video


def clip(count=6, height=48, width=64, seed=0) -> np.ndarray:
    """(count, height, width, 3) in few colours, so that a GIF can hold it."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for n, frame in enumerate(frames):
        frame[:] = (10 * n + seed, 50, 200)
        frame[5 + n : 15 + n, 8:30] = (255, 0, 9 * n)
    return frames


def images(source: VideoSource, size: int) -> np.ndarray:
    return np.stack([frame.image for frame in source.open(size)])


def the_one(path: Path, **options) -> VideoSource:
    (source,) = find_videos([path], **options).videos
    return source


def middle(frames: np.ndarray, size=48) -> np.ndarray:
    """What is left of 48 x 64 pixels at size 48: nothing is resized."""
    return frames[:, :, 8:56]


# --- what is found


def test_every_kind_is_found_in_natural_order_and_the_rest_is_counted(tmp_path):
    for name in (
        "10.mp4",
        "2.MKV",
        "sub/1.webm",
        "a.avi",
        "readme.txt",
        "b.txt",
        "x.gif",
        "LICENSE",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff\xff")
    (tmp_path / "index.ts").write_text("export const é = 1;\n")
    (tmp_path / "film.ts").write_bytes(b"\x47\x40\x11\x10" + b"\xff" * 184)
    (tmp_path / "2.actions.npy").touch()
    (tmp_path / "cover.jpg").touch()
    (tmp_path / ".hidden.mp4").touch()
    found = find_videos([tmp_path])
    names = [str(video.path.relative_to(tmp_path)) for video in found.videos]
    assert names == ["2.MKV", "10.mp4", "a.avi", "film.ts", "x.gif", "sub/1.webm"]
    assert found.conditions == 1
    assert found.passed_over == {
        ".txt": 2,
        "without suffix": 1,
        ".ts that is no video": 1,
        ".jpg": 1,
        "hidden": 1,
    }
    assert found.sentence.startswith("6 videos, 1 file of conditions, 6 other files passed over: ")
    assert ".txt 2" in found.sentence and ".ts that is no video 1" in found.sentence


def test_links_are_followed_once_and_loops_end(tmp_path):
    real, folder = tmp_path / "real", tmp_path / "set"
    (real / "deep").mkdir(parents=True)
    folder.mkdir()
    write_video(real / "deep" / "a.mp4", clip(2), 10)
    (folder / "again").symlink_to(real)
    (folder / "b.mp4").symlink_to(real / "deep" / "a.mp4")
    (real / "deep" / "up").symlink_to(folder)
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    found = find_videos([folder])
    assert [video.path for video in found.videos] == [folder / "b.mp4"]
    assert found.passed_over == {"broken links": 1}
    assert [video.path for video in find_videos([real]).videos] == [real / "deep" / "a.mp4"]


def test_a_file_that_is_named_twice_comes_once_and_a_glob_is_searched(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, clip(2), 10)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "d.txt").touch()
    assert find_videos([tmp_path / "**"]).passed_over == {".txt": 1}
    found = find_videos([tmp_path / "b.mp4", tmp_path / "*", tmp_path])
    assert [video.path.name for video in found.videos] == ["b.mp4", "a.mp4"]
    assert find_videos([tmp_path / "*.mp4"]).passed_over == {}


def test_a_pipe_is_counted(tmp_path):
    write_video(tmp_path / "a.mp4", clip(2), 10)
    os.mkfifo(tmp_path / "b.mp4")
    assert find_videos([tmp_path]).passed_over == {"pipes and devices": 1}


CODECS = {
    "mpeg4": {"avi": (".avi", ".divx")},
    "mpeg2video": {"vob": (".mpg", ".mpeg", ".vob"), "mpegts": (".m2t",), "mxf": (".mxf",)},
    "libx264": {
        "mpegts": (".ts", ".m2ts", ".mts"),
        "mov": (".mov", ".qt", ".m4v"),
        "3gp": (".3gp", ".3g2"),
        "h264": (".264", ".h264"),
        "flv": (".flv", ".kux"),
        "nut": (".nut",),
    },
    "libvpx": {"webm": (".webm",), "ogg": (".ogv", ".ogm", ".ogg"), "ivf": (".ivf",)},
    "h261": {"h261": (".h261",)},
    "wmv2": {"asf": (".wmv", ".asf")},
    "rv20": {"rm": (".rm", ".rmvb")},
    "mjpeg": {"mjpeg": (".mjpeg", ".mjpg")},
    "wrapped_avframe": {"yuv4mpegpipe": (".y4m",)},
    "gif": {"gif": (".gif",)},
    "apng": {"apng": (".apng",)},
}
KINDS = [(c, f, s) for c, formats in CODECS.items() for f, all in formats.items() for s in all]


@pytest.mark.parametrize("codec, format, suffix", KINDS, ids=[kind[2] for kind in KINDS])
def test_every_frame_of_a_listed_kind_is_read(codec, format, suffix, tmp_path):
    pixels = {"mjpeg": "yuvj420p", "gif": "rgb8", "apng": "rgb24"}.get(codec, "yuv420p")
    greys = np.arange(20, 240, 31)
    with av.open(str(tmp_path / f"a{suffix}"), "w", format=format) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 176, 144, pixels
        for grey in greys:
            image = np.full((144, 176, 3), grey, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    read = images(the_one(tmp_path), 32)
    assert suffix in VIDEO_SUFFIXES and len(read) == len(greys)
    assert np.abs(read.mean((1, 2, 3)) - greys).max() < 20


def test_an_ogg_of_sound_is_counted(tmp_path):
    with av.open(str(tmp_path / "a.ogg"), "w") as container:
        stream = container.add_stream("flac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.int16), "s16", "stereo")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    write_video(tmp_path / "b.mp4", clip(2), 10)
    assert find_videos([tmp_path]).passed_over == {".ogg that is no video": 1}


# --- videos that are stored as images


def save_animation(path: Path, frames: np.ndarray, milliseconds: list[int]) -> Path:
    first, *rest = map(Image.fromarray, frames)
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=rest, duration=milliseconds, **lossless)
    return path


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_an_animation_is_read_exactly_at_its_own_times(name, tmp_path):
    frames, milliseconds = clip(6), [100, 40, 200, 70, 100, 30]
    save_animation(tmp_path / name, frames, milliseconds)
    for source in (the_one(tmp_path / name), the_one(tmp_path)):
        assert source.fps is None
        assert np.array_equal(images(source, 48), middle(frames))
        times = [frame.time for frame in source.open(48)]
        assert np.allclose(times, np.cumsum([0, *milliseconds[:-1]]) / 1000)
        assert source.info().fps == pytest.approx(6 / 0.54, rel=0.2)


def save_pictures(folder: Path, frames: np.ndarray, suffix=".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{number + 1}{suffix}")
    return folder


def test_a_folder_of_pictures_is_a_video_in_natural_order(tmp_path):
    frames = clip(12)
    save_pictures(tmp_path / "set" / "one", frames)
    save_pictures(tmp_path / "set" / "two", frames[:3], ".bmp")
    Image.fromarray(frames[0]).save(tmp_path / "set" / "one" / "preview.jpg")
    found = find_videos([tmp_path / "set"], fps=10)
    assert [video.path.name for video in found.videos] == ["one", "two"]
    assert found.passed_over == {".jpg": 1}
    assert found.sentence.startswith("2 videos (2 of pictures or arrays, at 10 frames per second)")
    one, two = found.videos
    assert np.array_equal(images(one, 48), middle(frames))
    assert np.array_equal(images(two, 48), middle(frames[:3]))
    assert [frame.time for frame in two.open(48)] == pytest.approx([0, 0.1, 0.2])
    reader = one.open(48)
    assert (reader.info.fps, reader.info.frames, reader.expected()) == (10, 12, 12)
    assert the_one(tmp_path / "set" / "one").fps == 25


def test_a_picture_is_turned_upright(tmp_path):
    frames, exif = clip(2), Image.Exif()
    exif[0x0112] = 6  # shown turned to the right
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png", exif=exif)
    source = the_one(tmp_path)
    assert (source.info().width, source.info().height) == (48, 64)
    assert np.array_equal(images(source, 48), np.rot90(frames, -1, (1, 2))[:, 8:56])


LAYOUTS = {
    "(T, H, W, 3)": lambda x: x,
    "(T, H, W)": lambda x: x[..., 0],
    "(T, H, W, 1)": lambda x: x[..., :1],
    "fortran": np.asfortranarray,
}


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "compressed.npz", "lone.npz"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_array_is_a_video(layout, name, tmp_path):
    frames, path = clip(6), tmp_path / name
    array = LAYOUTS[layout](frames)
    if name == "a.npy":
        np.save(path, array)
    elif name == "lone.npz":
        np.savez(path, array)
    else:
        save = np.savez if name == "a.npz" else np.savez_compressed
        save(path, video=np.ascontiguousarray(array), actions=np.zeros((6, 2)))
    if layout == "fortran" and name == "lone.npz":
        with pytest.raises(ValueError, match="save it as an .npy: np.save"):
            find_videos([path])
        return
    grey = layout in ("(T, H, W)", "(T, H, W, 1)")
    expected = frames[..., :1].repeat(3, 3) if grey else frames
    source = the_one(path, fps=10)
    assert source.number is None and source.info().frames == 6
    assert np.array_equal(images(source, 48), middle(expected))
    assert [frame.time for frame in source.open(48)] == pytest.approx(np.arange(6) / 10)


def test_an_array_of_several_videos_is_that_many(tmp_path):
    clips = np.stack([clip(4, seed=seed) for seed in range(3)])
    np.save(tmp_path / "a.npy", clips)
    mnist = np.random.default_rng(0).integers(0, 256, (20, 2, 64, 64), np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", mnist)
    videos = find_videos([tmp_path]).videos
    assert [video.name for video in videos[:3]] == [f"{tmp_path / 'a.npy'}#{n}" for n in range(3)]
    assert [video.number for video in videos] == [0, 1, 2, 0, 1]
    for video, frames in zip(videos[:3], clips, strict=True):
        assert np.array_equal(images(video, 48), middle(frames))
    for n, video in enumerate(videos[3:]):
        assert np.array_equal(images(video, 64), mnist[:, n, ..., None].repeat(3, 3))
    with pytest.raises(ValueError, match="has no video 3; it has 3"):
        VideoSource(tmp_path / "a.npy", 3, 25.0).open(48)


@pytest.mark.parametrize("size", [24, 48, 100], ids=["smaller", "equal", "larger"])
@pytest.mark.parametrize("kind", ["pictures", "array", "webp"])
def test_images_are_resized_and_cropped_as_a_video_file_is(kind, size, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 48, 66, 3), np.uint8)
    write_video(tmp_path / "a.mp4", frames, 10, lossless=True)
    path = tmp_path / {"pictures": "b", "array": "b.npy", "webp": "b.webp"}[kind]
    if kind == "pictures":
        save_pictures(path, frames)
    elif kind == "array":
        np.save(path, frames)
    else:
        save_animation(path, frames, [100, 100, 100])
    ours = images(the_one(path), size).astype(int)
    assert np.abs(ours - images(the_one(tmp_path / "a.mp4"), size)).max() <= (
        2 if size != 48 else 0
    )


def test_a_source_and_its_reader_may_be_passed_to_other_processes(tmp_path):
    np.save(tmp_path / "a.npy", clip(3))
    save_pictures(tmp_path / "b", clip(3))
    save_animation(tmp_path / "c.webp", clip(3), [40, 40, 40])
    write_video(tmp_path / "d.mp4", clip(3), 10, lossless=True)
    for source in find_videos([tmp_path]).videos:
        reader = source.open(48)
        list(reader)
        again = pickle.loads(pickle.dumps(reader))
        assert all(np.array_equal(a.image, b.image) for a, b in zip(reader, again, strict=True))


def test_a_frame_tokenizer_learns_from_files_pictures_and_arrays(tmp_path, caplog):
    write_video(tmp_path / "a.mp4", clip(2), 10, lossless=True)
    np.save(tmp_path / "b.npy", clip(3))
    save_pictures(tmp_path / "c", clip(4))
    (tmp_path / "notes.txt").touch()
    with caplog.at_level("WARNING", "tttvideo"):  # as the command sets it
        frames = HeldFrames(open_parts([str(tmp_path)], [48], None), 100).frames
    expected = np.concatenate([middle(clip(n)) for n in (2, 3, 4)])
    assert np.array_equal(frames.numpy(), expected)
    assert "1 other file passed over: .txt 1" in caplog.text


# --- what cannot be read says how to proceed


WRONG_ARRAYS = [
    (np.zeros((4, 8, 8, 3)), "frames must be uint8 from 0 to 255: x.astype"),
    (np.zeros((4, 3, 8, 8), np.uint8), "np.moveaxis(x, -3, -1) puts it last"),
    (np.zeros((10, 20, 8, 8), np.uint8), "x[..., None] adds an axis of colour"),
    (np.zeros((0, 8, 8, 3), np.uint8), "it must be (T, H, W)"),
    (np.zeros((8, 8), np.uint8), "it must be (T, H, W)"),
    (np.array([{}], object), "frames must be uint8"),
]


@pytest.mark.parametrize(
    "array, message", WRONG_ARRAYS, ids=[str(a.shape) for a, _ in WRONG_ARRAYS]
)
def test_an_array_that_is_no_video_is_refused_with_the_way_to_make_it_one(array, message, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError) as refusal:
        find_videos([tmp_path / "a.npy"])
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_pickle_in_an_array_file_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    bomb = np.array([Bomb()] * 3, object).reshape(3, 1, 1, 1)
    np.save(tmp_path / "a.npy", bomb)
    np.savez(tmp_path / "b.npz", frames=bomb)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.npy", "b.npz", "c.npy"):
        with pytest.raises(ValueError, match=name):
            find_videos([tmp_path / name])
    for source in find_videos([tmp_path]).videos:
        with pytest.raises(VideoError):
            source.open(8)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_array_is_found_and_named_when_it_is_opened(tmp_path):
    np.save(tmp_path / "a.npy", clip(4))
    np.savez_compressed(tmp_path / "b.npz", frames=clip(4))
    for name, keep in (("a.npy", 9000), ("b.npz", 60)):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    np.savez(tmp_path / "c.npz", frames=clip(4))
    data = bytearray((tmp_path / "c.npz").read_bytes())
    data[5000] ^= 255
    (tmp_path / "c.npz").write_bytes(data)
    (tmp_path / "d.npy").write_bytes(b"no array")
    np.save(tmp_path / "features.npy", np.zeros((4, 8)))
    np.savez(tmp_path / "two.npz", a=clip(4), b=clip(4))
    found = find_videos([tmp_path])
    assert [video.path.name for video in found.videos] == [
        "a.npy", "b.npz", "c.npz", "d.npy", "two.npz",
    ]  # fmt: skip
    assert found.passed_over == {".npy that is no video": 1}
    for source in found.videos:
        with pytest.raises(VideoError, match=source.path.name) as error:
            list(source.open(48))
        assert "\n" not in str(error.value)


def test_pictures_that_cannot_be_one_video_are_refused(tmp_path):
    frames = clip(3)
    folder = save_pictures(tmp_path / "a", frames)
    Image.fromarray(frames[0, :40]).save(folder / "frame2.png")
    with pytest.raises(VideoError, match="an image of 64x40 at 0.04 s, and its first is of 64x48"):
        list(the_one(folder).open(48))
    (folder / "frame2.png").write_bytes((folder / "frame1.png").read_bytes()[:90])
    with pytest.raises(VideoError, match="frame2.png cannot be read as a picture"):
        list(the_one(folder).open(48))
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(folder / "frame1.png")
    with pytest.raises(VideoError, match="more than 8 bits a colour"):
        the_one(folder).open(48)
    save_pictures(folder, frames, ".jpg")
    with pytest.raises(VideoError, match="as many pictures .* of which only one kind can be"):
        find_videos([tmp_path])


def test_a_stack_of_pages_is_refused_rather_than_cut_to_its_first(tmp_path):
    folder = save_pictures(tmp_path / "a", clip(2), ".tif")
    assert np.array_equal(images(the_one(folder), 48), middle(clip(2)))
    first, *rest = map(Image.fromarray, clip(3))
    first.save(folder / "frame2.tif", save_all=True, append_images=rest)
    with pytest.raises(VideoError, match="frame2.tif has 3 pages; save them as files of one page"):
        list(the_one(folder).open(48))


def test_files_that_cannot_be_opened_fail_as_themselves(tmp_path, monkeypatch):
    save_pictures(tmp_path / "a", clip(3))
    write_video(tmp_path / "b.mp4", clip(2), 10)
    (tmp_path / "c.ts").write_text("no matter")

    def refusing(path, *arguments):
        if Path(path).name in ("frame2.png", "c.ts"):
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *arguments)

    for room in (images_room, sources_room):
        monkeypatch.setattr(room, "open", refusing, raising=False)
    assert sorted(v.path.name for v in find_videos([tmp_path]).videos) == ["a", "b.mp4", "c.ts"]


def test_what_is_named_and_is_no_video_is_refused(tmp_path):
    picture, text, empty = (tmp_path / name for name in ("a.png", "b.txt", "c.npy"))
    Image.fromarray(clip(1)[0]).save(picture)
    text.write_text("no video")
    empty.touch()
    write_video(tmp_path / "d.mp4", clip(2), 10)
    (tmp_path / "e").mkdir()
    for path, message in (
        (picture, "a.png is one picture; name its folder"),
        (empty, "c.npy is empty"),
        (tmp_path / "nowhere", "there is no file or folder"),
        (tmp_path / "*.txt", r"has no video \(1 other file passed over: .txt 1\); videos end in"),
        (tmp_path / "e", "has no video; videos end in"),
    ):
        with pytest.raises(ValueError, match=message):
            find_videos([path])
    with pytest.raises(ValueError, match="but all videos have their own times"):
        find_videos([tmp_path / "d.mp4"], fps=10)
