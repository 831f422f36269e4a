"""`tttvideo index` and `tttvideo doctor` on small folders."""

import json
from pathlib import Path

import numpy as np
import pytest

from tttvideo.apps.cli import main
from tttvideo.data.video.drawn import bouncing_glyphs
from tttvideo.data.video.writer import write_video


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("clips").mkdir()
    write_video(Path("clips/a.mp4"), bouncing_glyphs(8, 32, 1), 10, lossless=True)
    np.save("clips/b.npy", np.stack(list(bouncing_glyphs(4, 32, 1))))
    Path("clips/c.mp4").write_bytes(Path("clips/a.mp4").read_bytes()[:2000])
    Path("clips/d.txt").touch()
    return tmp_path


def test_index_writes_a_line_for_each_video_and_a_summary(folder, capsys):
    main(["index", "clips", "--fps", "5", "--workers", "1"])
    lines = [json.loads(line) for line in Path("out/clips.jsonl").read_text().splitlines()]
    assert [(line["path"], line["status"], line["frames"]) for line in lines] == [
        ("clips/a.mp4", "ok", 8),
        ("clips/b.npy", "ok", 4),
        ("clips/c.mp4", "bad", 0),
    ]
    shown = capsys.readouterr().out
    assert "3 videos (1 of pictures or arrays, at 5 frames per second), 1 other file" in shown
    assert "3 videos: ok 2, bad 1" in shown and "bad: clips/c.mp4 cannot be read" in shown


def test_index_fails_only_if_nothing_is_readable_or_more_than_max_bad(folder):
    main(["index", "clips", "--workers", "1", "--max-bad", "1"])
    with pytest.raises(SystemExit, match="1 video cannot be read, more than --max-bad 0"):
        main(["index", "clips", "--max-bad", "0"])
    with pytest.raises(SystemExit, match="none of the 1 videos can be read"):
        main(["index", "clips/c.mp4", "--workers", "1", "--out", "bad.jsonl"])
    assert Path("bad.jsonl").read_text().count("\n") == 1


def test_doctor_explains_a_video_and_fails_for_one_that_cannot_be_read(folder, capsys):
    main(["doctor", "clips/a.mp4"])
    shown = capsys.readouterr().out
    assert "clips/a.mp4: h264 in mov, 32x32, 10 frames per second" in shown
    assert "read: 8 frames, 0.80 s, all that can be shown" in shown
    with pytest.raises(SystemExit, match="clips/c.mp4 cannot be read"):
        main(["doctor", "clips/c.mp4"])
    assert "bad: clips/c.mp4 cannot be read as video" in capsys.readouterr().out
