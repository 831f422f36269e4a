"""Laws of prepared video: every frame once, no half video, and the same bits from any run."""

import json
import os
import shutil
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from helpers.codecs import DANGEROUS, ENDS, FAILS, HANGS, MEANS, SIZE, means
from tttvideo.data import work_items as workers
from tttvideo.data.corpus import Run
from tttvideo.data.tokens import open_tokens
from tttvideo.data.video import corpus
from tttvideo.data.video.clips import new_clips
from tttvideo.data.video.conditions import write_conditions
from tttvideo.data.video.corpus import Options, VideoJob, prepare_video
from tttvideo.data.video.drawn import bouncing_glyphs
from tttvideo.data.video.reader import VideoReader
from tttvideo.data.video.sources import find_videos
from tttvideo.data.video.writer import write_video
from tttvideo.data.work_items import WorkerDied
from tttvideo.files import write_json


ONE = Run(workers=1, max_bad=0.01)
LENGTHS = [5, 9, 70, 1, 12, 8, 3, 20]  # frames; one is longer than what is encoded at once


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpus, "ITEM_BYTES", 15_000)
    monkeypatch.setattr(VideoJob, "patience", None)  # one worker is this process
    Path("clips").mkdir()


def write_clips(lengths=LENGTHS):
    for number, length in enumerate(lengths):
        write_clip(f"clips/{number}.mp4", bouncing_glyphs(length, SIZE, seed=number))


def write_clip(path, frames, fps=10):
    write_video(Path(path), frames, fps, lossless=True)


def prepare(out="out", options=None, run=ONE, codec=MEANS):
    manifest, _ = prepare_video(
        ["clips"], find_videos(["clips"]), Path(out), codec, options or Options(), run
    )
    return manifest


def tokens_of(path):
    return means(np.stack([frame.image for frame in VideoReader(path, SIZE)])).ravel().tolist()


def read_back(out="out", part="train"):
    """The tokens of each video."""
    file = open_tokens(Path(out, part))
    return [video.tolist() for video in np.split(file.tokens[:], file.starts[1:])]


