"""`tttvideo prepare text | video | pan | drawn | maze | recall`."""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path

from tttvideo.files import lock_beside, locked


LOCK = ".prepare.lock"

Run = Callable[[argparse.Namespace], None]


def alone(run: Run) -> Run:
    """`run`, refused where another run writes to the same --out.

    The parts of a corpus are several runs, and each of them is one.
    """

    @wraps(run)
    def run_alone(options: argparse.Namespace) -> None:
        out, part = Path(options.out), getattr(options, "part", None)
        file = out.suffix == ".jsonl" and not out.is_dir()
        lock = lock_beside(out) if file else out / LOCK
        with ExitStack() as locks:
            locks.enter_context(locked(lock, shared=part is not None))
            if part:
                locks.enter_context(locked(out / "{}.{}-{}".format(LOCK, *part)))
            run(options)

    return run_alone
