"""Laws of folders to prepare: one run at a time; the next resumes where one was killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tttvideo.apps.cli import main
from tttvideo.apps.prepare import LOCK
from tttvideo.data.tokens import file_hash
from tttvideo.files import locked


DRAWN = "prepare drawn flash --videos 2 --held-out 0 --frames 4"
PREPARE = {
    "text": "prepare text a.txt --workers 1 --out out",
    "video": "prepare video drawn/train --frame-tokenizer drawn/palette.ckpt --workers 1 --out out",
    "pan": "prepare pan --worlds 2 --frames 3 --out out",
    "drawn": f"{DRAWN} --out out",
    "maze": "prepare maze --videos 1 --frames 2 --out out",
    "recall": "prepare recall --size 999 --out out.jsonl",
    "index": "index drawn --workers 1 --out out.jsonl",
}

SLEEPS = """
import sys, time
from tttvideo.apps.cli import main
from tttvideo.data.text import corpus
corpus.publish = lambda *_: time.sleep(60)
main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("It was the best of times.\n" * 20)
    main([*DRAWN.split(), "--out", "drawn"])


def message_of(line):
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    return str(stopped.value)


def lock_of(line):
    return Path(".out.jsonl.lock") if line.endswith("jsonl") else Path("out", LOCK)


@pytest.mark.parametrize("name", PREPARE)
def test_a_second_run_with_the_same_out_is_refused_in_one_line_and_writes_nothing(name):
    line = PREPARE[name]
    if name == "maze":
        pytest.importorskip("vizdoom")
    with locked(lock_of(line)):
        before = sorted(Path().rglob("*"))
        message = message_of(line)
        assert f"another run (process {os.getpid()} on " in message and "\n" not in message
        assert "wait for its end, or end it first" in message
        assert sorted(Path().rglob("*")) == before
    main(line.split())
    assert not lock_of(line).exists()


def test_parts_of_a_corpus_are_prepared_side_by_side_and_each_by_one_run():
    line = PREPARE["text"]
    with locked(Path("out", LOCK), shared=True), locked(Path("out", f"{LOCK}.1-2")):
        main([*line.split(), "--part", "2/2"])
        assert "another run" in message_of(f"{line} --part 1/2")
        assert "another run" in message_of(f"{line} --merge")
    main([*line.split(), "--part", "1/2"])
    main([*line.split(), "--merge"])
    assert sorted(os.listdir("out")) == ["manifest.json", "train"]


def test_a_run_beside_a_living_one_is_refused_and_resumes_to_the_same_bits_when_that_is_killed():
    Path("texts").mkdir()
    for number in range(40):
        Path("texts", f"{number}.txt").write_text(f"{number} " * 9999)
    line = "prepare text texts --workers 1 --out"
    main([*line.split(), "whole"])
    first = subprocess.Popen([sys.executable, "-Pc", SLEEPS, *line.split(), "out"])
    try:
        until = time.monotonic() + 60
        while not list(Path("out/working").glob("0*.json")) and time.monotonic() < until:
            time.sleep(0.05)
        assert f"another run (process {first.pid} on " in message_of(f"{line} out")
    finally:
        first.kill()
        first.wait()
    main([*line.split(), "out"])
    manifests = [json.loads(Path(out, "manifest.json").read_text()) for out in ("whole", "out")]
    assert manifests[0] == manifests[1]
    for shard in manifests[1]["shards"]:
        assert file_hash(Path("out", shard["file"])) == shard["sha256"]
