"""The bars: the required figures on a CPU and on a GPU, and the measurement of each.

On a CPU they are ratios to a plain autograd loop and to a decoder with dense sums, growth with the
context, and peak memory. On a GPU they are shares of the memory and matrix speed of an H100, and
ratios to the kernels of other projects that follow from the bytes and operations of both.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
import torch.nn.functional as F

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.kernels import autograd_loop
from tttvideo.kernels.dual import piece as dual
from tttvideo.measures.speed import BACKWARD, BOTH, FORWARD, timed
from tttvideo.mixers.ttt import TTTConfig

from .cases import TITLES, Case, decode_bytes, draw_inputs, least_work, load_backbone, load_config
from .contenders import Contender, decode_contenders, kernel_contenders
from .records import Bar, Row
from .runs import Bench, measure_peak


CPU_A = Case("linear", 1, 2048, 12, 64)
CPU_E = replace(CPU_A, tokens=8192)
CPU_TINY = Case("linear", 8, 1024, 4, 32)
CPU_DECODE = Case("linear", 32, 512, 12, 64)
GPU_FULL = Case("linear", 16, 2048, 32, 64, dtype="bfloat16", device="cuda")  # 512 heads in flight
GPU_LONG = replace(GPU_FULL, batch=4)  # 128 heads
GPU_FEW = replace(GPU_FULL, batch=1)
GPU_DECODE = replace(GPU_FULL, batch=512)


@dataclass(frozen=True)
class Versus:
    """The time of a peer over that of a backend: at least `must`, at best `aim`."""

    case: Case
    what: str
    peer: str
    must: float
    aim: float

    def bar(self, rows: dict[str, Row], backend: str) -> Bar:
        kind = f"{TITLES[self.case.inner]} {self.what}, {self.peer} over {backend}"
        bar = Bar(kind, shape(self.case, self.what), self.must, self.aim)
        missing = [name for name in (backend, self.peer) if name not in rows]
        if missing:
            bar.wrong = f"{' and '.join(missing)} did not run"
        else:
            row, peer = rows[backend], rows[self.peer]
            bar.reach(ratios(peer.values, row.values), row, peer)
        return bar


def shape(case: Case, what: str) -> str:
    return case.sizes if what == "decode" else case.shape


def at(case: Case, tokens: int, inner: str = "linear") -> Case:
    return replace(case, tokens=tokens, inner=inner)


CPU = [
    Versus(CPU_A, BOTH, "plain loop", 1.25, 2.0),
    Versus(CPU_E, BOTH, "plain loop", 1.25, 2.0),
    Versus(CPU_TINY, BOTH, "plain loop", 1.1, 1.8),
    Versus(at(CPU_A, 2048, "mlp"), BOTH, "plain loop", 1.1, 1.6),
    Versus(at(CPU_E, 8192, "mlp"), BOTH, "plain loop", 1.1, 1.6),
    Versus(CPU_DECODE, "decode", "dense sum", 1.2, 1.6),
    Versus(replace(CPU_DECODE, inner="mlp"), "decode", "dense sum", 1.2, 1.6),
]
GPU = [
    *(Versus(at(GPU_FULL, T), FORWARD, "fla fused", 2.0, 2.6) for T in (2048, 8192, 32768)),
    *(Versus(at(GPU_FULL, T), FORWARD, "fla chunk", 3.0, 4.5) for T in (2048, 8192, 32768)),
    *(Versus(at(GPU_FULL, T), BOTH, "fla fused", 2.0, 2.7) for T in (2048, 8192)),
    *(Versus(at(GPU_FULL, T), BOTH, "fla chunk", 2.0, 3.0) for T in (2048, 8192)),
    Versus(GPU_FULL, FORWARD, "dual", 20, 40),
    Versus(GPU_FULL, FORWARD, "compiled loop", 8, 15),
    Versus(GPU_FULL, BOTH, "dual", 15, 30),
    Versus(GPU_FULL, BOTH, "compiled loop", 6, 12),
    Versus(at(GPU_LONG, 2048), FORWARD, "attention", 1.2, 2),
    Versus(at(GPU_LONG, 8192), FORWARD, "attention", 5, 8),
    Versus(at(GPU_LONG, 32768), FORWARD, "attention", 20, 30),
    Versus(at(GPU_LONG, 131072), FORWARD, "attention", 60, 100),
    Versus(at(GPU_LONG, 4096), BOTH, "attention", 1.2, 2),
    Versus(at(GPU_LONG, 32768), BOTH, "attention", 8, 14),
    Versus(at(GPU_LONG, 8192, "mlp"), FORWARD, "attention", 1.3, 2),
    Versus(at(GPU_LONG, 32768, "mlp"), FORWARD, "attention", 5, 8),
    Versus(at(GPU_LONG, 131072, "mlp"), FORWARD, "attention", 20, 30),
    Versus(GPU_FULL, BOTH, "Mamba-2 scan", 0.7, 1.0),
]


def ratios(peer: Sequence[float], times: Sequence[float]) -> list[float]:
    """Ratios round by round: a disturbance in a round affects both."""
    return [a / b for a, b in zip(peer, times, strict=True)]


def measure_all(bench: Bench, plan: Iterable[Versus], backend: str) -> None:
    """Measure each case and direction once, with all its peers, and add the bars."""
    cells: dict[tuple[Case, str], list[Versus]] = {}
    for versus in plan:
        cells.setdefault((versus.case, versus.what), []).append(versus)
    for (case, what), group in cells.items():
        rows = cell_rows(bench, case, what, {backend, *(versus.peer for versus in group)})
        bench.report.bars += [versus.bar(rows, backend) for versus in group]


def cell_rows(bench: Bench, case: Case, what: str, wanted: set[str]) -> dict[str, Row]:
    """The rows by name, of contenders that ran."""
    name = f"{TITLES[case.inner]} {what} at {case.shape}"
    return bench.cell(name, run_cell, bench, case, what, wanted) or {}


def run_cell(bench: Bench, case: Case, what: str, wanted: set[str]) -> dict[str, Row]:
    contenders = decode_contenders(case) if what == "decode" else kernel_contenders(case)
    return bench.measure(case, what, [one for one in contenders if one.name in wanted])


def count_bar_runs(device: str) -> int:
    """Number of timed contenders."""
    plan, more = (CPU, 6) if device == "cpu" else (GPU, 5)
    return len({(versus.case, versus.what) for versus in plan}) + len(plan) + more


def measure_cpu_bars(bench: Bench) -> None:
    measure_all(bench, CPU, "dual")
    bench.cell("a training step", training_step_bar, bench)
    for inner, title in TITLES.items():
        bench.cell(f"growth of {title}", growth_bar, bench, inner)
    for inner, must, aim in (("linear", 10, 7), ("mlp", 13, 10)):
        peak_bar(bench, at(CPU_A, CPU_A.tokens, inner), "dual", must, aim)


def training_step_bar(bench: Bench) -> None:
    """A training step of text_tiny, against one with the plain autograd loop."""
    config = load_backbone("tiny")
    data = load_config("text_tiny")["data"]["init_args"]
    window, batch = data["window"], data["batch_size"]
    torch.manual_seed(4)
    model = Backbone(BackboneConfig(**{**config, "ttt": TTTConfig(**config["ttt"])}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    start = {name: x.clone() for name, x in model.state_dict().items()}
    tokens = torch.randint(model.config.vocab_size, (batch, window + 1))

    def step() -> None:
        optimizer.zero_grad()
        logits, _ = model(tokens[:, :-1])
        F.cross_entropy(logits.mT, tokens[:, 1:]).backward()
        optimizer.step()

    def plain_step() -> None:
        with patch.object(dual, "whole", autograd_loop.whole):
            step()

    gradients = []
    for run in (step, plain_step):  # at the same weights: a step begins by clearing gradients
        run()
        grads = (p.grad for p in model.parameters())
        gradients.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
        model.load_state_dict(start)
    error = ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item()
    times, peer = bench.time({"dual": step, "plain loop": plain_step}).values()
    bar = Bar("a training step of text_tiny, plain loop over ours", f"B{batch} T{window}", 1, 1.5)
    bar.wrong = f"gradients differ by {error:.1e}" if error > 1e-4 else ""
    bar.reach(ratios(peer, times))
    bench.report.bars.append(bar)


def growth_bar(bench: Bench, inner: str) -> None:
    """Growth of time with the tokens; both lengths in turn, as the machine's speed may vary."""
    short, long = (at(case, case.tokens, inner) for case in (CPU_A, CPU_E))
    dual = find(kernel_contenders(short), "dual")
    runs = {
        str(case.tokens): timed(dual.prepare(draw_inputs(case)), BOTH) for case in (short, long)
    }
    for run in runs.values():
        run()
    first, second = bench.time(runs).values()
    what = f"{TITLES[inner]} {BOTH}, T{long.tokens} over T{short.tokens}"
    bar = Bar(what, short.sizes, 4.6, 4.0, most=True, wrong=bench.check(dual, short, BOTH)[1])
    bar.reach(ratios(second, first))
    bench.report.bars.append(bar)


