"""Rules of the repository: imports point down, without circles, by the right names."""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from helpers.source import FILES, ROOT


FLOORS = {
    "tttvideo/files.py": 0,  # the standard library only
    "tttvideo/typed.py": 0,
    "tttvideo/progress.py": 0,  # and rich
    "kernels": 1,
    "data": 1,
    "tttvideo/layers.py": 2,
    "tttvideo/states.py": 2,  # knows the kernels' State
    "tttvideo/mixers": 2,
    "tttvideo/backbone.py": 3,
    "tttvideo/padding.py": 3,
    "tttvideo/reading.py": 3,
    "tttvideo/video": 3,
    "tttvideo/weights": 3,
    "tttvideo/sampling": 4,
    "tttvideo/training": 4,
    "tttvideo/measures": 4,
    "tttvideo/hf.py": 4,
    "apps": 5,
}
"""Rooms by floor, from the bottom up; an import never points up."""
SEES_DATA = ("apps", "data", "tttvideo/measures")


def room(path):
    """The room of a file: a top-level folder, or what stands in tttvideo/."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if parts[0] == "tttvideo" else parts[0]


def package_of(path):
    """The names of the package that a file is in: tttvideo, apps, evaluate."""
    folders = path.relative_to(ROOT).parent.parts
    return [*folders] if folders[0] == "tttvideo" else ["tttvideo", *folders]


def name_of(path):
    """The module's absolute name."""
    last = [] if path.stem == "__init__" else [path.stem]
    return ".".join([*package_of(path), *last])


MODULES = {name_of(path): path for path in FILES}


def imported(path, anywhere=True):
    """Absolute names that a file imports, a module's where a module is named."""
    package, tree = package_of(path), ast.parse(path.read_text())
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{module}.{alias.name}" for alias in node.names}
            modules = names & set(MODULES)
            yield from modules
            if names - modules:
                yield module


def rooms_imported(path):
    for name in imported(path):
        if name in MODULES and name != "tttvideo":
            yield room(MODULES[name])


def check_acyclic(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports form a circle: {' -> '.join(error.args[1])}")


def test_no_file_imports_itself_through_others():
    graph = {n: {i for i in imported(path) if i in MODULES} for n, path in MODULES.items()}
    packages = {name for name, path in MODULES.items() if path.stem == "__init__"}
    for name, others in graph.items():  # a package's public face stands above its files
        graph[name] = {o for o in others if not (o in packages and name.startswith(f"{o}."))}
    check_acyclic(graph)


def test_no_room_imports_itself_through_others():
    graph = {}
    for path in FILES:
        graph.setdefault(room(path), set()).update(set(rooms_imported(path)) - {room(path)})
    graph.pop("tttvideo/__init__.py")
    check_acyclic(graph)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path):
    here = room(path)
    if here == "tttvideo/__init__.py":
        assert {*imported(path)} <= {"pathlib"}  # light
        return
    for other in rooms_imported(path):
        assert other == here or FLOORS[other] <= FLOORS[here], f"{here} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_rooms_are_imported_by_their_right_names(path):
    for name in imported(path):
        assert name.split(".")[0] not in ("kernels", "data", "apps", "configs")


def test_kernels_know_tensors_only_and_only_apps_and_measures_know_data():
    for path in FILES:
        outside = {name.split(".")[0] for name in imported(path)}
        if room(path) == "kernels":
            assert outside <= {"torch", "triton", "tttvideo", *sys.stdlib_module_names}, path
        if room(path) not in SEES_DATA:
            assert "data" not in set(rooms_imported(path)), path


def test_across_folders_absolute_and_within_a_folder_relative_imports():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                own = ".".join(package_of(path))
                assert node.level <= 1, path  # not out of its folder
                assert not node.level or "." not in (node.module or ""), path
                names = [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
                inside = [n for n in names if MODULES.get(n) and MODULES[n].parent == path.parent]
                assert node.level or not inside or own == "tttvideo", (path, inside)


def test_rooms_inside_the_package_are_links_to_the_top_level_folders():
    for name in ("apps", "configs", "data", "kernels"):
        link = ROOT / "tttvideo" / name
        assert link.is_symlink() and link.readlink() == Path("..") / name
