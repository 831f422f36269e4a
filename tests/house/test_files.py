"""Laws of files: written beside the old one, synchronised, then renamed."""

import json
import os

import pytest

from tttvideo.files import read_json, replacing, write_json, write_text


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


@pytest.mark.parametrize("content", [b"", b"{", bytes(9), b"\xff"], ids=repr)
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
