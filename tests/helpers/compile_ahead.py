"""Kernels built ahead of time, for GPUs that are not here: the machine code of each launch.

The launchers of kernels/gpu/ run unchanged on meta tensors; a launch compiles and is recorded. So
the builds are those of a real launch: signature, specialization, constants, warps and stages.

    python tests/helpers/compile_ahead.py HELD 90    builds of some sizes for sm_90, as JSON
    python tests/helpers/compile_ahead.py record     all builds, into results/compile/

test_compile.py compares new builds of HELD with the recorded ones.

Without TRITON_INTERPRET=1, under which nothing is compiled.
"""

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from tttvideo.kernels import tuning


BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED_LIMIT = {80: 166_912, 90: 232_448, 100: 232_448}
"""Bytes of shared memory that a block may ask for (CUDA programming guide)."""


@dataclass(frozen=True)
class Build:
    """One compiled kernel. Instruction counts are static, per warp."""

    kernel: str
    form: str  # of the call; "" saves for backward
    arch: int
    D: int
    M: int
    dtype: str
    warps: int
    registers: int  # per thread
    stack: int  # bytes per thread; anything but 0 is spilled registers
    shared: int  # bytes per block
    loop: int  # instructions of the longest loop; of the whole kernel if it has none
    mma: int  # matrix instructions in the kernel
    spills: int  # local loads and stores in the loop
    barriers: int  # in the loop
    syncs: int  # debug_barrier in the source, after inlining


class Absent:
    """A driver for a GPU that is not here: it names the target and cannot launch."""

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # the key of Triton's cache of kernels

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def building(arch: int) -> Iterator[list[CompiledKernel]]:
    """Inside, each launch of a kernel compiles it for `arch` and adds it to the list."""
    launched, run = [], JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        launched.append(kernel)
        return kernel

    before = driver._active
    driver.set_active(Absent(arch))
    try:
        with (
            patch.object(JITFunction, "run", compile_only),
            patch.object(tuning, "fastest", launch_all),
        ):
            yield launched
    finally:
        driver._active = before


def launch_all(kind: str, options: list[dict], launch: Callable[[dict], object]) -> dict:
    """Replaces tuning.fastest, which may choose any of them."""
    for one in options:
        launch(one)
    return options[0]


def inspect(kernel: CompiledKernel, *identity: int | str) -> Build:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        usage, sass = dump("cuobjdump", "-res-usage", path), dump("nvdisasm", "-c", "-ndf", path)
    registers, stack = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK"))
    code, loop = instructions(sass)
    return Build(
        kernel.metadata.name,
        *identity,
        kernel.metadata.num_warps,
        registers,
        stack,
        kernel.metadata.shared,
        len(loop),
        count(code, r"\b(HMMA|HGMMA|UTC\w*MMA|IMMA)"),
        count(loop, r"\b(LDL|STL)"),
        count(loop, r"\bBAR\b"),
        len(re.findall(r"\b(?:gpu|ttg)\.barrier\b", kernel.asm["ttir"])),
    )


