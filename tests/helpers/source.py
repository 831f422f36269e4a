"""The source files of the project."""

from pathlib import Path


ROOT = Path(__file__).parents[2]
FILES = sorted(
    path
    for room in ("apps", "data", "kernels", "tttvideo")
    for path in (ROOT / room).rglob("*.py")
    if not any(parent.is_symlink() for parent in path.parents if parent != ROOT)
)
