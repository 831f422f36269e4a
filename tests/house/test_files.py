"""Laws of files: written beside the old one, synchronised, then renamed; folders of one writer."""

import errno
import json
import os
import subprocess
import sys

import pytest

from tttvideo.files import locked, read_json, replacing, write_json, write_text


def test_a_file_replaces_the_old_one_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.json"
    for text in ("first", "second"):
        with replacing(path) as partial:
            assert partial.parent == path.parent and partial.suffix != path.suffix
            partial.write_text(text)
            assert path.exists() == (text == "second") and partial != path
        assert path.read_text() == text
        assert os.listdir(path.parent) == ["a.json"]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("started", [True, False])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, started, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as partial:
        if started:
            partial.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_file_is_synchronised_before_the_rename_and_its_folder_after(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: (events.append(os.fstat(file).st_ino), fsync(file))
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), replace(*paths)))
    write_text(tmp_path / "a.txt", "one")
    inodes = [(tmp_path / name).stat().st_ino for name in ("a.txt", ".")]
    assert events == [inodes[0], "rename", inodes[1]]


def test_two_who_write_a_file_at_once_never_share_a_name(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second")
            assert first.read_text() == "first"
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_nothing_is_written_through_a_symbolic_link(tmp_path):
    other = tmp_path / "other"
    other.write_text("of somebody else")
    (tmp_path / "a.txt.partial").symlink_to(other)
    (tmp_path / "a.txt.1.partial").symlink_to(tmp_path / "nowhere")
    write_text(tmp_path / "a.txt", "mine")
    assert (tmp_path / "a.txt").read_text() == "mine" and not (tmp_path / "a.txt").is_symlink()
    assert other.read_text() == "of somebody else" and not (tmp_path / "nowhere").exists()


WRITES = """
import sys, time
from pathlib import Path
from tttvideo.files import replacing
with replacing(Path("a.txt")) as partial:
    partial.write_text("half")
    print(flush=True)
    time.sleep(60)
"""
LOCKS = """
import sys, time
from pathlib import Path
from tttvideo.files import locked
with locked(Path("lock"), shared=len(sys.argv) > 1):
    print(flush=True)
    time.sleep(60)
"""


@pytest.fixture
def started(tmp_path):
    """Starts a program in a folder; returns its process when it has printed a line."""
    running = []

    def start(code, *arguments):
        command = [sys.executable, "-Pc", code, *arguments]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path))
        assert running[-1].stdout.readline() == b"\n"
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path, started):
    living = started(WRITES)
    write_text(tmp_path / "a.txt", "whole")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "a.txt.partial"]
    living.kill()
    living.wait()
    write_text(tmp_path / "a.txt", "again")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_second_writer_of_a_folder_is_refused_with_the_process_of_the_first(tmp_path, started):
    first = started(LOCKS)
    with pytest.raises(ValueError, match=rf"run \(process {first.pid} on .*working in .*; wait"):
        locked(tmp_path / "lock").__enter__()
    first.kill()
    first.wait()
    with locked(tmp_path / "lock"):  # its owner is dead
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")
    assert not os.listdir(tmp_path)


def test_those_who_share_a_folder_keep_others_out_until_the_last_has_ended(tmp_path, started):
    started(LOCKS, "shared")
    with locked(tmp_path / "lock", shared=True), pytest.raises(ValueError, match="is working in"):
        locked(tmp_path / "lock").__enter__()
    with pytest.raises(ValueError, match="is working in"):
        locked(tmp_path / "lock").__enter__()


def test_a_lock_leaves_no_folder_that_it_made(tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("old", "new", "full"):
        with pytest.raises(KeyError), locked(tmp_path / name / "lock"):
            if name == "full":
                write_text(tmp_path / name / "a.txt", "")
            raise KeyError
    assert sorted(os.listdir(tmp_path)) == ["full", "old"]
    assert os.listdir(tmp_path / "full") == ["a.txt"] and not os.listdir(tmp_path / "old")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG], ids=os.strerror)
def test_a_full_disk_is_one_line_with_the_file_and_leaves_the_old_one(tmp_path, number):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with (
        pytest.raises(OSError, match=r"a\.txt cannot be written: .*make room") as raised,
        replacing(path) as partial,
    ):
        partial.write_text("half")
        raise OSError(number, os.strerror(number))
    assert os.strerror(number) in str(raised.value) and "\n" not in str(raised.value)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_text_is_written_as_utf_8_and_replaces_longer_text(tmp_path):
    write_text(tmp_path / "a.txt", "a long line\n" * 3)
    write_text(tmp_path / "a.txt", "où\n")
    assert (tmp_path / "a.txt").read_bytes() == b"o\xc3\xb9\n"


@pytest.mark.parametrize("indent", [None, 1, 2])
def test_json_is_read_as_it_was_written(tmp_path, indent):
    value = {"où": [1, 2.5, None, True], "parts": {"a": [], "b": "c"}}
    write_json(tmp_path / "a.json", value, indent)
    assert (tmp_path / "a.json").read_text() == json.dumps(value, indent=indent) + "\n"
    assert read_json(tmp_path / "a.json", "") == value


@pytest.mark.parametrize(
    "content", [b"", b"{", bytes(9), b"\xff", b"[" * 9999, b"[1]", b"null"], ids=repr
)
def test_damaged_json_is_refused_in_one_line_with_a_remedy(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is damaged \(.*\); delete it") as raised:
        read_json(tmp_path / "a.json", "delete it")
    assert "\n" not in str(raised.value)


def test_a_value_without_a_form_in_json_is_converted_or_refused(tmp_path):
    write_json(tmp_path / "a.json", {"b": {1}}, default=list)
    assert read_json(tmp_path / "a.json", "") == {"b": [1]}
    with pytest.raises(TypeError):
        write_json(tmp_path / "b.json", {1})
    assert os.listdir(tmp_path) == ["a.json"]