def dump(tool: str, *arguments: str | Path) -> str:
    command = [BIN / tool, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def instructions(sass: str) -> tuple[list[str], list[str]]:
    """All instructions, and those from a label to the last branch back to it, where most are."""
    code, labels, loop = [], {}, []
    for label, text in re.findall(r"^(\.L_x_\d+):|/\*[0-9a-f]{4,}\*/\s+(.*?);", sass, re.M):
        if label:
            labels[label] = len(code)
            continue
        code.append(text)
        jump = re.search(r"\bBRA\b.*(\.L_x_\d+)", text)
        start = labels.get(jump[1], len(code)) if jump else len(code)
        if len(code) - start > max(1, len(loop)):
            loop = code[start:]
    return code, loop or code


def count(code: list[str], pattern: str) -> int:
    return sum(bool(re.search(pattern, text)) for text in code)


BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
CASES = [
    *(("linear", D, M, BF16) for D in (16, 32, 64, 96, 128) for M in (16, 32, 64)),
    *(("mlp", D, M, BF16) for D in (32, 64) for M in (16, 32, 64)),
    *((kind, 64, 16, dtype) for kind in ("linear", "mlp") for dtype in (FP16, FP32)),
]
FORMS = "", "unsaved", "forget", "frames", "forget frames"
"""Of the main cases on Hopper; of all others the first, which saves, is causal and has no gate."""
MAIN = [("linear", 64, 16, BF16), ("mlp", 64, 16, BF16)]
HELD = {
    80: [*MAIN, ("linear", 64, 64, BF16)],
    90: [
        *MAIN,
        *(("linear", D, M, BF16) for D, M in ((32, 16), (64, 64), (96, 16), (128, 64))),
        *(("mlp", D, M, BF16) for D, M in ((32, 16), (64, 64))),
        ("linear", 64, 16, FP32),
    ],
    100: MAIN,
}
"""The cases that the test builds: every kernel in every form, most of them for Hopper."""


def launch(kind: str, form: str, D: int, M: int, dtype: torch.dtype) -> None:
    """All launches of `kind`: forward with and without saving, backward, decode."""
    from tttvideo.kernels import Slots, State
    from tttvideo.kernels.gpu import decode as triton_decode
    from tttvideo.kernels.gpu import linear, mlp

    B, T, H = 2, 3 * M, 4
    sizes = (D, D) if kind == "linear" else (D, 4 * D, D)
    with torch.device("meta"):
        q, k, v = torch.empty(3, B, T, H, D, dtype=dtype)
        eta, token_scale = torch.empty(B, T, H), torch.empty(M)
        norm_weight, norm_bias = torch.empty(2, H, D)
        weights = []
        for before, after in zip(sizes[:-1], sizes[1:], strict=True):
            weights += [torch.empty(B, H, before, after), torch.empty(B, H, 1, after)]
    operands = q, k, v, eta, token_scale, norm_weight, norm_bias
    log_keep, start = (eta.clone(), [w[0] for w in weights]) if "forget" in form else (None, [])
    memory, causal = (log_keep, weights, start), "frames" not in form
    model = {"linear": linear, "mlp": mlp}[kind]
    y, *results = model.forward(*operands, *memory, None, causal, form != "unsaved")
    if form == "unsaved":
        return
    grads = [y, *results[: 2 * len(weights) - 1]]
    model.backward(grads, *operands, *memory, results, None, causal)
    slots = Slots.of(State(tuple(weights)), M, dtype, start)
    token = *(x[:, :1] for x in operands[:4]), *operands[4:]
    triton_decode.decode_(*token, slots, None if log_keep is None else log_keep[:, :1])


def measure(arch: int, cases: list[tuple]) -> list[dict]:
    """A row for each kernel of each case and form."""
    rows = []
    for kind, D, M, dtype in cases:
        size, inspected = (arch, D, M, str(dtype).removeprefix("torch.")), {}
        main = arch == 90 and (kind, D, M, dtype) in MAIN
        for form in FORMS if main else FORMS[:1]:
            with building(arch) as launched:
                launch(kind, form, D, M, dtype)
            for kernel in {kernel.hash: kernel for kernel in launched}.values():
                code = kernel.asm["cubin"]
                if code not in inspected:  # forms share kernels
                    inspected[code] = inspect(kernel, form, *size)
                rows.append(asdict(replace(inspected[code], form=form)))
    return rows


def measure_all(cases: str) -> list[dict]:
    """HELD or CASES for every GPU, a process each, since Triton compiles in one thread."""
    with TemporaryDirectory() as cache:  # of this code alone
        environment = {**os.environ, "TRITON_CACHE_DIR": cache}
        environment.pop("TRITON_INTERPRET", None)
        running = [
            subprocess.Popen(
                [sys.executable, "-P", __file__, cases, str(arch)],
                stdout=subprocess.PIPE,
                env=environment,
            )
            for arch in SHARED_LIMIT
        ]
        rows = [row for one in running for row in json.loads(one.communicate()[0])]
    return rows


STATE = (
    "with 96 or 128 features the state takes a quarter to a half of a thread's registers, and "
    "whole operands of its products lie beside it; other warps, stages and layouts spill more or "
    "loop longer. float32, there to check the others, takes each product in three parts"
)
OPERANDS = (
    "with mini-batches of 32 and 64 a thread holds whole operands of products over hidden units; "
    "smaller slices of these loop longer than the spill costs. float32 as in TTT-Linear"
)
REASONS = {
    "ttt_linear_forward_sweep": STATE,
    "ttt_linear_forward_readers": STATE,
    "ttt_linear_backward_readers": STATE,
    "ttt_linear_backward_writers": STATE,
    "ttt_linear_backward_keys": "8 bytes, only for 64 features and mini-batches of 32 on sm_100",
    "ttt_linear_backward_sweep": "2 accesses in a loop of 1,600 instructions on sm_90, 21 in one "
    "of 1,800 on sm_100; eight warps take more slots. The other plan, in parts, spills nothing",
    "ttt_mlp_forward_resident": "the state of 64 features is half of a multiprocessor's registers; "
    "mlp_forward.md has what was tried. The streamed form, which spills nothing, is the other "
    "option on sm_90, with a forget gate the first on sm_90 and sm_100, and the GPU chooses",
    "ttt_mlp_forward_streamed": OPERANDS,
    "ttt_mlp_backward_readers": OPERANDS,
    "ttt_mlp_backward_keys": "8 to 64 bytes, only for float32",
    "ttt_mlp_backward_streamed": OPERANDS,
}
"""Why kernels that spill registers ship as they are."""


def record(rows: list[dict]) -> None:
    folder = Path(__file__).parents[2] / "results" / "compile"
    folder.mkdir(exist_ok=True)
    reasons = {name: REASONS[name] for name in sorted({r["kernel"] for r in rows if r["stack"]})}
    found = {"triton": triton.__version__, "reasons": reasons, "builds": rows}
    (folder / "builds.json.gz").write_bytes(gzip.compress(json.dumps(found).encode(), mtime=0))
    columns = [f.name for f in fields(Build)]
    lines = [
        "# The Triton kernels, built ahead of time",
        "",
        f"Triton {triton.__version__}, no GPU: `python tests/helpers/compile_ahead.py record`.",
        "That file describes the columns; tests/kernels/test_compile.py compares new builds with",
        "these. Slots are the instructions of one turn of the loop times the warps.",
        "",
        "| " + " | ".join([*columns, "slots"]) + " |",
        "| " + " | ".join("---" for _ in [*columns, "slots"]) + " |",
        *("| " + " | ".join(map(str, [*r.values(), r["loop"] * r["warps"]])) + " |" for r in rows),
        "",
        "Kernels that spill at some of these sizes, and why they ship:",
        "",
        *(f"- {name}: {reason}" for name, reason in reasons.items()),
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "record":
        record(measure_all("CASES"))
    else:
        arch = int(sys.argv[2])
        print(json.dumps(measure(arch, HELD[arch] if sys.argv[1] == "HELD" else CASES)))
