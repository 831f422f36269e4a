"""Several processes that train together over gloo, forked from one that has not trained."""

import os
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import torch


def in_processes(world: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work(rank)` returns in each of `world` processes."""
    context = get_context("fork")
    queue = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:

        def run(rank: int) -> None:
            store = f"file://{os.path.join(folder, 'store')}"
            torch.distributed.init_process_group("gloo", store, rank=rank, world_size=world)
            queue.put((rank, work(rank)))
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()

        started = [context.Process(target=run, args=(rank,)) for rank in range(world)]
        for process in started:
            process.start()
        found = dict(queue.get() for _ in started)
        for process in started:
            process.join()
    return [found[rank] for rank in range(world)]
