"""Laws of checkpoint arguments: those of one name are seeds of one model, in the given order."""

import zipfile
from pathlib import Path

import pytest

from tttvideo.apps.commands.options import checkpoint_seeds


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Paths of files that look like checkpoints, in folders a and b."""
    monkeypatch.chdir(tmp_path)
    paths = ["a/last.ckpt", "a/first.ckpt", "b/last.ckpt"]
    for path in map(Path, paths):
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data", "")
    return paths


def test_checkpoints_of_one_name_are_seeds_of_one_model(files):
    assert checkpoint_seeds([f"m={path}" for path in files]) == {"m": files}


def test_a_checkpoint_without_a_name_has_that_of_its_folder(files):
    assert checkpoint_seeds([files[0], files[2]]) == {"a": ["a/last.ckpt"], "b": ["b/last.ckpt"]}


def test_a_path_with_an_equals_sign_is_no_name(files):
    path = Path("a=1.ckpt")
    path.write_bytes(Path(files[0]).read_bytes())
    assert checkpoint_seeds([f"m={files[0]}", "a=1.ckpt"])["m"] == [files[0]]
    assert ["a=1.ckpt"] in checkpoint_seeds(["a=1.ckpt"]).values()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a/last.ckpt", "a/first.ckpt"], "would both be named a"),
        (["m=a/last.ckpt", "n=./a/last.ckpt"], "is given twice, also as m=a/last.ckpt"),
        (["m=a/none.ckpt"], "there is no checkpoint a/none.ckpt"),
    ],
    ids=["one folder", "twice", "missing"],
)
def test_what_would_be_mistaken_for_seeds_is_refused(files, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        checkpoint_seeds(arguments)
