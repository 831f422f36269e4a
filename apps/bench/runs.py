"""The benchmarks of kernels, decoding, layers and memory; contenders are checked, then timed.

B batch, T tokens, H heads, D head dim, M mini-batch size, C width.
"""

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tttvideo.backbone import BackboneConfig, Block
from tttvideo.kernels import State
from tttvideo.measures.errors import LIMITS, LOOSE, errors, results, verdict
from tttvideo.measures.speed import BOTH, FORWARD, Clock, Run, interleave, peak_bytes, timed
from tttvideo.mixers.mamba import MambaConfig
from tttvideo.mixers.ttt import TTTConfig, TTTLayer

from . import peers
from .cases import Case, Inputs, draw_inputs
from .contenders import Contender, kernel_contenders, operator
from .records import Report, Row


@dataclass
class Bench:
    """The settings of all measurements, and the report to which they add.

    repeats, seconds: runs of each contender, and the time after which there are fewer.
    limit: seconds; a contender with a longer run is left out at longer contexts.
    """

    report: Report
    repeats: int
    seconds: float
    limit: float
    skip: tuple[str, ...]
    advance: Callable[[int], None]
    checked: dict[tuple, tuple[float, str]] = field(default_factory=dict)
    slow: set[tuple[str, str, str]] = field(default_factory=set)

    def __post_init__(self):
        self.clock = Clock(self.report.device)

    def usable(self, case: Case, contenders: Iterable[Contender], what: str) -> list[Contender]:
        """The contenders that can run this case; the report gets the reasons for the others."""
        usable = []
        for one in contenders:
            held = one.held(what)
            if one.name in self.skip:
                reason = "skipped by --skip"
            elif one.obstacle:
                reason = one.obstacle
            elif held * case.q_bytes > available_bytes(case.device):
                reason = f"{held:g} times the memory of q at {case.shape} is not available"
            elif (one.name, case.inner, what) in self.slow:
                reason = f"TTT-{case.inner} contexts beyond {self.limit:g} s a run (--limit)"
            else:
                usable.append(one)
                continue
            self.report.leave_out(f"{one.name}: {reason}")
        return usable

    def cell(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `work`, or None when it fails; the report then gets the reason."""
        try:
            if self.report.device == "cuda":
                torch.cuda.empty_cache()
            return work(*arguments)
        except torch.OutOfMemoryError:
            self.report.leave_out(f"{name} is out of memory")
        except Exception as problem:  # for example kernels of other projects on a new GPU
            self.report.broke(name, problem)

    def check(self, one: Contender, case: Case, what: str) -> tuple[float, str]:
        """The worst relative error on a small case of this kind, and why it fails, if it does."""
        small = case.small()
        key = (one.name, what == "decode", small)
        if key not in self.checked:
            self.checked[key] = check_gate(one, small)
        return self.checked[key]

    def time(self, runs: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
        """Seconds of each run, in turn."""
        return interleave(self.clock, runs, self.repeats, self.seconds, self.advance)

    def measure(self, case: Case, what: str, contenders: list[Contender]) -> dict[str, Row]:
        """Check and time all that can run, in turn; their rows by name, also in the report.

        "decode" reads a mini-batch of tokens, one at a time, after the tokens of the case.
        """
        decoding = what == "decode"
        rows, runs = {}, {}
        with torch.set_grad_enabled(not decoding):
            inputs = draw_inputs(replace(case, tokens=case.mini_batch) if decoding else case)
            for one in self.usable(case, contenders, what):
                name = f"{one.name}: {what} at {case.shape}"
                if ready := self.cell(name, self.ready, one, case, what, inputs):
                    runs[one.name], rows[one.name] = ready
            times = self.time(runs)
        self.advance((len(contenders) - len(runs)) * self.repeats)
        for one in contenders:
            if one.name in rows:
                rows[one.name].values = times[one.name]
                rows[one.name].roofline = self.roofline(one, case, what, rows[one.name])
        self.report.rows += rows.values()
        return rows

    def ready(self, one: Contender, case: Case, what: str, inputs: Inputs) -> tuple[Callable, Row]:
        """The call to time, checked and called once, and its row."""
        error, wrong = self.check(one, case, what)
        run = timed(one.prepare(inputs), what)
        run()  # compiles, and chooses launch options
        if self.clock(run) > self.limit:
            self.slow.add((one.name, case.inner, what))
        tokens = inputs.q.shape[1]
        return run, Row(case, what, one.name, tokens=tokens, error=error, wrong=wrong)

    def roofline(self, one: Contender, case: Case, what: str, row: Row) -> float | None:
        """The least time that the ceilings allow, over the measured time."""
        if one.work is None:
            return None
        flop, moved = one.work(case, what)
        ceilings = self.report.ceilings
        least = max(flop / ceilings["flop_per_second"], moved / ceilings["bytes_per_second"])
        return least / row.middle


def check_gate(one: Contender, case: Case) -> tuple[float, str]:
    inputs = draw_inputs(case, one.same_eta)
    truth = results(one.truth(inputs.double()))
    found = errors(one.prepare(inputs), truth)
    rounded = None
    if one.own and case.dtype != "float32":
        rounded = errors(peers.rounded_run(inputs), truth)
    limits = (LIMITS if one.own else LOOSE)[case.dtype]
    return max(found.values()), verdict(found, limits, rounded)


def available_bytes(device: str) -> float:
    """Bytes that a contender may use: half of the machine's, or 0.9 of the free ones of a GPU."""
    if device == "cuda":
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return 0.9 * (torch.cuda.mem_get_info()[0] + kept)
    return machine_bytes() / 2


@functools.cache
def machine_bytes() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return float("inf")


DIRECTIONS = {"kernels": (FORWARD, BOTH), "decode": ("decode",), "layers": (BOTH,)}
LAYERS = "TTT layer", "TTT block", "attention block", "mamba block", "mamba2 block"


def measure_times(
    bench: Bench,
    cases: list[Case],
    directions: Sequence[str],
    contenders: Callable[[Case], list[Contender]],
) -> None:
    def cell(case: Case, what: str) -> None:
        bench.measure(case, what, contenders(case))

    for case in cases:
        for what in directions:
            bench.cell(f"{what} at {case.shape}", cell, case, what)


def layer_run(inputs: Inputs, layer: Block | TTTLayer) -> Run:
    """inputs.q (B, T, H, D) through a layer of width H D, from a fresh state, in q's precision."""
    dtype = inputs.q.dtype
    x = inputs.q.flatten(2).detach()
    x = x if dtype == torch.float64 else x.float()
    layer = layer.to(x)
    leaves = {"x": x.requires_grad_(), **dict(layer.named_parameters())}
    rounded = dtype in (torch.bfloat16, torch.float16)

    def call() -> Tensor:
        with torch.autocast(x.device.type, dtype if rounded else None, enabled=rounded):
            return layer(x, layer.init_state(len(x)))[0]

    return Run(call, leaves)


def layer_contenders(case: Case, mlp_width: int) -> list[Contender]:
    """Blocks of every mixer, and the TTT layer; in the gate as wide as the small case."""

    def prepare(inputs: Inputs, name: str) -> Run:
        torch.manual_seed(3)
        heads = inputs.q.shape[2]
        config = BackboneConfig(
            width=heads * case.head_dim,
            heads=heads,
            mlp_width=mlp_width,
            mixer=name.split()[0].lower(),
            ttt=TTTConfig("mlp" if case.inner == "mlp" else "linear", case.mini_batch),
            mamba=MambaConfig(head_dim=case.head_dim),
        )
        alone = name == "TTT layer"
        layer = TTTLayer(config.width, heads, config.ttt) if alone else Block(config)
        return layer_run(inputs, layer)

    runs = {name: functools.partial(prepare, name=name) for name in LAYERS}
    return [Contender(name, run, run, work=None, tensors=60) for name, run in runs.items()]


def measure_memory(bench: Bench, cases: list[Case]) -> None:
    """Peak memory in q tensors; and the size of a decoder's state beside a KV cache."""
    for case in cases:
        kernels = [c for c in kernel_contenders(case) if c.name in ("triton", "dual", "plain loop")]
        for one in bench.usable(case, kernels, BOTH):
            name = f"{one.name}: memory at {case.shape}"
            bench.cell(name, measure_peak, bench, one, case)
        bench.advance(bench.repeats)
    for case in cases:
        bench.cell(f"state and KV cache at {case.shape}", measure_carried, bench, case)


def measure_carried(bench: Bench, case: Case) -> None:
    carried = state_bytes(replace(case, batch=1, heads=1)) * case.heads
    cached = 2 * case.q_bytes / case.batch
    for who, size in (("TTT state", carried), ("KV cache", cached)):
        row = Row(case, "carried by one layer", who, [size / 1024], "KiB per sequence")
        bench.report.rows.append(row)


def measure_peak(bench: Bench, one: Contender, case: Case) -> Row:
    error, wrong = bench.check(one, case, BOTH)
    peak = peak_bytes(timed(one.prepare(draw_inputs(case)), BOTH), case.device)
    row = Row(case, BOTH, one.name, [peak / case.q_bytes], "q tensors", error=error, wrong=wrong)
    bench.report.rows.append(row)
    return row


@torch.no_grad()
def state_bytes(case: Case) -> int:
    """Bytes of the State after T - 1 tokens, when the open mini-batch holds the most rows."""
    inputs = draw_inputs(case)
    operands = *(x[:, :-1] for x in inputs.tokens), inputs.token_scale, *inputs.norm
    start = State(inputs.weights)
    _, state = operator(inputs)(*operands, start, mini_batch_size=case.mini_batch)
    return sum(x.nbytes for x in (*state.weights, *state.open))
