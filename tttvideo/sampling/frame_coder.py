"""Frames of tokens to a code and back: a model of video as a lossless codec.

The decoder can repeat what the encoder did because both make the same calls of the model, frame by
frame and wave by wave, on the same numbers: the encoder chooses the known tokens where sampling
would draw them. The probabilities must be the same to the last bit. Another version of torch,
another kind of CPU, a GPU or another batch may round otherwise, and then a hash tells.

B batch, F frames, P tokens per frame, V vocabulary.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from tttvideo.backbone import Backbone
from tttvideo.progress import Advance
from tttvideo.video.conditions import Conditions
from tttvideo.video.frame_model import FrameModel
from tttvideo.weights.video_checkpoints import VideoCheckpoint

from .choose import Choose
from .code_file import CodeFile, CodeHeader, runs_of
from .decode import start
from .frame_streams import decode_frames, sample_frames, score_frames
from .range_coder import TOTAL, RangeDecoder, RangeEncoder
from .saved_states import fingerprint


CHECKED = 2  # frames of the first batch whose tokens are compared early; the second is a model's
HASH = 16  # hexadecimal digits of a hash


@dataclass(frozen=True)
class TokenBatch:
    """Videos of equal length: frames (B, F, P), and what the model reads of them besides."""

    frames: Tensor
    conditions: Conditions


def frequencies(logits: Tensor) -> Tensor:
    """Integers (n, V) above 0 whose rows sum to TOTAL, about in proportion to exp(logits).

    A token of probability p gets more than p (TOTAL - V), and so costs less than log2(1 / p) +
    1.5 V / TOTAL bits. What is left of TOTAL goes to the most probable token.
    """
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite: it diverged on these tokens")
    V = logits.shape[-1]
    parts = (logits.double().softmax(-1) * (TOTAL - V)).long() + 1
    rest = TOTAL - parts.sum(-1, keepdim=True)
    return parts.scatter_add(-1, parts.argmax(-1, keepdim=True), rest)


class Encode:
    """Chooses the known tokens, in the order in which a model makes them, and codes each."""

    def __init__(self, coder: RangeEncoder, known: Iterator[Tensor]):
        self.coder, self.known = coder, known

    def __call__(self, logits: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        tokens, sizes = next(self.known), frequencies(logits)
        place = tokens[:, None]
        ends = sizes.cumsum(-1).gather(-1, place)
        sizes = sizes.gather(-1, place)
        for begin, size in torch.cat((ends - sizes, sizes), dim=-1).tolist():
            self.coder.encode(begin, size)
        return tokens


class Decode:
    """Chooses the tokens of a code."""

    def __init__(self, coder: RangeDecoder):
        self.coder = coder

    def __call__(self, logits: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        ends = frequencies(logits).cumsum(-1).cpu().numpy()
        return torch.tensor([self.one(row) for row in ends], device=logits.device)

    def one(self, ends: np.ndarray) -> int:
        """The next token; ends (V,): where the parts of the tokens end."""
        token = int(np.searchsorted(ends, self.coder.target(), side="right"))
        begin = int(ends[token - 1]) if token else 0
        self.coder.remove(begin, int(ends[token]) - begin)
        return token


def in_order(model: FrameModel | Backbone, frames: Tensor) -> Iterator[Tensor]:
    """The tokens of frames (B, F, P) in the parts, and the order, in which `make_frames` asks."""
    if isinstance(model, Backbone):
        yield from frames.flatten(1).unbind(1)
        return
    yield frames[:, 0].flatten()
    for frame in frames[:, 1:].unbind(1):
        yield from (frame[:, places].flatten() for places in model.head.steps)


@torch.inference_mode()
def make_frames(
    model: FrameModel | Backbone, B: int, F: int, choose: Choose, conditions: Conditions
) -> Iterator[Tensor]:
    """F frames (B, P) of B videos from their start on; all tokens of the first are as likely."""
    if isinstance(model, Backbone):
        yield from decode_frames(model, start(model, B), F, choose)
        return
    P, V = len(model.places), model.config.vocab_size
    first = choose(torch.zeros(B * P, V, device=model.places.device)).view(B, P)
    yield first
    _, prefix = score_frames(model, first[:, None], None, conditions.frames(0, 1))
    yield from sample_frames(model, prefix, F - 1, choose, conditions.frames(1, F))


def compress(model: VideoCheckpoint, batches: Sequence[TokenBatch], advance: Advance) -> CodeFile:
    """The code of all videos; `advance` gets the number of frames as they are coded."""
    coder, network = RangeEncoder(), model.network
    device = network.embedding.weight.device
    for batch in batches:
        frames = batch.frames.to(device)
        choose = Encode(coder, in_order(network, frames))
        B, F = frames.shape[:2]
        for _ in make_frames(network, B, F, choose, batch.conditions.to(device)):
            advance(B)
    tokens = [batch.frames for batch in batches]
    header = CodeHeader(
        model=model_hash(network),
        tokenizer=model.tokenizer,
        vocab_size=network.config.vocab_size,
        grid=model.frame_tokenizer.config.grid,
        fps=model.fps,
        runs=runs_of([(len(x), x.shape[1]) for x in tokens]),
        first=hash_of([tokens[0][:, :CHECKED]]),
        tokens=hash_of(tokens),
        made_with=made_with(network),
    )
    return CodeFile(header, to_rows([batch.conditions for batch in batches]), coder.finish())


def decompress(model: VideoCheckpoint, file: CodeFile, advance: Advance) -> list[Tensor]:
    """The frames (B, F, P) of each batch, on the CPU.

    Raises ValueError for the code of another model, and where the tokens are not those that were
    compressed, which shows as a rule at the second frame.
    """
    network, header = model.network, file.header
    if (own := model_hash(network)) != header.model:
        raise ValueError(f"the code was made by the model {header.model}, and this is {own}")
    device, coder = network.embedding.weight.device, RangeDecoder(file.code)
    choose, found = Decode(coder), list[Tensor]()
    for (B, F), known in zip(header.batches, from_rows(file.conditions, header), strict=True):
        frames = list[Tensor]()
        for frame in make_frames(network, B, F, choose, known.to(device)):
            frames.append(frame.cpu())
            if not found and len(frames) == min(F, CHECKED):
                check_hash([torch.stack(frames, dim=1)], header.first, file, network)
            advance(B)
        found.append(torch.stack(frames, dim=1))
    check_hash(found, header.tokens if coder.is_finished else "", file, network)
    return found


def check_hash(
    frames: Sequence[Tensor], wanted: str, file: CodeFile, network: FrameModel | Backbone
) -> None:
    if hash_of(frames) != wanted:
        raise ValueError(
            "the tokens are not those that were compressed: the file is damaged, or numbers are "
            f"rounded otherwise here; it was made with {file.header.made_with}, this is "
            f"{made_with(network)}"
        )


def model_hash(network: FrameModel | Backbone) -> str:
    return fingerprint(network)[:HASH]


def hash_of(frames: Sequence[Tensor]) -> str:
    found = hashlib.sha256()
    for part in frames:
        found.update(part.cpu().numpy().astype("<i8").tobytes())
    return found.hexdigest()[:HASH]


def made_with(network: FrameModel | Backbone) -> str:
    """What decides how numbers are rounded, as far as it has a name."""
    device, capability = network.embedding.weight.device, torch.backends.cpu.get_cpu_capability()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else capability
    threads = torch.get_num_threads()
    return f"torch {torch.__version__}, {platform.machine()}, {name}, {threads} threads"


def to_rows(batches: Sequence[Conditions]) -> dict[str, np.ndarray]:
    """Conditions of all videos by name, without the axis of videos, except classes (videos,)."""
    found = {}
    for name in (field.name for field in fields(Conditions)):
        parts = [getattr(batch, name) for batch in batches]
        if parts[0] is not None:
            rows = [part if name == "classes" else part.flatten(0, 1) for part in parts]
            found[name] = torch.cat(rows).cpu().numpy()
    return found


def from_rows(rows: Mapping[str, np.ndarray], header: CodeHeader) -> Iterator[Conditions]:
    """The conditions of each batch, from the result of `to_rows`."""
    begins = dict.fromkeys(rows, 0)
    for videos, frames in header.batches:
        found = {}
        for name, array in rows.items():
            each = 1 if name == "classes" else frames + (name == "poses")
            part = torch.from_numpy(array[begins[name] : begins[name] + videos * each])
            part = part.float() if part.is_floating_point() else part.long()
            found[name] = part if name == "classes" else part.unflatten(0, (videos, each))
            begins[name] += videos * each
        yield Conditions(**found)
