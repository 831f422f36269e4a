"""`tttvideo` in a process of its own, with its CPU time and the heavy packages it imported."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


CODE = """
import sys
from tttvideo.apps.cli import main
try:
    main(sys.argv[1:])
finally:
    heavy = sorted({"torch", "lightning", "transformers"} & sys.modules.keys())
    print(*heavy, sep=",", file=open("heavy", "w"))
"""


@dataclass(frozen=True)
class Finished:
    code: int
    output: str
    errors: str
    seconds: float  # of CPU time, user and system
    heavy: str  # names of heavy packages that were imported


def run_command(folder: Path, *arguments: str) -> Finished:
    """Run a command in a folder, in which files with its output remain."""
    with open(folder / "output", "w") as output, open(folder / "errors", "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-Pc", CODE, *arguments], cwd=folder, stdout=output, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    texts = [(folder / name).read_text() for name in ("output", "errors", "heavy")]
    seconds = usage.ru_utime + usage.ru_stime
    return Finished(process.returncode, texts[0], texts[1], seconds, texts[2].strip())


def fastest(folder: Path, *arguments: str, limit: float) -> Finished:
    """The run of a command with the least CPU time, of at most 4; a busy machine slows some."""
    runs = []
    for _ in range(4):
        runs.append(run_command(folder, *arguments))
        if runs[-1].seconds < limit:
            break
    return min(runs, key=lambda run: run.seconds)


HELPERS = Path(__file__).parents[1]


def run_code(code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a folder, with the helpers of the tests and one thread."""
    paths = os.pathsep.join([str(HELPERS), *sys.path])
    return subprocess.run(
        [sys.executable, "-Pc", code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