def find(contenders: Iterable[Contender], name: str) -> Contender:
    return next(one for one in contenders if one.name == name)


def peak_bar(bench: Bench, case: Case, backend: str, must: float, aim: float) -> None:
    def measure() -> None:
        what = f"{TITLES[case.inner]} {BOTH}, peak memory over q"
        bar = Bar(what, case.shape, must, aim, unit="q tensors", most=True)
        bench.report.bars.append(bar)
        one = find(kernel_contenders(case), backend)
        if bench.usable(case, [one], BOTH):
            row = measure_peak(bench, one, case)
            bar.reach(row.values, row)
        else:
            bar.wrong = f"{backend} did not run"

    bench.cell(f"peak memory at {case.shape}", measure)


def measure_gpu_bars(bench: Bench) -> None:
    check_kernels(bench)
    measure_all(bench, GPU, "triton")
    full, mlp = at(GPU_FULL, 8192), at(GPU_FULL, 2048, "mlp")
    copy_rate_bar(bench, full, FORWARD, least_work(full, FORWARD)[1], 55, 80)
    copy_rate_bar(bench, full, BACKWARD, least_work(full, BACKWARD)[1], 40, 65)
    bench.cell("cycles per mini-batch", latency_bar, bench)
    flop = least_work(mlp, FORWARD)[0]
    bar = Bar("TTT-MLP forward", mlp.shape, 150, 300, unit="TFLOP/s")
    kernel_bar(bench, mlp, FORWARD, bar, lambda seconds: flop / seconds / 1e12)
    moved = GPU_DECODE.mini_batch * decode_bytes(GPU_DECODE)
    copy_rate_bar(bench, GPU_DECODE, "decode", moved, 60, 85)
    # y, the steps S and three gradients are 5, two more between the parts of a backward in parts,
    # where that is the faster one; eta and fast weights are little
    peak_bar(bench, full, "triton", 8, 6)
    for reason in NOT_HERE:
        bench.report.leave_out(reason)


