"""State files: the prefix of one text or video, so that a later run can continue from it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tttvideo.backbone import Backbone
from tttvideo.states import from_plain, to_plain
from tttvideo.video.frame_model import FrameModel
from tttvideo.weights.checkpoints import load_torch_file, save_torch_file


@dataclass(frozen=True)
class SavedState:
    """The prefix of a text or a video.

    tokens: tokens that were read.
    draws: the state of the generator of a run with a seed, so that its draws continue; else None.
    camera: of a model of estimated poses the last two, and the last frame; else None.
    """

    prefix: Any  # a Prefix of text, or a FramePrefix of whole frames
    tokens: int
    draws: Tensor | None = None
    camera: tuple[Tensor, Tensor] | None = None


def fingerprint(model: Backbone | FrameModel) -> str:
    """A hash of a model's config and weights."""
    found = hashlib.sha256(json.dumps(asdict(model.config)).encode())
    for name, weight in model.state_dict().items():
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        found.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def save_state_file(saved: SavedState, model: Backbone | FrameModel, path: str | Path) -> None:
    """Write a file that `load_state_file` loads."""
    plain = {
        "model": fingerprint(model),
        "heard": to_plain(saved.prefix),
        "tokens": saved.tokens,
        "draws": saved.draws,
        "camera": to_plain(saved.camera),
    }
    save_torch_file({"tttvideo_memory": plain}, path)


def load_state_file(path: str | Path, model: Backbone | FrameModel) -> SavedState:
    """Load the state that this model left.

    Raises ValueError, in one line, for any other file.
    """
    device = model.embedding.weight.device

    def build(content: dict[str, Any]) -> tuple[str, SavedState]:
        plain = content["tttvideo_memory"]
        prefix = from_plain(plain["heard"], device)
        camera = from_plain(plain["camera"])
        return plain["model"], SavedState(prefix, plain["tokens"], plain["draws"], camera)

    source = "`--save-state`, or not a whole one; save it again"
    left_by, saved = load_torch_file(path, "saved state", source, build)
    if left_by != fingerprint(model):
        raise ValueError(
            f"{path} is the state of another model; load it with the checkpoint that saved it"
        )
    return saved
