"""The cores of the machine; imports nothing heavy, because the options of commands need it."""

import os


def cores() -> int:
    """Cores that this process may use: of a job on a shared machine, its own."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
