"""Four properties of a model that reads video as a stream, each with the figures that show it.

no leak       nothing that it outputs up to a frame depends on later frames
any cut       a video read whole, in pieces or frame by frame gives the same bits and state
cost          a frame costs the same however long the stream is: time, state, process
saved state   a stream that continues from a file continues with the same bits
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from tttvideo.backbone import Backbone
from tttvideo.progress import Advance
from tttvideo.sampling.frame_streams import AnyPrefix, read_frames
from tttvideo.sampling.saved_states import SavedState, load_state_file, save_state_file
from tttvideo.states import structure, tree_map
from tttvideo.video.conditions import Conditions
from tttvideo.video.frame_model import FrameModel

from .leaks import find_leaks
from .played import PlayedVideo
from .stream_costs import TIMED, StreamCosts, stream_costs


READ = 48  # frames in which nothing may leak, and around a saved state
CUT = 200  # frames that are cut in other ways
PIECES = 1, 11, 2, 17, 5  # frames of the pieces that the video is cut into, again and again
CUTS = 20  # random places after which everything is replaced
EQUAL = 1e-5  # the largest difference of cuts, relative to the size of what is compared
SLOWER, LARGER = 0.05, 0.01  # growth of the time per frame and of the process that is allowed

Model = FrameModel | Backbone
Bar = Callable[[str, int, str], AbstractContextManager[Advance]]
"""Such as `progress`: a task, its total, and the unit."""


@dataclass(frozen=True)
class Property:
    """One of the four, whether the model has it, and the sentence and figures that show it."""

    name: str
    holds: bool
    sentence: str
    figures: dict[str, Any]


def verify(model: Model, video: PlayedVideo, frames: int, bar: Bar) -> Iterator[Property]:
    """The properties, in turn; the cost is that of a stream of `frames` frames."""
    yield no_leak(model, video)
    yield any_cut(model, video)
    yield saved_state(model, video)
    with bar(f"reading {frames:,} frames", frames, "frames") as advance:
        costs = stream_costs(model, video, frames, SLOWER, advance)
    yield cost(costs, frames)


def read(model: Model, video: PlayedVideo, begin: int, end: int) -> tuple[Tensor, Conditions]:
    """Frames as they are played, on the model's device."""
    device = model.embedding.weight.device
    tokens, known = video.read(begin, end)
    return tokens.to(device), known.to(device)


def no_leak(model: Model, video: PlayedVideo) -> Property:
    runs, lines = find_leaks(model, *read(model, video, 0, READ), CUTS)
    figures = {"frames": READ, "runs": runs, "leaks": lines}
    if lines:
        sentence = f"{len(lines)} of {runs} runs saw what came later: {lines[0]}"
        return Property("no leak", False, sentence, figures)
    return Property(
        "no leak",
        True,
        f"{READ} frames were read in one call. At {CUTS} random places, within a frame too, "
        "everything later was replaced, by other frames of the video and by random tokens: in all "
        f"{runs} runs every vector, logit and bit before it was the same, bit for bit.",
        figures,
    )


def any_cut(model: Model, video: PlayedVideo) -> Property:
    """The video in one call is what pieces and single frames are compared with."""
    tokens, known = read(model, video, 0, CUT)
    bits, prefix = read_frames(model, tokens, None, known, at_once=CUT)
    ways = {"in pieces": cuts(CUT, PIECES), "frame by frame": cuts(CUT, (1,))}
    figures: dict[str, Any] = {"frames": CUT}
    for name, sizes in ways.items():
        found, after = read_cut(model, tokens, known, sizes)
        figures[name] = {"bits": bits_apart(found, bits), "state": states_apart(after, prefix)}
    largest = max(x for name in ways for x in figures[name].values())
    each = "; ".join(
        f"{name}: bits of a frame {figures[name]['bits']:.1g}, state {figures[name]['state']:.1g}"
        for name in ways
    )
    return Property(
        "any cut",
        largest <= EQUAL,
        f"{CUT} frames in one call, in pieces of {', '.join(map(str, PIECES))} frames, and frame "
        f"by frame. Largest difference from one call, as a share ({EQUAL:g} is allowed): {each}.",
        figures,
    )


def cuts(frames: int, pieces: tuple[int, ...]) -> list[int]:
    """The sizes of pieces, again and again, until there are so many frames."""
    sizes: list[int] = []
    while sum(sizes) < frames:
        sizes.append(min(pieces[len(sizes) % len(pieces)], frames - sum(sizes)))
    return sizes


