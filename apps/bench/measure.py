"""How it is measured: clocks, peak memory, ceilings of the device, and errors against the truth."""

import gc
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from .cases import BACKWARD, BOTH, DTYPES
from .peers import Run


LEAST = 3  # runs, however long they take
LIMITS = {"float32": (1e-5, 1e-5), "float16": (5e-3, 1e-2), "bfloat16": (5e-3, 1e-2)}
"""Relative RMS error of y and of a gradient that a kernel of ours may have."""
LOOSE = {"float32": (1e-3, 1e-3), "float16": (5e-2, 5e-2), "bfloat16": (5e-2, 5e-2)}
"""The same for others' kernels: is it the function that we think it is?"""
FLUSH = 256 << 20  # bytes, more than any GPU's L2 cache
AHEAD = 2_000_000  # cycles, about a millisecond in which the host queues launches
BY_TOKEN = ("y", "dq", "dk", "dv", "deta")


class Clock:
    """Seconds of one run: of CPU time on one thread, of wall time on more, of the GPU on a GPU."""

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

    def __call__(self, run: Callable) -> float:
        if not self.cuda:
            start = self.now()
            run()
            return self.now() - start
        self.flushed.zero_()
        torch.cuda._sleep(AHEAD)  # else a short run is timed as its launches from the host
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000


def interleave(
    clock: Clock,
    runs: dict[str, Callable],
    repeats: int,
    seconds: float,
    advance: Callable[[int], None],
) -> dict[str, list[float]]:
    """Times of each run in turn, round by round; fewer rounds, 3 at the least, after `seconds`.

    All have run once before.
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


def timed(run: Run, direction: str) -> Callable:
    """The call that is timed: `forward` without a graph, `backward` through one made before."""

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


def results(run: Run) -> dict[str, Tensor]:
    """y, and unless gradients are switched off those of a fixed sum of its elements."""
    y = run.call()
    if not torch.is_grad_enabled():
        return {"y": y}
    leaves = run.leaves
    generator = torch.Generator(y.device).manual_seed(1)
    dy = torch.randn(y.shape, generator=generator, device=y.device)
    grads = torch.autograd.grad(y, list(leaves.values()), dy.to(y.dtype))
    return {"y": y.detach(), **{f"d{n}": g for n, g in zip(leaves, grads, strict=True)}}


def errors(run: Run, truth: dict[str, Tensor]) -> dict[str, float]:
    """RMS of the difference over RMS of the truth, by result; NaN counts as infinite."""
    found = {}
    for name, x in results(run).items():
        error = (x.double() - truth[name]).norm() / truth[name].norm()
        found[name] = error.nan_to_num(torch.inf).item()
    return found


def verdict(
    found: dict[str, float], limits: tuple[float, float], rounded: dict[str, float] | None = None
) -> str:
    """What is wrong, in words, or nothing.

    rounded: errors of PyTorch's own form, to be exceeded by half at most; by three times where
    a few elements are sums over all tokens, and so their ratio is little but chance.
    """
    wrong = []
    for name, error in found.items():
        limit = limits[name != "y"]
        if rounded is not None:
            limit = min(limit, (1.5 if name in BY_TOKEN else 3) * rounded[name])
        if not error <= limit:
            wrong.append(f"{name} is off by {error:.1e}, more than {limit:.1e}")
    return "; ".join(wrong)


def ceilings(device: str, dtype: str) -> dict[str, float]:
    """What the device reaches: bytes per second of a copy, operations per second of a matmul."""
    cuda = device == "cuda"
    clock = Clock(device)
    x = torch.ones((1 << 30 if cuda else 1 << 26) // 4, device=device)
    y = torch.empty_like(x)
    size = 8192 if cuda else 1024
    a, b = torch.randn(2, size, size, device=device).to(DTYPES[dtype]).unbind()
    runs = {"copy": lambda: y.copy_(x), "matmul": lambda: a @ b}
    for run in runs.values():
        run()
    times = interleave(clock, runs, 10, 5.0, lambda _: None)
    copied, multiplied = (min(times[name]) for name in runs)
    return {"bytes_per_second": 2 * x.nbytes / copied, "flop_per_second": 2 * size**3 / multiplied}


def peak_bytes(run: Callable, device: str) -> int:
    """The most memory that tensors hold at once during a run, above what they held before."""
    run()
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would speak of the GPU that is not there
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
