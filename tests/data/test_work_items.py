"""Laws of the board on which workers tell what they read."""

import subprocess
import sys
import time
from multiprocessing import get_context

from tttvideo.data.work_items import Board


def new_board(*rows):
    board = Board(get_context("spawn"), len(rows))
    board.memory[:] = [number for row in rows for number in row]
    return board


def test_a_source_may_take_longer_by_its_bytes():
    """At 20 MB a second, and 10 s of patience."""
    sleeping = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) for _ in range(2)]
    since = int(time.monotonic()) - 20
    sizes = 10**9, 10**6
    rows = [(p.pid, 0, 0, size, since, 0, 0) for p, size in zip(sleeping, sizes, strict=True)]
    new_board(*rows).end_hanging(10)
    assert sleeping[1].wait(10) and sleeping[0].poll() is None
    sleeping[0].kill()
    for process in sleeping:
        process.communicate()


def test_no_lock_that_a_dead_worker_may_hold_stands_before_what_the_parent_reads():
    board = new_board((1, 5, 2, 0, 0, 30, 3), (2, -1, 0, 0, 0, 10, 1))
    assert not hasattr(board.memory, "get_lock") and not hasattr(board.stop, "get_lock")
    assert board.being_read() == [(5, 2)] and board.counts() == (40, 4)
