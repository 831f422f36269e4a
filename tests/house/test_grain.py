"""The size of functions and rooms: short functions, and programs that only parse, wire and show."""

import ast
from statistics import median

from helpers.source import FILES, ROOT


APPS_SHARE = 0.33
LONGEST, LONGEST_KERNEL, MEDIAN = 60, 120, 7  # lines


def functions():
    """(name, lines, whether it is a Triton kernel) of every function."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                kernel = any("triton.jit" in ast.unparse(d) for d in node.decorator_list)
                name = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                yield name, node.end_lineno - node.lineno + 1, kernel


def test_functions_fit_on_a_screen():
    found = [(name, lines) for name, lines, kernel in functions() if not kernel]
    assert not [f"{name}: {lines} lines" for name, lines in found if lines > LONGEST]
    assert median(lines for _, lines in found) <= MEDIAN


def test_kernels_have_at_most_120_lines():
    found = [(name, lines) for name, lines, kernel in functions() if kernel]
    assert found
    assert not [f"{name}: {lines} lines" for name, lines in found if lines > LONGEST_KERNEL]


def test_apps_are_at_most_a_third_of_the_source():
    lines = {path: path.read_text().count("\n") for path in FILES}
    apps = sum(n for path, n in lines.items() if path.relative_to(ROOT).parts[0] == "apps")
    assert apps <= APPS_SHARE * sum(lines.values())