def snapshot(out):
    files = (path for path in Path(out).rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_a_video_is_a_document_of_all_its_frames():
    write_clips()
    manifest = prepare()
    assert read_back() == [tokens_of(f"clips/{n}.mp4") for n in range(8)]
    frames = sum(LENGTHS)
    assert manifest["totals"]["train"] == {"documents": 8, "frames": frames, "tokens": 4 * frames}
    assert (manifest["videos"], manifest["bad"]) == (8, [])
    header = open_tokens("out/train").header
    assert (header.kind, header.grid, header.fps, header.tokenizer) == (
        "video",
        (2, 2),
        10,
        "means",
    )
    assert len(manifest["shards"]) > 2 and not Path("out/working").exists()


def test_the_rate_is_kept_where_all_videos_have_it():
    write_clip("clips/a.mp4", bouncing_glyphs(3, SIZE), 29.97)
    write_clip("clips/b.mp4", bouncing_glyphs(3, SIZE), 30)
    prepare()
    assert open_tokens("out/train").header.fps is None
    Path("clips/b.mp4").unlink()
    prepare("alone")
    assert round(open_tokens("alone/train").header.fps, 3) == 29.97


def test_videos_are_held_out_by_their_content_and_the_seed_alone():
    write_clips()
    shutil.copy("clips/2.mp4", "clips/copy.mp4")
    prepare("a", Options(validation=0.4))
    for number in range(8):
        os.rename(f"clips/{number}.mp4", f"clips/{9 - number}_moved.mp4")
    prepare("b", Options(validation=0.4))
    prepare("c", Options(validation=0.4, seed=1))
    parts = [sorted(read_back(out, "validation")) for out in "abc"]
    assert parts[0] == parts[1] != parts[2] and 1 <= len(parts[0]) <= 6
    assert not set(map(str, parts[0])) & set(map(str, read_back("a")))
    assert len(read_back("a")) + len(parts[0]) == 9


def test_a_shard_ends_with_a_video_when_it_has_enough_tokens(monkeypatch):
    monkeypatch.setattr(corpus, "ITEM_BYTES", 1 << 20)
    write_clips()
    manifest = prepare(options=Options(shard_tokens=40))
    assert [shard["frames"] for shard in manifest["shards"]] == [14, 70, 13, 11, 20]


def test_copies_are_made_of_training_videos_alone():
    write_clips([9, 8, 7, 6, 5, 4])
    prepare("plain", Options(validation=0.4))
    prepare("copied", Options(validation=0.4, augment=2))
    assert read_back("copied", "validation") == read_back("plain", "validation")
    train, copied = read_back("plain"), read_back("copied")
    assert copied[::3] == train and len(copied) == 3 * len(train)
    assert open_tokens("copied/train").header.copies
    assert not open_tokens("copied/validation").header.copies


def test_frames_outside_of_a_time_span_are_left_out():
    write_clips([9, 3, 30])
    manifest = prepare(options=Options(start=0.5, end=1.05))
    frames = tokens_of("clips/0.mp4")[5 * 4 :], tokens_of("clips/2.mp4")[5 * 4 : 11 * 4]
    assert read_back() == list(frames)
    assert (manifest["videos"], manifest["empty"]) == (3, 1)
    with pytest.raises(ValueError, match="9 to inf s hold no frame; change --start or --end"):
        prepare("none", Options(start=9))
    assert not Path("none").exists()


def test_where_the_camera_points_lies_beside_every_shard():
    write_clips()
    manifest = prepare(options=Options(camera_shift=True, shard_tokens=100))
    assert open_tokens("out/train").conditions["poses"][:].shape == (sum(LENGTHS), 2)
    assert all(len(shard["arrays"]["poses"]) == 64 for shard in manifest["shards"])


def test_the_time_to_the_next_frame_lies_beside_every_shard():
    rates = [10, 25]
    for number, rate in enumerate(rates):
        write_video(Path(f"clips/{number}.mp4"), bouncing_glyphs(6, SIZE), rate, lossless=True)
    prepare(options=Options(seconds=True, start=0.05))
    lengths = [5, 4]  # frames after 0.05 s
    steps = np.repeat(1 / np.array(rates), lengths)
    assert np.allclose(open_tokens("out/train").conditions["seconds"][:], steps, atol=1e-4)
    for number in range(2):
        write_conditions(Path(f"clips/{number}.mp4"), seconds=np.ones(6))
    with pytest.raises(ValueError, match="the videos have seconds; leave --seconds out"):
        prepare("again", Options(seconds=True))


def test_conditions_beside_a_video_lie_beside_its_shards():
    random, known = np.random.default_rng(0), []
    for number, length in enumerate([5, 9, 70]):
        write_clip(f"clips/{number}.mp4", bouncing_glyphs(length, SIZE, seed=number))
        actions = random.integers(0, 2 + number, length)
        known.append((actions, random.normal(size=(length, 2)).astype(np.float32)))
        write_conditions(Path(f"clips/{number}.mp4"), actions=actions, poses=known[-1][1])
    manifest = prepare(options=Options(shard_tokens=40))
    tokens = open_tokens("out/train")
    assert len(manifest["shards"]) == 3 and manifest["action_kinds"] == tokens.header.action_kinds
    assert tokens.header.action_kinds == 1 + max(int(actions.max()) for actions, _ in known)
    for name, rows in zip(("actions", "poses"), zip(*known, strict=True), strict=True):
        assert np.array_equal(tokens.conditions[name][:], np.concatenate(rows))
    prepare("span", Options(start=0.25, end=0.75))
    part = open_tokens("span/train").conditions["actions"][:]
    assert part.tolist() == [n for actions, _ in known for n in actions[3:8]]


def test_the_kinds_of_actions_are_those_of_the_whole_corpus():
    for number in range(6):
        write_clip(f"clips/{number}.mp4", bouncing_glyphs(3, SIZE, seed=number))
        write_conditions(Path(f"clips/{number}.mp4"), actions=np.array([0, 0, number]))
    prepare(options=Options(validation=0.5))
    headers = [open_tokens(f"out/{part}").header for part in ("train", "validation")]
    assert [header.action_kinds for header in headers] == [6, 6]


def test_a_video_with_other_conditions_than_most_is_left_out():
    write_clips([3, 3, 3, 3, 3])
    for number, actions in enumerate([[0, 1, 0], [0, 1], [0.5, 1, 2], [1, 1, 2]]):
        np.save(f"clips/{number}.actions.npy", np.array(actions))
    most = "1 of 5 videos have other conditions than the rest: clips/4.mp4 has none, and the rest "
    with pytest.raises(ValueError, match=f"{most}actions; give all videos the same"):
        prepare()
    assert not Path("out").exists()
    manifest = prepare(run=replace(ONE, max_bad=0.9))
    assert open_tokens("out/train").conditions["actions"][:].tolist() == [0, 1, 0, 1, 1, 2]
    reasons = [clip["reason"] for clip in manifest["bad"]]
    assert "clips/1.actions.npy has 2 rows of actions for the 3 frames" in reasons[0]
    assert "clips/2.mp4 has actions of 1 number a frame, and the corpus actions of 1" in reasons[1]
    assert "clips/4.mp4 has no actions, and the corpus actions of 1 integer a" in reasons[2]


def test_a_changed_file_of_conditions_is_noticed():
    write_clips([3])
    write_conditions(Path("clips/0.mp4"), actions=np.array([0, 1, 0]))
    prepare("out")
    write_conditions(Path("clips/0.mp4"), actions=np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="files were added, removed or changed since"):
        prepare("out")


def test_conditions_that_copies_would_not_fit_are_refused():
    write_clips([3])
    write_conditions(Path("clips/0.mp4"), poses=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="have poses, which altered copies would not fit; leave"):
        prepare(options=Options(augment=1))
    with pytest.raises(ValueError, match="the videos have poses; leave --camera-shift out"):
        prepare(options=Options(camera_shift=True))
    assert not Path("out").exists()


def test_pictures_and_arrays_are_videos_too():
    frames = np.stack([np.stack(list(bouncing_glyphs(6, SIZE, seed=n))) for n in range(3)])
    np.save("clips/a.npy", frames)
    np.save("clips/a.actions.npy", np.arange(18).reshape(3, 6) % 3)
    manifest = prepare()
    assert read_back() == [means(video).ravel().tolist() for video in frames]
    tokens = open_tokens("out/train")
    assert tokens.conditions["actions"][:].tolist() == [0, 1, 2] * 6
    assert (manifest["videos"], tokens.header.fps) == (3, 25)


def damage(path, clip):
    """A file whose first frames are whole and whose last ones are not."""
    content = bytearray(Path(clip).read_bytes())
    for place in range(len(content) // 2, len(content) - 3000, 7):
        content[place] ^= 255
    Path(path).write_bytes(content)


def write_bad():
    write_clip(
        "whole.mp4", np.random.default_rng(0).integers(0, 255, (90, SIZE, SIZE, 3), np.uint8)
    )
    whole = Path("whole.mp4").read_bytes()
    damage("clips/2b_damaged.mp4", "whole.mp4")
    Path("clips/3b_cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    Path("clips/4b_text.mp4").write_text("no video")
    Path("clips/5b_empty.mp4").touch()
    return ["2b_damaged", "3b_cut", "4b_text", "5b_empty"]


def test_a_bad_video_is_left_out_whole_and_listed():
    write_clips()
    bad = write_bad()
    manifest = prepare(run=replace(ONE, max_bad=0.5))
    assert read_back() == [tokens_of(f"clips/{n}.mp4") for n in range(8)]
    assert [clip["file"] for clip in manifest["bad"]] == [f"clips/{name}.mp4" for name in bad]
    for clip in manifest["bad"]:
        assert clip["reason"].startswith(clip["file"]) and "\n" not in clip["reason"]
    assert "good frames" in manifest["bad"][0]["reason"]


def test_more_bad_videos_than_allowed_fail_and_the_finished_work_is_kept(monkeypatch):
    write_clips()
    write_bad()
    message = "4 of 12 videos cannot be read, a larger share than --max-bad 0.01: clips/2b_damaged"
    with pytest.raises(ValueError, match=message):
        prepare()
    assert not Path("out/manifest.json").exists()
    monkeypatch.setattr(workers, "prepare_item", None)
    assert len(prepare(run=replace(ONE, max_bad=0.5))["bad"]) == 4
    with pytest.raises(ValueError, match=message):
        prepare()


def test_a_part_with_bad_videos_alone_names_them():
    Path("clips/a.mp4").write_text("no video")
    with pytest.raises(ValueError, match="1 of 1 videos cannot be read, .*: clips/a.mp4 cannot"):
        prepare()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("survivors", [0, 1, 3])
def test_a_killed_run_resumes_to_the_same_bits(monkeypatch, survivors):
    write_clips()
    write_bad()
    options, run = Options(validation=0.3, shard_tokens=90, camera_shift=True), Run(1, 0.5)
    prepare("whole", options, run)
    done, real = [], workers.prepare_item

    def do_then_die(job, prepare, number, sources, advance):
        if len(done) == survivors:
            (job.folder / f"{number:05}.train.00000.bin.partial").write_text("half")
            raise Killed
        real(job, prepare, number, sources, advance)
        done.append(number)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "prepare_item", do_then_die)
        with pytest.raises(Killed):
            prepare("cut", options, run)
    repeated = []
    monkeypatch.setattr(workers, "prepare_item", lambda *a: (repeated.append(a[2]), real(*a)))
    prepare("cut", options, run)
    assert snapshot("cut") == snapshot("whole")
    assert repeated and not set(done) & set(repeated)


def test_the_number_of_workers_changes_nothing():
    write_clips()
    write_bad()
    options = Options(validation=0.3, shard_tokens=90, camera_shift=True)
    for count in (1, 2):
        prepare(f"out{count}", options, Run(count, 0.5))
    assert snapshot("out1") == snapshot("out2")


def test_a_video_that_ends_or_stops_its_process_costs_that_video_alone(monkeypatch):
    monkeypatch.setattr(VideoJob, "patience", 2)
    write_clips([4] * 4)
    for name, value in (("1b", ENDS), ("2b", HANGS)):
        write_clip(f"clips/{name}.mp4", np.full((4, SIZE, SIZE, 3), value, np.uint8))
    manifest = prepare(run=Run(2, 0.5), codec=DANGEROUS)
    assert [clip["file"] for clip in manifest["bad"]] == ["clips/1b.mp4", "clips/2b.mp4"]
    assert "clips/1b.mp4 ends the process that reads it" in manifest["bad"][0]["reason"]
    assert read_back() == [tokens_of(f"clips/{n}.mp4") for n in range(4)]


def test_parts_in_one_folder_keep_all_the_videos_that_they_leave_out(monkeypatch):
    monkeypatch.setattr(VideoJob, "patience", 1)
    write_clips([1, 1])
    clips = new_clips(find_videos(["clips"]).videos)
    one, two = (VideoJob(Path("work"), MEANS, Options(), {}, run) for run in ("1-2", "2-2"))
    folders, meanwhile = [], [lambda: two.exclude(clips[1:])]

    def die(job, *_):
        folders.append(job.folder)
        raise WorkerDied([])

    def write_after_the_other_part(path, value):
        if meanwhile:
            meanwhile.pop()()
        write_json(path, value)

    monkeypatch.setattr(corpus, "prepare_in_processes", die)
    monkeypatch.setattr(corpus, "write_json", write_after_the_other_part)
    assert one.exclude(clips[:1])
    assert {*one.excluded()} == {*two.excluded()} == {"clips/0.mp4", "clips/1.mp4"}
    assert len({*folders}) == 2  # where they read a video alone


def test_one_worker_outlives_videos_that_end_its_process_in_one_work_item(monkeypatch):
    monkeypatch.setattr(VideoJob, "patience", 60)
    monkeypatch.setattr(corpus, "ITEM_BYTES", 1 << 20)
    write_clips([4])
    for name in ("a", "b"):
        write_clip(f"clips/{name}.mp4", np.full((4, SIZE, SIZE, 3), ENDS, np.uint8))
    manifest = prepare(run=Run(1, 0.7), codec=DANGEROUS)
    assert [clip["file"] for clip in manifest["bad"]] == ["clips/a.mp4", "clips/b.mp4"]
    assert read_back() == [tokens_of("clips/0.mp4")]


def test_a_run_that_fails_does_not_wait_for_a_worker_that_hangs(monkeypatch):
    monkeypatch.setattr(VideoJob, "patience", 1000)
    monkeypatch.setattr(workers, "GRACE", 0.2)
    monkeypatch.setattr(corpus, "ITEM_BYTES", 1)
    for name, value in (("a", HANGS), ("b", FAILS)):
        write_clip(f"clips/{name}.mp4", np.full((4, SIZE, SIZE, 3), value, np.uint8))
    with pytest.raises(RuntimeError, match="no luck"):
        prepare(run=Run(2, 0.5), codec=DANGEROUS)
    assert not active_children()


@pytest.mark.parametrize("outs", [["out"] * 3, ["a", "b", "c"]], ids=["one folder", "three"])
def test_parts_that_are_merged_are_the_corpus_of_one_run(outs):
    write_clips()
    write_bad()
    options, run = Options(validation=0.3, shard_tokens=90, camera_shift=True), Run(1, 0.5)
    whole = prepare("whole", options, run)
    merge = replace(run, merge=[Path(out) for out in outs if out != "out"])
    for number, out in enumerate(outs, 1):
        assert "hash" not in prepare(out, options, replace(run, part=(number, 3)))
        assert not Path(out, "manifest.json").exists()
    merged = prepare("out", options, merge)
    assert merged == whole and snapshot("out") == snapshot("whole")
    assert prepare("out", options, replace(run, part=(1, 3))) == whole  # it is finished


def test_a_merge_of_too_few_parts_is_refused():
    write_clips()
    for part in (1, 3):
        prepare("out", run=replace(ONE, part=(part, 3)))
    message = r"\d of the \d work items are not prepared, the first for clips/\d.mp4; run every --p"
    with pytest.raises(ValueError, match=message):
        prepare("out", run=replace(ONE, merge=[]))
    prepare("out", run=replace(ONE, part=(2, 3)))
    assert len(prepare("out", run=replace(ONE, merge=[]))["hash"]) == 64


def test_parts_of_another_corpus_are_refused():
    write_clips()
    prepare("part", Options(seed=1), replace(ONE, part=(1, 1)))
    with pytest.raises(ValueError, match="part holds another corpus .seed is 1 there and 0 here"):
        prepare("out", Options(), replace(ONE, merge=[Path("part")]))
    with pytest.raises(ValueError, match="clips holds no part of a corpus; name folders that --pa"):
        prepare("out", Options(), replace(ONE, merge=[Path("clips")]))


def test_a_folder_with_a_corpus_of_text_is_refused():
    write_clips([3])
    Path("out").mkdir()
    text = {"plan": "", "options": {}, "totals": {}, "hash": "", "lines": 3, "malformed": {}}
    Path("out/manifest.json").write_text(json.dumps(text))
    with pytest.raises(ValueError, match="manifest.json is not the manifest of a corpus of video"):
        prepare()
