"""Speed and memory: clocks, interleaved timings, ceilings of a device, peak memory."""

import gc
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tttvideo.progress import Advance

from .torch_private import gpu_sleep


FORWARD, BACKWARD, BOTH = "forward", "backward", "forward + backward"
LEAST = 3  # runs, however long they take
FLUSH = 256 << 20  # bytes, more than the L2 cache of any GPU
AHEAD = 2_000_000  # cycles, about a millisecond in which the host queues launches


class Run(NamedTuple):
    """A call that returns y, and the inputs whose gradients are taken, by name."""

    call: Callable[[], Tensor]
    leaves: dict[str, Tensor]


class Clock:
    """Seconds of one run: CPU time on one thread, wall time on several, GPU time on a GPU."""

    def __init__(self, device: str):
        self.cuda = device == "cuda"
        if self.cuda:
            self.flushed = torch.empty(FLUSH, dtype=torch.int8, device=device)
        self.now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    @property
    def name(self) -> str:
        if self.cuda:
            return "CUDA events, L2 flushed"
        return "CPU time" if self.now is time.process_time else "wall time"

    def __call__(self, run: Callable[[], Any]) -> float:
        if not self.cuda:
            start = self.now()
            run()
            return self.now() - start
        self.flushed.zero_()
        gpu_sleep(AHEAD)  # otherwise a short run is timed as its launches from the host
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        run()
        after.record()
        torch.cuda.synchronize()
        return before.elapsed_time(after) / 1000


def interleave(
    clock: Clock,
    runs: dict[str, Callable[[], Any]],
    repeats: int,
    seconds: float,
    advance: Advance,
) -> dict[str, list[float]]:
    """Seconds of each run in turn, `repeats` times; fewer, at least 3, after `seconds`.

    Every run has been called once before.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for done in range(repeats):
            if done >= LEAST and time.perf_counter() - start > seconds:
                advance((repeats - done) * len(runs))
                break
            for name, run in runs.items():
                times[name].append(clock(run))
                advance(1)
    finally:
        gc.enable()
    return times


def timed(run: Run, direction: str) -> Callable[[], Any]:
    """The call to time: `forward` without a graph, `backward` through a graph made before."""

    def forward() -> None:
        with torch.no_grad():
            run.call()

    if direction not in (BACKWARD, BOTH):
        return forward
    leaves, y = list(run.leaves.values()), run.call()
    dy = torch.randn_like(y)
    if direction == BACKWARD:
        return partial(torch.autograd.grad, y, leaves, dy, retain_graph=True)
    return lambda: torch.autograd.grad(run.call(), leaves, dy)


def ceilings(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Bytes per second of a copy and operations per second of a matmul on the device."""
    cuda = device == "cuda"
    clock = Clock(device)
    x = torch.ones((1 << 30 if cuda else 1 << 26) // 4, device=device)
    y = torch.empty_like(x)
    size = 8192 if cuda else 1024
    a, b = torch.randn(2, size, size, device=device).to(dtype).unbind()
    runs = {"copy": lambda: y.copy_(x), "matmul": lambda: a @ b}
    for run in runs.values():
        run()
    times = interleave(clock, runs, 10, 5.0, lambda _: None)
    copied, multiplied = (min(times[name]) for name in runs)
    return {"bytes_per_second": 2 * x.nbytes / copied, "flop_per_second": 2 * size**3 / multiplied}


def peak_bytes(run: Callable[[], Any], device: str) -> int:
    """The peak of the bytes that tensors hold during a run, above those held before it."""
    run()
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # no message about a missing GPU
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    changes.sort(key=lambda event: event["ts"])
    return max(accumulate(event["args"]["Bytes"] for event in changes))


def peak_memory(device: str) -> int:
    """The peak of the bytes that the process, or on a GPU its tensors, held."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes(device: str) -> int:
    """The bytes that the process, or on a GPU its tensors, hold now; their peak without /proc."""
    statm = Path("/proc/self/statm")
    if device == "cuda":
        return torch.cuda.memory_allocated()
    if not statm.exists():
        return peak_memory(device)
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
