"""Laws of a copy of the repository whose links became plain files, as in many zip archives."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
LINKS = ("apps", "configs", "data", "kernels")


@pytest.fixture
def without_links(tmp_path):
    """The package and `run`, each link replaced by a file that holds its target."""
    (tmp_path / "tttvideo").mkdir()
    for name in ("tttvideo/__init__.py", "tttvideo/files.py", "run"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in LINKS:
        (tmp_path / "tttvideo" / name).write_text(f"../{name}")
    return tmp_path


def error_of(command, folder):
    """The last line on standard error of a command that fails."""
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    assert done.returncode
    return done.stderr.splitlines()[-1], done.stderr


@pytest.mark.parametrize("name", ["tttvideo", "tttvideo.files", "tttvideo.kernels"])
def test_an_import_names_the_plain_files_and_the_remedy(without_links, name):
    last, _ = error_of([sys.executable, "-c", f"import {name}"], without_links)
    assert last.startswith("ImportError: apps, configs, data, kernels in ")
    assert "must be links" in last and "core.symlinks=true" in last


def test_run_refuses_in_one_line_before_it_installs_anything(without_links):
    last, text = error_of([sys.executable, without_links / "run", "demo"], without_links)
    assert "must be links" in last and text.count("\n") == 1
    assert not (without_links / ".venv").exists()


def test_the_package_with_its_links_is_imported_without_torch():
    code = "import sys, tttvideo; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], env={"PYTHONPATH": str(ROOT)}, check=True)
