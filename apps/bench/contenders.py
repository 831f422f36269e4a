"""The contenders of a benchmark: own backends and peers, and the obstacles to each.

B batch, T tokens, H heads, D head dim, M mini-batch size, C tokens of context.
"""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tttvideo.kernels import Slots, State, ttt_decode_, ttt_linear, ttt_mlp
from tttvideo.kernels.backends import triton_obstacle
from tttvideo.measures.speed import FORWARD, Run

from . import peers
from .cases import DTYPES, Case, Inputs, attention_work, decode_bytes, draw_inputs, least_work


CAVEATS = (
    "fla has one learning rate for all writers of a mini-batch, so its gate draws such an eta; "
    "times do not depend on it",
    "Mamba-2's scan has as many groups as heads here; its layers have fewer and read less",
    "decoding replays a CUDA graph of a mini-batch of tokens, except dual, which reads places "
    "from the GPU and so runs eagerly",
    "rooflines and bars on memory speed are shares of the speed of a copy and a matmul in this "
    "run, not of a data sheet",
)
REFERENCE_TOKENS = 64  # token by token, with torch.func.grad: a second for each thousand
LOOP_TOKENS = 8192  # of the autograd loop on a GPU, because of its memory


@dataclass(frozen=True)
class Contender:
    """An implementation to be timed.

    prepare: makes the Run to time; truth: the same in float64, by other code.
    own: a backend of tttvideo, with stricter limits.
    work: the least operations and bytes, or None where they are not comparable.
    tensors: size of all tensors held together, in units of q; forward alone, half as many.
    obstacle: the reason why it cannot run here; empty if it can.
    same_eta: it has one learning rate for all writers.
    """

    name: str
    prepare: Callable[[Inputs], Run]
    truth: Callable[[Inputs], Run]
    own: bool = False
    work: Callable[[Case, str], tuple[float, float]] | None = least_work
    tensors: int = 16
    obstacle: str = ""
    same_eta: bool = False

    def held(self, what: str) -> float:
        return self.tensors / 2 if what == FORWARD else self.tensors


def caveats(case: Case) -> list[str]:
    """Notes for readers of GPU figures."""
    if case.device != "cuda":
        return []
    backends = peers.attention_backends(draw_inputs(replace(case, batch=1, heads=1, tokens=1)).q)
    return [f"attention is PyTorch's {backends}", *CAVEATS]


def operator(inputs: Inputs) -> Callable[..., tuple[Tensor, State]]:
    return ttt_linear if len(inputs.weights) == 2 else ttt_mlp


def own_run(inputs: Inputs, backend: str) -> Run:
    options = {"mini_batch_size": len(inputs.token_scale), "backend": backend}

    def call() -> Tensor:
        tokens, state = inputs.tokens, State(inputs.weights)
        shared = (inputs.token_scale, *inputs.norm)
        return operator(inputs)(*tokens, *shared, state, **options)[0]

    return Run(call, inputs.leaves())


def obstacle_to_triton(case: Case) -> str:
    inputs = draw_inputs(replace(case, batch=1, heads=1, tokens=1))
    return triton_obstacle(inputs.tokens[:3], inputs.weights, case.mini_batch, False) or ""


def obstacle_to(module: str, case: Case) -> str:
    if case.device != "cuda":
        return "it needs CUDA, and this is a CPU"
    return "" if importlib.util.find_spec(module) else f"{module} is not installed"


def too_long(case: Case, longest: int) -> str:
    return f"only up to {longest} tokens" if case.tokens > longest else ""


def backend(name: str, obstacle: str = "", tensors: int = 16) -> Contender:
    truth = peers.plain_run if name != "triton" else dual_run
    prepare = functools.partial(own_run, backend=name)
    return Contender(name, prepare, truth, True, tensors=tensors, obstacle=obstacle)


dual_run = functools.partial(own_run, backend="dual")


