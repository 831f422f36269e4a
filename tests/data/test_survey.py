"""Laws of surveys: every frame is read, and a decoder that hangs or crashes costs one video."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.broken_sources import Crashing, Looping, Raising, Sleeping
from tttvideo.data.tokens import file_hash
from tttvideo.data.video import index_file
from tttvideo.data.video.clips import new_clips
from tttvideo.data.video.doctor import explain
from tttvideo.data.video.drawn import bouncing_glyphs
from tttvideo.data.video.index_file import index_videos, read_surveys, summary
from tttvideo.data.video.probe import VideoError
from tttvideo.data.video.reader import VideoReader
from tttvideo.data.video.sources import VideoSource, find_videos, printable
from tttvideo.data.video.survey import Survey, examine, known, survey
from tttvideo.data.video.writer import write_video


LIMIT = 1.5  # seconds


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four videos, of 5 to 8 frames."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        frames = bouncing_glyphs(5 + number, 32, 1, seed=(number,))
        write_video(folder / f"{number}.mp4", frames, 10, lossless=True)
    return folder


def look(source: VideoSource) -> Survey:
    """A survey in this process."""
    return examine(source, 32, lambda size: None)


def test_a_decoder_that_hangs_or_crashes_costs_one_video(clips):
    whole = [VideoSource(clips / f"{n}.mp4") for n in range(4)]
    broken = [kind(clips / "0.mp4") for kind in (Sleeping, Crashing, Looping, Raising)]
    order = [whole[0], broken[0], whole[1], *broken[1:3], whole[2], broken[3], whole[3]]
    start = time.monotonic()
    found = list(survey(order, limit=LIMIT, workers=1))
    assert time.monotonic() - start < 20
    statuses = [one.status for one in found]
    assert statuses == ["ok", "hang", "ok", "crash", "hang", "ok", "bad", "ok"]
    assert [one.frames for one in found if one.status == "ok"] == [5, 6, 7, 8]
    hang, crash, loop, bad = (one.reason for one in found if one.status != "ok")
    assert "no further frame came within 1.5 seconds" in hang == loop
    assert "the decoder ended with SIGSEGV" in crash and bad.endswith("0.mp4: no luck")


def test_two_workers_find_what_one_finds(clips):
    sources = find_videos([clips]).videos
    one, two = (sorted(map(str, survey(sources, limit=60, workers=workers))) for workers in (1, 2))
    assert one == two and len(one) == 4


def test_no_child_outlives_a_survey_that_is_left(clips):
    found = survey([VideoSource(clips / "0.mp4"), Sleeping(clips / "1.mp4")], limit=60, workers=2)
    next(found)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    spawned = [pid for pid in children.read_text().split() if "spawn_main" in command(pid)]
    assert spawned
    found.close()
    assert not [pid for pid in spawned if Path(f"/proc/{pid}").exists()]


def command(pid: str) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_a_survey_has_the_facts_of_every_frame(clips):
    found = look(VideoSource(clips / "3.mp4"))
    reader = VideoReader(clips / "3.mp4", 32)
    facts = clips / "3.mp4"
    assert found == Survey(
        path=str(facts),
        number=None,
        given_fps=None,
        bytes=facts.stat().st_size,
        changed=facts.stat().st_mtime_ns,
        status="ok",
        sha256=file_hash(facts),
        frames=8,
        first=0.0,
        last=pytest.approx(0.7),
        constant=True,
        repeats=0,
        fps=10.0,
        width=32,
        height=32,
        rotation=0,
        codec="h264",
        container="mov",
        reader=reader.backend,
        reader_reason=reader.reason,
    )
    assert found.seconds == pytest.approx(0.8)


def test_a_survey_tells_uneven_times_repeats_and_skipped_numbers(tmp_path):
    frames = np.stack(list(bouncing_glyphs(6, 32, 1)))
    frames[3] = frames[2]
    pictures = [Image.fromarray(frame) for frame in frames]
    durations = [100, 100, 300, 100, 100, 100]
    pictures[0].save(
        tmp_path / "a.webp",
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        lossless=True,
        minimize_size=False,
    )
    np.save(tmp_path / "b.npy", frames)
    (tmp_path / "c").mkdir()
    for number, picture in zip([1, 2, 3, 5, 6, 7], pictures, strict=True):
        picture.save(tmp_path / "c" / f"{number}.png")
    webp, array, folder = map(look, find_videos([tmp_path]).videos)
    assert webp.constant is False and webp.flags == ["variable rate"]
    assert (array.constant, array.flags, array.repeats) == (True, [], 1)
    assert folder.flags == ["numbers skip"] and "may be missing" in explain(folder)
    assert folder.frames == 6 and folder.sha256 != array.sha256 != webp.sha256


def test_a_survey_and_a_corpus_know_pictures_by_the_same_stamp(tmp_path):
    (tmp_path / "c" / "old").mkdir(parents=True)
    for name in ("1.png", "2.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / "c" / name)
        os.utime(tmp_path / "c" / name, (1e9, 1e9))
    os.utime(tmp_path / "c", (1e9, 1e9))
    source = VideoSource(tmp_path / "c", fps=10.0)
    (clip,) = new_clips([source])
    size = 2 * (tmp_path / "c/1.png").stat().st_size
    assert known(source)[-2:] == (clip.size, clip.changed) == (size, 10**18)
    (tmp_path / "c/1.png").rename(tmp_path / "c/3.png")  # another order of the same pictures
    (clip,) = new_clips([source])
    assert known(source)[-2:] == (clip.size, clip.changed) != (size, 10**18)
    shutil.rmtree(tmp_path / "c")
    assert known(source)[-2:] == (0, 0)


class Changing(VideoSource):
    """A video whose reader notes something and goes over to PyAV while it reads."""

    def open(self, size):
        reader = super().open(size)
        images = reader.decord_images

        def changing():
            reader.note("its picture changes")
            reader.backend, reader.reason = "pyav", "it changes"
            yield from images()
            if self.number:
                raise VideoError("it is damaged")

        reader.decord_images = reader.pyav_images = changing
        return reader


@pytest.mark.parametrize("number", [None, 1], ids=["ok", "bad"])
def test_a_survey_states_the_reader_that_served_and_its_notes(number, clips):
    found = look(Changing(clips / "0.mp4", number))
    assert found.status == ("bad" if number else "ok") and found.notes == ["its picture changes"]
    assert (found.reader, found.reader_reason) == ("pyav", "it changes")
    assert "note: its picture changes" in explain(found)


# --- the index


def index(folder: Path, out: Path, **options) -> list[Survey]:
    return index_videos(find_videos([folder]).videos, out, limit=60, workers=1, **options)


def test_an_index_is_continued_after_a_kill_in_the_middle_of_a_line(clips, tmp_path, monkeypatch):
    whole = index(clips, tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    assert [Survey(**json.loads(line)) for line in lines] == whole and len(lines) == 4
    out, unfinished = tmp_path / "cut.jsonl", tmp_path / "cut.jsonl.unfinished"
    unfinished.write_text(lines[2] + lines[0] + lines[1][:90])
    read = []

    def counting(sources, **options):
        read.extend(source.path.name for source in sources)
        return map(look, sources)

    monkeypatch.setattr(index_file, "survey", counting)
    assert index(clips, out) == whole and read == ["1.mp4", "3.mp4"]
    assert out.read_text() == "".join(lines) and not unfinished.exists()
    assert index(clips, out) == whole and len(read) == 2


def test_a_stopped_index_keeps_its_lines_and_shows_no_half_file(clips, tmp_path, monkeypatch):
    def stopping(sources, **options):
        yield look(sources[0])
        raise KeyboardInterrupt

    out = tmp_path / "a.jsonl"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(index_file, "survey", stopping)
        index(clips, out)
    assert not out.exists()
    assert [line.path for line in read_surveys(Path(f"{out}.unfinished"))] == [str(clips / "0.mp4")]


def test_only_what_changed_is_read_again(tmp_path, monkeypatch):
    for name in "abc":
        write_video(tmp_path / f"{name}.mp4", bouncing_glyphs(3, 32, 1), 10, lossless=True)
    out, read = tmp_path / "index.jsonl", []

    def counting(sources, **options):
        read.extend(source.path.name for source in sources)
        return map(look, sources)

    monkeypatch.setattr(index_file, "survey", counting)
    index(tmp_path, out)
    (tmp_path / "a.mp4").unlink()
    write_video(tmp_path / "b.mp4", bouncing_glyphs(4, 32, 1), 10, lossless=True)
    surveys = index(tmp_path, out)
    assert read == ["a.mp4", "b.mp4", "c.mp4", "b.mp4"]
    assert [(Path(one.path).name, one.frames) for one in surveys] == [("b.mp4", 4), ("c.mp4", 3)]


@pytest.mark.parametrize("status", ["hang", "crash"])
def test_what_hung_or_crashed_is_read_again(status, clips, tmp_path, monkeypatch):
    def stuck(sources, **options):
        return (replace(look(source), status=status) for source in sources)

    with monkeypatch.context() as patch:
        patch.setattr(index_file, "survey", stuck)
        assert [one.status for one in index(clips, tmp_path / "a.jsonl")] == [status] * 4
    monkeypatch.setattr(index_file, "survey", lambda sources, **options: map(look, sources))
    assert [one.status for one in index(clips, tmp_path / "a.jsonl")] == ["ok"] * 4


def test_a_file_that_is_no_index_is_not_overwritten(clips, tmp_path):
    out = tmp_path / "notes.txt"
    out.write_text("my notes")
    with pytest.raises(ValueError, match="notes.txt is no index of videos; remove it"):
        index(clips, out)
    assert out.read_text() == "my notes"


def test_a_killed_index_leaves_no_process_and_resumes(clips, tmp_path):
    """The whole program, killed while a decoder hangs; the hung child ends by its own alarm."""
    code = "from pathlib import Path\n"
    code += "from helpers.broken_sources import Sleeping, VideoSource\n"
    code += "from tttvideo.data.video.index_file import index_videos\n"
    code += "if __name__ == '__main__':\n"
    code += f"    videos = [VideoSource(Path({str(clips / '0.mp4')!r}))]\n"
    code += f"    videos += [Sleeping(Path({str(clips / '1.mp4')!r}))]\n"
    code += "    index_videos(videos, Path('a.jsonl'), limit=1.5, workers=1)\n"
    (tmp_path / "run.py").write_text(code)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, "-P", "run.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        stderr=subprocess.DEVNULL,
    )
    log = tmp_path / "a.jsonl.unfinished"
    wait_for(lambda: log.exists() and log.read_text().count("\n") == 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(is_running(pid) for pid in children))
    assert not (tmp_path / "a.jsonl").exists()
    assert [one.status for one in index(clips, tmp_path / "a.jsonl")] == ["ok"] * 4


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(pid: str) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_name_that_is_no_unicode_is_indexed_and_printed(clips, tmp_path):
    odd = os.fsencode(tmp_path) + b"/a\xff.mp4"
    Path(os.fsdecode(odd)).write_bytes((clips / "0.mp4").read_bytes()[:99])
    (line,) = index(tmp_path, tmp_path / "out.jsonl")
    assert read_surveys(tmp_path / "out.jsonl") == [line]
    assert r"a\udcff.mp4" in printable(summary([line]))


def test_a_summary_counts_every_kind_and_names_what_cannot_serve(clips):
    good = [look(source) for source in find_videos([clips]).videos]
    bad = replace(good[0], status="hang", reason="x.mp4: no further frame came")
    shown = summary([*good, replace(good[0], path="copy.mp4"), bad])
    for words in (
        "6 videos: ok 5, hang 1",
        "31 frames, 0.00 hours",
        "codec: h264 in mov 5",
        "size: 32x32 5",
        "rate: 10 5",
        "with the content of another: 1",
        "hang: x.mp4: no further frame came",
    ):
        assert words in shown.splitlines()
    assert summary([bad] * 50).splitlines()[-1] == "... and 30 more"


# --- the doctor


GOOD = Survey("a b.mp4", None, None, 1, 1, "ok", frames=50, last=1.96, constant=True, fps=25.0)
GOOD = replace(GOOD, width=64, height=48, rotation=0, codec="h264", container="mov")
GOOD = replace(GOOD, reader="decord", reader_reason="decord reads it exactly")
ENCODE = "-c:v libx264 -crf 12 -an NEW.mp4"
KEEP = "ffmpeg -err_detect ignore_err -i 'a b.mp4' -fps_mode passthrough " + ENCODE
EXPLAINED = [
    (GOOD, ["a b.mp4: h264 in mov, 64x48, 25 frames per second", "50 frames, 2.00 s, all"]),
    (replace(GOOD, rotation=90), ["64x48, turned by 90 degrees"]),
    (replace(GOOD, fps=1 / 300), [f"25 frames per second: ffmpeg -r 25 -i 'a b.mp4' {ENCODE}"]),
    (
        replace(GOOD, flags=["variable rate"], constant=False),
        ["not come at a constant rate", f"ffmpeg -i 'a b.mp4' -vf fps=25 {ENCODE}"],
    ),
    (replace(GOOD, flags=["interlaced"]), ["has combs", "-vf bwdif=send_frame"]),
    (replace(GOOD, flags=["edit list"]), ["an edit list hides frames"]),
    (replace(GOOD, repeats=1), ["1 frame look"]),
    (replace(GOOD, status="bad", reason="a b.mp4 is damaged"), ["bad: a b.mp4 is damaged", KEEP]),
    (replace(GOOD, status="hang", codec=None), [KEEP]),
]


@pytest.mark.parametrize("found, words", EXPLAINED, ids=[str(words) for _, words in EXPLAINED])
def test_the_doctor_says_what_is_read_and_how_to_repair_the_rest(found, words):
    for word in words:
        assert word in explain(found)


def test_the_doctor_offers_no_line_where_none_helps():
    lost = Survey("a.mp4", None, None, 1, 1, "bad", "a.mp4 has no video stream; leave it out")
    array = replace(GOOD, given_fps=25.0, status="bad")
    for found in (GOOD, lost, array):
        assert "ffmpeg" not in explain(found)


def test_a_survey_is_a_line_of_json(clips):
    found = look(VideoSource(clips / "0.mp4"))
    assert Survey(**json.loads(json.dumps(asdict(found)))) == found
    assert found.source == VideoSource(clips / "0.mp4")
