"""The built-in corpus: the library sources of the running Python; nothing is downloaded.

They differ between versions of Python: compare results only if the manifests have the same hash.
"""

import sysconfig
from pathlib import Path


HELD_OUT = (
    "argparse.py",
    "asyncio/base_events.py",
    "configparser.py",
    "dataclasses.py",
    "difflib.py",
    "email/_header_value_parser.py",
    "http/cookiejar.py",
    "idlelib/editor.py",
    "imaplib.py",
    "inspect.py",
    "ipaddress.py",
    "logging/handlers.py",
    "mailbox.py",
    "multiprocessing/managers.py",
    "pickle.py",
    "shutil.py",
    "ssl.py",
    "statistics.py",
    "subprocess.py",
    "tarfile.py",
    "tkinter/ttk.py",
    "unittest/mock.py",
    "urllib/request.py",
    "xml/dom/minidom.py",
)
"""The validation documents: long (32 KiB or more in Python 3.11 to 3.13), and of many topics."""

# tests, installed packages, tables, and duplicates
EXCLUDED = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
EXCLUDED |= {"lib2to3", "encodings", "pydoc_data", "_pydecimal.py"}
BUILD_FILES = ("config-", "_sysconfigdata", "sitecustomize")  # they differ between machines


def stdlib_files() -> tuple[list[Path], list[Path]]:
    """The training files and the validation files, sorted. Raises ValueError if there are none."""
    root = Path(sysconfig.get_path("stdlib"))
    held_out = {root / name for name in HELD_OUT}
    files = sorted(path for path in root.rglob("*.py") if is_included(path.relative_to(root)))
    train = [path for path in files if path not in held_out]
    validation = [path for path in files if path in held_out]
    if not train or not validation:
        raise ValueError(f"this Python has no library sources in {root}; name files instead")
    return train, validation


def is_included(path: Path) -> bool:
    """Whether a file of the library is part of the corpus."""
    return not any(part in EXCLUDED or part.startswith(BUILD_FILES) for part in path.parts)
