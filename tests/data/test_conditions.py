"""Laws of conditions beside a video: read as they were written, one row per frame, or refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from tttvideo.data.video.clips import Clip, condition_forms, condition_stamps
from tttvideo.data.video.conditions import (
    is_condition,
    read_condition,
    read_conditions,
    seconds_between,
    write_conditions,
)
from tttvideo.data.video.sources import VideoSource, find_videos


RANDOM = np.random.default_rng(0)
ARRAYS = {
    "actions": RANDOM.integers(4, size=7, dtype=np.int32),
    "poses": RANDOM.normal(size=(7, 3)).astype(np.float32),
    "ages": RANDOM.integers(-1, 9, size=(7, 16), dtype=np.int32),
    "seconds": RANDOM.random(7).astype(np.float32),
    "classes": np.full(7, 3, np.int32),
}


def equal(found, wanted):
    return found.dtype == wanted.dtype and np.array_equal(found, wanted)


def test_conditions_are_read_as_they_were_written(tmp_path):
    write_conditions(tmp_path / "clip.mp4", **ARRAYS)
    assert {path.name for path in tmp_path.iterdir()} == {f"clip.{n}.npy" for n in ARRAYS}
    found = read_conditions(tmp_path / "clip.mp4", None, 7)
    assert found.keys() == ARRAYS.keys()
    assert all(equal(found[name], rows) for name, rows in ARRAYS.items())


def test_a_video_without_files_beside_it_has_no_conditions(tmp_path):
    write_conditions(tmp_path / "other.mp4", **ARRAYS)
    assert read_conditions(tmp_path / "clip.mp4", None, 7) == {}


@pytest.mark.parametrize("rows", [[3, 0, 1], [[0.5, -1], [2, 3], [1, 0]], [[0.5], [1], [2]]])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".csv with names", ".jsonl"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, rows, suffix):
    path = tmp_path / f"clip.actions{suffix.split()[0]}"
    cells = [",".join(map(str, np.atleast_1d(row))) for row in rows]
    if suffix == ".npy":
        np.save(path, rows)
    elif suffix == ".npz":
        np.savez(path, actions=rows)
    elif suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        path.write_text("\n".join((["left,right"] if "names" in suffix else []) + cells))
    wanted = np.array(rows)
    wanted = wanted.astype(np.int32 if wanted.dtype.kind == "i" else np.float32)
    assert equal(read_conditions(tmp_path / "clip.mp4", None, 3)["actions"], wanted)


def test_a_folder_of_pictures_has_them_beside_it(tmp_path):
    (tmp_path / "walk.v2").mkdir()
    write_conditions(tmp_path / "walk.v2", actions=np.arange(3))
    assert (tmp_path / "walk.v2.actions.npy").is_file()
    assert len(read_conditions(tmp_path / "walk.v2", None, 3)["actions"]) == 3


def test_the_working_folder_may_be_the_video(tmp_path, monkeypatch):
    (tmp_path / "walk" / "inner").mkdir(parents=True)
    write_conditions(tmp_path / "walk", actions=np.arange(3))
    monkeypatch.chdir(tmp_path / "walk")
    assert len(read_conditions(Path("."), None, 3)["actions"]) == 3
    assert [name for name, *_ in condition_stamps(Path("."))] == ["walk.actions.npy"]
    monkeypatch.chdir(tmp_path / "walk" / "inner")
    write_conditions(Path(".."), poses=np.zeros((3, 2)))
    assert read_conditions(Path(".."), None, 3).keys() == {"actions", "poses"}


def test_suffixes_may_be_capitals(tmp_path):
    (tmp_path / "clip.actions.CSV").write_text("1\n2")
    with open(tmp_path / "CLIP.NPZ", "wb") as file:
        np.savez(file, video=np.zeros((2, 8, 8, 3), np.uint8), actions=[3, 4])
    assert read_conditions(tmp_path / "clip.mp4", None, 2)["actions"].tolist() == [1, 2]
    assert read_conditions(tmp_path / "CLIP.NPZ", None, 2)["actions"].tolist() == [3, 4]
    assert is_condition(tmp_path / "clip.actions.CSV")
    assert [name for name, *_ in condition_stamps(tmp_path / "clip.mp4")] == ["clip.actions.CSV"]
    assert not find_videos([tmp_path]).passed_over
    np.save(tmp_path / "clip.actions.npy", [1, 2])
    with pytest.raises(ValueError, match="clip.actions.CSV and in .*npy; remove one of them"):
        read_conditions(tmp_path / "clip.mp4", None, 2)


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "beside"])
def test_an_array_file_of_several_videos_has_the_rows_of_each(tmp_path, inside):
    path, poses = tmp_path / "walks.npz", RANDOM.normal(size=(2, 5, 2)).astype(np.float32)
    arrays = {"video": np.zeros((2, 5, 8, 8, 3), np.uint8)}
    np.savez(path, **arrays | ({"poses": poses} if inside else {}))
    if not inside:
        np.save(tmp_path / "walks.poses.npy", poses)
    for number in (0, 1):
        assert equal(read_conditions(path, number, 5)["poses"], poses[number])
    with pytest.raises(ValueError, match="are of 2 videos; there is none for video 2"):
        read_conditions(path, 2, 5)


def test_one_class_is_that_of_every_frame(tmp_path):
    (tmp_path / "clip.classes.csv").write_text("4")
    assert read_conditions(tmp_path / "clip.mp4", None, 3)["classes"].tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "actions",
            [1, 2],
            "npy has 2 rows of actions for the 3 frames of .*clip.mp4",
        ),
        ("actions", [1, 2, -1], "actions of frame 2 are -1; they must be from 0 to 2147483647"),
        ("actions", [1, 2**32, 1], "actions of frame 1 are 4294967296; they must be from 0"),
        ("ages", [[-1], [-2], [0]], r"ages of frame 1 are \[-2\]; they must be from -1"),
        ("actions", ["a", "b", "c"], r"type <U1; they must be \(frames,\) integers, or"),
        ("poses", [[0, 1], [2, np.nan], [3, 4]], r"poses of frame 1 are \[ 2. nan\].* finite"),
        ("poses", [0, 1, 2], r"poses of shape \(3,\).*must be \(frames, numbers\)"),
        ("ages", [[0.5]] * 3, r"ages.*must be \(frames, tokens\) integers"),
        ("seconds", [0.1, 0, 0.1], "seconds of frame 1 are 0.0; they must be finite and above 0"),
        ("classes", [0.5, 1, 2], "classes.*must be .frames,. integers"),
    ],
)
def test_wrong_rows_are_refused_by_file_and_frame(tmp_path, name, rows, message):
    np.save(tmp_path / f"clip.{name}.npy", np.array(rows))
    with pytest.raises(ValueError, match=message) as error:
        read_conditions(tmp_path / "clip.mp4", None, 3)
    assert "\n" not in str(error.value) and f"clip.{name}.npy" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"no array", "a.npy cannot be read as actions"),
        ("a.npz", b"no arrays", "a.npz cannot be read as actions"),
        ("a.csv", b"1,2\n3", "a.csv cannot be read as actions"),
        ("a.csv", b"1\nleft", "a.csv cannot be read as actions: could not convert string .*'left'"),
        ("a.jsonl", b'{"action": 1}\n', "a.jsonl has actions of shape .* object; they must be"),
        ("a.jsonl", b"[1\n", "a.jsonl cannot be read as actions"),
        ("a.txt", b"1\n2\n", "a.txt is no file of actions; give one of .npy, .npz, .csv, .jsonl"),
        ("b.npy", None, "there is no file .*b.npy"),
    ],
)
def test_files_that_hold_no_rows_are_refused(tmp_path, name, content, message):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_condition(tmp_path / name, "actions")


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_array_file_is_refused_by_its_name(tmp_path, damage):
    path = tmp_path / "clip.npz"
    np.savez_compressed(path, video=np.zeros((500, 8, 8, 3), np.uint8), actions=np.arange(500))
    data = path.read_bytes()
    at = data.rindex(b"actions.npy", 0, data.index(b"PK\1\2")) + 60  # inside its deflated data
    path.write_bytes(data[:-30] if damage == "cut" else data[:at] + bytes(40) + data[at + 40 :])
    with pytest.raises(ValueError, match="clip.npz cannot be read as a") as error:
        read_conditions(path, None, 500)
    assert "\n" not in str(error.value)
    clip = Clip(VideoSource(path, None, 25.0), 1, 1, 0)
    with pytest.raises(ValueError, match="clip.npz cannot be read as a"):
        condition_forms([clip], 0.01)


def test_two_files_of_one_condition_and_an_array_of_another_name_are_refused(tmp_path):
    np.savez(tmp_path / "clip.npz", video=np.zeros((1, 8, 8, 3), np.uint8), action=[1])
    with pytest.raises(ValueError, match="holds no array actions, but video, action; rename one"):
        read_condition(tmp_path / "clip.npz", "actions")
    (tmp_path / "clip.actions.csv").write_text("1")
    np.save(tmp_path / "clip.actions.npy", [1])
    with pytest.raises(ValueError, match="clip.actions.csv and in .*npy; remove one of them"):
        read_conditions(tmp_path / "clip.npz", None, 1)


def test_files_of_conditions_are_known_by_their_names(tmp_path):
    names = "a.actions.npy", "a.b.poses.csv", "a.npy", "actions.npy", "a.actions.mp4"
    assert [is_condition(tmp_path / name) for name in names] == [True, True, False, False, False]


def test_seconds_lead_from_each_frame_to_the_next():
    assert seconds_between(np.array([0, 0.5, 0.75])).tolist() == [0.5, 0.25, 0.25]
    assert seconds_between(np.zeros(1)).tolist() == [1]
    assert seconds_between(np.zeros(0)).tolist() == []
