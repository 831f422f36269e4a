"""The laws of the house: imports point down, and only by the right names."""

import ast
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
FLOORS = {
    "apps": 5,
    "tttvideo/training.py": 4,
    "tttvideo/sampling.py": 4,
    "tttvideo/checkpoints.py": 3.5,  # training reads the frame tokenizer's checkpoint
    "tttvideo/hf.py": 4,
    "tttvideo/flax_weights.py": 1,  # msgpack in, tensors out
    "tttvideo/recall_scores.py": 4,
    "tttvideo/scaling.py": 3.5,
    "tttvideo/averages.py": 3.6,  # shares the table of Student's t with scaling
    "tttvideo/flops.py": 3.5,
    "tttvideo/evaluation.py": 4,
    "tttvideo/inner_losses.py": 4,
    "tttvideo/backbone.py": 3,
    "tttvideo/frame_tokenizer.py": 3,
    "tttvideo/ttt.py": 2,
    "tttvideo/attention.py": 2,
    "tttvideo/mamba.py": 2,
    "tttvideo/linear_attention.py": 2,
    "tttvideo/states.py": 1.5,  # knows the kernels' State
    "tttvideo/layers.py": 1,
    "kernels": 1,
    "data": 1,
    "tttvideo/files.py": 0,  # the standard library only
}
FILES = sorted(
    [path for room in ("apps", "data", "kernels") for path in (ROOT / room).rglob("*.py")]
    + list((ROOT / "tttvideo").glob("*.py"))
)


def room(path):
    """The room of a file: its folder, or itself in tttvideo/."""
    relative = path.relative_to(ROOT)
    return relative.as_posix() if relative.parts[0] == "tttvideo" else relative.parts[0]


def package_of(path):
    """The names of the package that a file is in: tttvideo, apps, evaluate."""
    folders = path.relative_to(ROOT).parent.parts
    return [*folders] if folders[0] == "tttvideo" else ["tttvideo", *folders]


def imported(path):
    """Absolute module names that a file imports, wherever in it."""
    package = package_of(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            bare = module == ["tttvideo"]  # from tttvideo import apps
            yield from ((f"tttvideo.{a.name}" for a in node.names) if bare else [".".join(module)])


def rooms_imported(path):
    for name in imported(path):
        first, *rest = name.split(".")
        if first == "tttvideo" and rest:
            inside = rest[0] in ("apps", "data", "kernels")
            yield rest[0] if inside else f"tttvideo/{rest[0]}.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path):
    here = room(path)
    if here == "tttvideo/__init__.py":
        assert not list(imported(path))
        return
    for other in rooms_imported(path):
        assert other == here or FLOORS[other] < FLOORS[here], f"{here} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_rooms_are_imported_by_their_right_names(path):
    for name in imported(path):
        assert name.split(".")[0] not in ("kernels", "data", "apps", "configs")


def test_kernels_know_tensors_only_and_only_apps_know_kernels_and_data():
    for path in FILES:
        outside = {name.split(".")[0] for name in imported(path)}
        if room(path) == "kernels":
            assert outside <= {"torch", "triton", "tttvideo", *sys.stdlib_module_names}, path
        if room(path) not in ("apps", "data"):
            assert "data" not in set(rooms_imported(path)), path


def test_across_folders_absolute_and_within_a_folder_relative_imports():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                package = package_of(path)
                assert node.level <= max(1, len(package) - 1), path  # not out of its folder
                own = ".".join(package[:2])
                assert node.module != own or node.level, path
                if own != "tttvideo":
                    assert not (node.module or "").startswith(own + "."), path


def test_rooms_inside_the_package_are_links_to_the_top_level_folders():
    for name in ("apps", "configs", "data", "kernels"):
        link = ROOT / "tttvideo" / name
        assert link.is_symlink() and link.readlink() == Path("..") / name