def kernel_contenders(case: Case) -> list[Contender]:
    linear, cuda = case.inner == "linear", case.device == "cuda"
    loop = too_long(case, LOOP_TOKENS) if cuda else ""
    compiled = loop if cuda else "it is compared on a GPU only"
    size = DTYPES[case.dtype].itemsize
    held = (40 if linear else 180) * 4 // size  # by autograd, in float32
    found = [
        backend("triton", obstacle_to_triton(case)),
        backend("dual", tensors=16 * 4 // size),
        backend("reference", too_long(case, REFERENCE_TOKENS)),
        Contender("plain loop", peers.plain_run, dual_run, tensors=held, obstacle=loop),
        Contender("compiled loop", peers.compiled_run, dual_run, tensors=held, obstacle=compiled),
        Contender("attention", peers.attention_run, peers.attention_truth, work=attention_work),
    ]
    for name in ("fused_chunk", "chunk") if linear else ():
        prepare = functools.partial(peers.fla_run, name=f"{name}_ttt_linear")
        short, missing = f"fla {name.split('_')[0]}", obstacle_to("fla", case)
        fla = Contender(short, prepare, peers.fla_truth, obstacle=missing, same_eta=True)
        found.append(fla)
    missing, runs = obstacle_to("mamba_ssm", case), (peers.mamba_run, peers.mamba_truth)
    return [*found, Contender("Mamba-2 scan", *runs, work=None, obstacle=missing)]


def decode_run(inputs: Inputs, backend: str) -> Run:
    """Slots, a token at a time; one CUDA graph, except for the dual form, which reads places."""
    scale, weight, bias = (x.detach() for x in (inputs.token_scale, *inputs.norm))
    state = State(tuple(w.detach() for w in inputs.weights))
    slots = Slots.of(state, len(inputs.token_scale), inputs.q.dtype)

    @torch.no_grad()
    def call() -> Tensor:
        tokens = zip(*(x.detach().split(1, dim=1) for x in inputs.tokens), strict=True)
        ys = [
            ttt_decode_(q, k, v, eta, scale, weight, bias, slots, backend=backend)
            for q, k, v, eta in tokens
        ]
        return torch.cat(ys, dim=1)

    if backend == "dual" or not inputs.q.is_cuda:
        return Run(call, {})
    replay = Replay(call)
    slots.put(slice(None), state)
    return Run(replay, {})


class Replay:
    """A call as a CUDA graph, after one run to compile."""

    def __init__(self, call: Callable[[], Tensor]):
        self.call = call  # keeps the inputs of the graph alive
        call()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.y = call()

    def __call__(self) -> Tensor:
        self.graph.replay()
        return self.y


def graph_run(inputs: Inputs, prepare: Callable[[Inputs], Run]) -> Run:
    """The prepared run, on a GPU as one CUDA graph, so that it does not wait for the host."""
    run = prepare(inputs)
    return run._replace(call=Replay(run.call)) if inputs.q.is_cuda else run


def decode_contenders(case: Case) -> list[Contender]:
    B, H, C, D = case.batch, case.heads, case.tokens, case.head_dim
    slots = obstacle_to_triton(case)

    def cached(inputs: Inputs, run: Callable[..., Run]) -> Run:
        """With a KV cache of the case's tokens; a small cache for the gate."""
        batch, heads = inputs.q.shape[0], inputs.q.shape[2]
        context = C if (batch, heads) == (B, H) else 64
        generator = torch.Generator(case.device).manual_seed(2)
        shape, dtype = (2, batch, heads, context, D), DTYPES[case.dtype]
        cache = torch.randn(shape, generator=generator, device=case.device, dtype=dtype)
        return run(inputs, *cache.unbind())

    def work(case: Case, what: str) -> tuple[float, float]:
        return 0.0, case.mini_batch * decode_bytes(case)

    def cache_work(case: Case, what: str) -> tuple[float, float]:
        return 0.0, case.mini_batch * 2 * case.q_bytes

    truth = functools.partial(cached, run=peers.cached_truth)
    cache = functools.partial(cached, run=peers.cached_run)
    dense, attention = (
        functools.partial(graph_run, prepare=one) for one in (peers.dense_decode_run, cache)
    )
    triton, dual = (functools.partial(decode_run, backend=name) for name in ("triton", "dual"))
    return [
        Contender("triton", triton, dual_run, own=True, work=work, tensors=0, obstacle=slots),
        Contender("dual", dual, dual_run, own=True, work=work, tensors=0),
        Contender("dense sum", dense, dual_run, work=work, tensors=0),
        Contender("attention", attention, truth, work=cache_work, tensors=2),
    ]
