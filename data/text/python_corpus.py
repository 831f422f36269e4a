"""The built-in corpus: the library sources of the Python that runs, so nothing is downloaded.

They differ between versions of Python: compare results only where the manifest's hash is the same.
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
"""Documents to measure on: long (32 KiB or more in Python 3.11 to 3.13), and of many topics."""

# tests, other people's packages, tables, and what stands there a second time
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
LEFT_OUT |= {"lib2to3", "encodings", "pydoc_data", "_pydecimal.py"}
OF_THE_MACHINE = ("config-", "_sysconfigdata", "sitecustomize")  # written when Python was built


def stdlib_files() -> tuple[list[Path], list[Path]]:
    """Files to learn from and files to measure on, sorted; ValueError when there are none."""
    root = Path(sysconfig.get_path("stdlib"))
    held_out = {root / name for name in HELD_OUT}
    files = sorted(path for path in root.rglob("*.py") if kept(path.relative_to(root)))
    train = [path for path in files if path not in held_out]
    validation = [path for path in files if path in held_out]
    if not train or not validation:
        raise ValueError(f"this Python has no library sources in {root}; name files instead")
    return train, validation


def kept(path: Path) -> bool:
    """Whether a path inside the library is part of the corpus."""
    return not any(part in LEFT_OUT or part.startswith(OF_THE_MACHINE) for part in path.parts)
