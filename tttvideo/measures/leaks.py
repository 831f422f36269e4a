"""Whether a model of video sees what it predicts: where later frames are others, nothing changes.

The runs that are compared have the same shapes, so that equal outputs have equal bits.

F frames, P tokens per frame, C width, V vocabulary.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tttvideo.backbone import Backbone
from tttvideo.sampling.frame_streams import read_frames
from tttvideo.video.conditions import Conditions
from tttvideo.video.frame_model import FrameModel


class Outputs(NamedTuple):
    """What a model makes of frames (1, F, P) that it reads in one call."""

    vectors: Tensor
    """(F, P, C) after each token of a frame, or after the frame"""
    logits: Tensor
    """(F - 1, P, V) of the tokens of all frames but the first"""
    bits: Tensor
    """(F, P) of the tokens of all frames"""


class Cut(NamedTuple):
    """The last frame that is kept, and the tokens (P,) of the next one that are kept too."""

    frame: int
    kept: Tensor
    predicted: Tensor
    """(P,) tokens of that next frame whose logits depend on kept tokens only"""


@torch.inference_mode()
def outputs(model: FrameModel | Backbone, frames: Tensor, known: Conditions) -> Outputs:
    bits, _ = read_frames(model, frames, None, known, at_once=frames.shape[1])
    if isinstance(model, FrameModel):
        vectors = model(frames, None, known)[0][0]
        logits = model.head(vectors[:-1], frames[0, 1:], frames[0, :-1])
        return Outputs(vectors, logits, bits[0])
    hidden, _ = model.features(frames.flatten(1))
    before = hidden[0, frames.shape[2] - 1 : -1]
    shape = frames.shape[1:]
    return Outputs(
        hidden[0].unflatten(0, shape),
        model.head(before).unflatten(0, (shape[0] - 1, shape[1])),
        bits[0],
    )


def random_cuts(
    model: FrameModel | Backbone, shape: tuple[int, int], count: int, seed: int
) -> Iterator[Cut]:
    """`count` random cuts of (F, P) frames, each after a wave of tokens that are made at once."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randperm(shape[0] - 1, generator=generator).repeat(-(-count // (shape[0] - 1)))
    wave = torch.arange(shape[1])
    if isinstance(model, FrameModel):
        for number, places in enumerate(model.head.steps):
            wave[places] = number
    for frame in frames[:count].tolist():
        last = int(torch.randint(int(wave.max()) + 1, (), generator=generator))
        yield Cut(frame, wave < last, wave <= last)


def replacements(
    frames: Tensor, known: Conditions, cut: Cut, V: int, generator: torch.Generator
) -> dict[str, tuple[Tensor, Conditions]]:
    """Frames (1, F, P) and conditions of which all after the cut are others: the video's own frames
    in another order, and random tokens."""
    order = torch.arange(frames.shape[1] + 1)
    after = order[cut.frame + 1 : -1]
    order[cut.frame + 1 : -1] = torch.randint(len(order) - 1, after.shape, generator=generator)
    tokens = torch.randint(V, frames.shape, generator=generator).to(frames.device)
    changed = reordered(known, order, cut.frame)
    found = {}
    for name, other in (("shuffled", frames[:, order[:-1]]), ("random", tokens)):
        other = torch.cat((frames[:, : cut.frame + 1], other[:, cut.frame + 1 :]), dim=1)
        kept, next_frame = cut.kept.to(frames.device), cut.frame + 1
        other[:, next_frame] = frames[:, next_frame].where(kept, other[:, next_frame])
        found[name] = other, changed
    return found


def reordered(known: Conditions, order: Tensor, frame: int) -> Conditions:
    """Conditions in an order (F + 1,) of frames; the pose of the frame after `frame` stays: it is
    given to the model that predicts that frame."""

    def rows(x: Tensor | None, index: Tensor) -> Tensor | None:
        return None if x is None else x[:, index.to(x.device)]

    poses = order.clone()
    poses[frame + 1] = frame + 1
    frames = order[:-1]
    actions, seconds = rows(known.actions, frames), rows(known.seconds, frames)
    return Conditions(actions, rows(known.poses, poses), known.classes, seconds)


def leaked(before: Outputs, after: Outputs, cut: Cut) -> list[str]:
    """The outputs up to a cut that are not bit for bit the same."""
    known = cut.frame + 1
    predicted = cut.predicted.to(before.logits.device)
    pairs = {
        "vectors": (before.vectors[:known], after.vectors[:known]),
        "logits": (before.logits[: cut.frame], after.logits[: cut.frame]),
        "logits of the next frame": tuple(x.logits[cut.frame][predicted] for x in (before, after)),
        "bits": (before.bits[:known], after.bits[:known]),
    }
    return [name for name, (one, other) in pairs.items() if not torch.equal(one, other)]


def find_leaks(
    model: FrameModel | Backbone, frames: Tensor, known: Conditions, cuts: int, seed: int = 0
) -> tuple[int, list[str]]:
    """Replace what comes after random cuts of frames (1, F, P), at least two of them.

    Returns the number of runs that were compared, and a line for each in which an output up to the
    cut changed.
    """
    generator = torch.Generator().manual_seed(seed)
    before, runs, lines = outputs(model, frames, known), 0, list[str]()
    V = model.config.vocab_size
    for cut in random_cuts(model, (frames.shape[1], frames.shape[2]), cuts, seed):
        for name, other in replacements(frames, known, cut, V, generator).items():
            runs += 1
            if found := leaked(before, outputs(model, *other), cut):
                lines.append(
                    f"with {name} frames after frame {cut.frame} and {int(cut.kept.sum())} tokens "
                    f"of the next, these changed: {', '.join(found)}"
                )
    return runs, lines