def read_cut(
    model: Model, tokens: Tensor, known: Conditions, sizes: list[int]
) -> tuple[Tensor, AnyPrefix]:
    """Bits (1, F, P) and the prefix of frames (1, F, P) that are read in pieces."""
    parts, prefix, begin = [], None, 0
    for size in sizes:
        end = begin + size
        part = model, tokens[:, begin:end], prefix, known.frames(begin, end)
        bits, prefix = read_frames(*part, at_once=size)
        parts.append(bits)
        begin = end
    assert prefix is not None
    return torch.cat(parts, dim=1), prefix


def bits_apart(bits: Tensor, others: Tensor) -> float:
    """The largest difference of the bits of a frame, relative to these bits, or to one bit."""
    one, other = bits.sum(-1), others.sum(-1)
    return worst((one - other).abs() / other.abs().clamp_min(1))


def states_apart(state: Any, other: Any) -> float:
    """The largest distance of two tensors at one place, relative to the norm of the second."""
    if structure(state) != structure(other):
        return float("inf")
    found = []

    def compare(x: Tensor, y: Tensor) -> Tensor:
        x, y = x.double(), y.double()
        found.append(worst((x - y).norm() / y.norm().clamp_min(1e-30)))
        return x

    tree_map(compare, state, other)
    return max(found)


def worst(x: Tensor) -> float:
    return x.nan_to_num(torch.inf, torch.inf).max().item()


def saved_state(model: Model, video: PlayedVideo) -> Property:
    half = READ // 2
    begun, known = read(model, video, 0, half)
    _, prefix = read_frames(model, begun, None, known)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state")
        save_state_file(SavedState(prefix, half * video.tokens.shape[1]), model, path)
        size, loaded = path.stat().st_size, load_state_file(path, model).prefix
    tokens, known = read(model, video, half, READ)
    bits, after = read_frames(model, tokens, prefix, known)
    again, after_again = read_frames(model, tokens, loaded, known)
    same = torch.equal(bits, again) and equal_states(after, after_again)
    return Property(
        "saved state",
        same,
        f"The state after {half} frames was written to a file ({size / 1000:,.0f} kB) and loaded. "
        f"The next {READ - half} frames have {'the same' if same else 'OTHER'} bits, and leave "
        f"{'the same' if same else 'another'} state, as without the file"
        f"{', bit for bit.' if same else '.'}",
        {"file_bytes": size, "same": same},
    )


def equal_states(state: Any, other: Any) -> bool:
    same = structure(state) == structure(other)
    parts: list[bool] = []

    def compare(x: Tensor, y: Tensor) -> Tensor:
        parts.append(torch.equal(x, y))
        return x

    if same:
        tree_map(compare, state, other)
    return same and all(parts)


def cost(found: StreamCosts, frames: int) -> Property:
    """The property of a stream's costs, of which `frames` frames were asked for."""
    if found.grows:
        return growing(found, frames)
    first, last = (1000 * median(found.seconds[name]) for name in ("first", "last"))
    checks = {
        "a frame takes longer": (found.slower, SLOWER),
        "the process grows": (found.more_resident, LARGER),
    }
    failed = [f"{what}: {by:+.1%}. " for what, (by, most) in checks.items() if by > most]
    timed = f"{min(TIMED, frames // 4):,}"
    sentence = (
        f"{''.join(failed)}{frames:,} frames, one at a time. A frame takes {first:.2f} ms among "
        f"the first {timed} after frame {found.settled}, and {last:.2f} ms among the last {timed} "
        f"({found.slower:+.1%}; {SLOWER:+.0%} is allowed): medians of {found.clock}, head "
        f"included, of both read by turns. The state has {found.states[-1]:,} bytes at each of "
        f"{len(found.states):,} looks; the process {found.resident[-1] / 1e6:,.0f} MB "
        f"({found.more_resident:+.2%}; {LARGER:+.0%} is allowed)."
    )
    figures = {
        "frames": frames,
        "first_ms": first,
        "last_ms": last,
        "slower": found.slower,
        "state_bytes": found.states[-1],
        "process_bytes": found.resident[-1],
        "process_growth": found.more_resident,
    }
    return Property("cost", not failed, sentence, figures)


def growing(found: StreamCosts, frames: int) -> Property:
    each, size = found.growth_per_frame, found.states[-1]
    whole = found.states[0] + each * (frames - found.settled)
    sentence = (
        f"The state grows by {each:,.0f} bytes a frame, after frame {found.settled} too: "
        f"{size / 1e6:,.1f} MB after {found.frames} frames, and {whole / 1e9:,.1f} GB after "
        f"{frames:,}. No more were read."
    )
    figures = {"frames": found.frames, "bytes_per_frame": each, "state_bytes": size}
    return Property("cost", False, sentence, figures)
