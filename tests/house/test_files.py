"""Laws of files that take their names only when they are whole."""

import os

import pytest

from tttvideo.files import replacing, write_text


def test_a_file_takes_the_place_of_the_old_one_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.json"
    for text in ("first", "second"):
        with replacing(path) as partial:
            assert partial.parent == path.parent and partial.suffix != path.suffix
            partial.write_text(text)
            assert path.exists() == (text == "second") and partial != path
        assert path.read_text() == text
        assert os.listdir(path.parent) == ["a.json"]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("begun", [True, False])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, begun, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as partial:
        if begun:
            partial.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_text_is_written_as_utf_8_and_replaces_what_was_longer(tmp_path):
    write_text(tmp_path / "a.txt", "a long line\n" * 3)
    write_text(tmp_path / "a.txt", "où\n")
    assert (tmp_path / "a.txt").read_bytes() == b"o\xc3\xb9\n"