NOT_HERE = (
    "ttt-tk and ttt-lm-kernels: they are no packages, and have no adapter here",
    "decoding a whole 1.3b backbone: it does not run as one CUDA graph",
    "spills of the kernels as built (bar 18): a matter of the compiler; results/compile has them",
)


def check_kernels(bench: Bench) -> None:
    """Every kernel and dtype against float64, and the sizes of the paper; no times."""

    def check(case: Case, what: str, one: Contender) -> None:
        with torch.set_grad_enabled(what == "gate"):
            error, wrong = bench.check(one, case, what)
        row = Row(case.small(), what, one.name, [error], "error", error=error, wrong=wrong)
        bench.report.rows.append(row)

    sizes = [(64, 16, dtype) for dtype in ("bfloat16", "float16", "float32")]
    sizes += [(64, 64, "bfloat16"), (96, 16, "bfloat16")]
    for inner in TITLES:
        for D, M, dtype in sizes:
            case = replace(GPU_FEW, inner=inner, head_dim=D, mini_batch=M, dtype=dtype)
            for what, contenders in (("gate", kernel_contenders), ("decode", decode_contenders)):
                one = contenders(case)[0]
                if bench.usable(case, [one], what):
                    name = f"{one.name}: {what} at {case.small().shape}"
                    bench.cell(name, check, case, what, one)


def kernel_bar(
    bench: Bench, case: Case, what: str, bar: Bar, value: Callable[[float], float]
) -> None:
    """Measure the Triton kernel; `value` turns seconds into the unit of the bar."""
    row = cell_rows(bench, case, what, {"triton"}).get("triton")
    bench.report.bars.append(bar)
    if row is None:
        bar.wrong = "triton did not run"
    else:
        bar.reach([value(seconds) for seconds in row.values], row)


def copy_rate_bar(
    bench: Bench, case: Case, what: str, moved: float, must: float, aim: float
) -> None:
    """The time that a copy of `moved` bytes takes, over the time of the kernel."""
    least = moved / bench.report.ceilings["bytes_per_second"]
    name = f"TTT-Linear {what}, of the measured copy rate"
    bar = Bar(name, shape(case, what), must, aim, unit="%")
    kernel_bar(bench, case, what, bar, lambda seconds: 100 * least / seconds)


def latency_bar(bench: Bench) -> None:
    """With 32 heads in flight the chain of mini-batches takes the time."""
    from triton.runtime import driver

    device = torch.cuda.current_device()
    hertz = 1e3 * driver.active.utils.get_device_properties(device)["sm_clock_rate"]
    steps = GPU_FEW.tokens / GPU_FEW.mini_batch
    bar = Bar("TTT-Linear forward, cycles per mini-batch", GPU_FEW.shape, 1100, 650, most=True)
    bar.unit = "at the highest clock"
    kernel_bar(bench, GPU_FEW, FORWARD, bar, lambda seconds: seconds / steps * hertz)
