"""Training of the frame model on videos, whose lanes carry their states.

B batch, F frames, P tokens per frame, C width.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tttvideo.states import stack, tree_map, unstack
from tttvideo.video.conditions import Conditions
from tttvideo.video.frame_model import FrameModel, FrameModelConfig, FrameModelState
from tttvideo.video.shared_digits import share_digits
from tttvideo.weights.video_checkpoints import VideoCheckpoint, video_description

from .lanes import Lanes, by_structure, noisy, weigh
from .outer_loop import OptimConfig, OuterLoop, checkpointed
from .tokens import TokenHeader, matching_frame_tokenizer, set_inner_lr


class VideoModel(OuterLoop):
    """Predict the next frame of videos, with a memory of all frames before it.

    Arguments:
        frame_model: the model; vocabulary, grid, kinds of actions and periods of poses come from
            the data.
        header: facts of the token file; `fit` takes it from the data.
        frame_tokenizer: checkpoint of the frame tokenizer that made the tokens; checkpoints of this
            model keep it, so that they can show frames.
        optim: the outer loop's optimizer.
        noise: the largest share of the tokens of a window that are replaced when they are read, by
            random ones or by those of the frame before, so that the model's own mistakes do not
            lead it astray; each window draws its own share.
        activation_checkpointing: keep the input of each block alone, and compute the block again in
            the backward pass: a third of the memory for 40 % more time, and the same gradients.
    """

    def __init__(
        self,
        frame_model: FrameModelConfig,
        header: Any,  # a TokenHeader; jsonargparse cannot check a Protocol without methods
        frame_tokenizer: str | None = None,
        optim: OptimConfig = OptimConfig(),  # noqa: B008 - jsonargparse copies it
        noise: float = 0.0,
        activation_checkpointing: bool = False,
    ):
        super().__init__(optim)
        if header is None or header.kind != "video":
            raise ValueError("a VideoModel learns from tokens of video: use a TokenData of video")
        if not 0 <= noise < 1:
            raise ValueError(f"model.noise is {noise}; it must be from 0 to below 1")
        self.header: TokenHeader = header
        self.noise, self.activation_checkpointing = noise, activation_checkpointing
        self.frame_model = FrameModel(fitted(frame_model, header))
        self.frame_tokenizer = matching_frame_tokenizer(frame_tokenizer, header)
        share_digits(self.frame_model.tables(), self.frame_tokenizer.levels)
        self.lanes = Lanes(self.frame_model)
        self.trained = {"frames": 0, "window": 0, "steps": 0}

    def on_fit_start(self) -> None:
        self.lanes.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        facts = self.header.tokenizer, self.header.fps, self.frame_tokenizer, dict(self.trained)
        checkpoint["tttvideo"] = video_description(VideoCheckpoint(self.frame_model, *facts))
        checkpoint["lane_states"] = self.lanes.to_plain()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.trained = self.lanes.load(checkpoint, self.trainer)
        if "first_mixer" not in checkpoint["tttvideo"]["frame_model"]:
            raise ValueError(
                "the checkpoint is of a frame model with other norms; start a new run with another "
                "--out"
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        set_inner_lr(self.frame_model, self.inner_lr(self.frame_model.config.ttt.inner))

    def on_validation_start(self) -> None:
        set_inner_lr(self.frame_model, 1.0)

    on_test_start = on_validation_start

    def read(
        self, frames: Tensor, conditions: Conditions, states: Sequence[FrameModelState] | None
    ) -> tuple[Tensor, list[FrameModelState]]:
        """Vectors (B, F, P, C) after frames (B, F, P), and the state after each row.

        states: one of batch 1 for each row; None: fresh ones.
        """
        if states is None:
            states = unstack(self.frame_model.init_state(len(frames)), len(frames))
        checkpoints = self.activation_checkpointing and torch.is_grad_enabled()
        blocks = checkpointed(self.frame_model.blocks) if checkpoints else None
        vectors, after = list[Any](frames), list(states)
        for rows in by_structure(states):
            index = torch.tensor(rows, device=frames.device)
            known = tree_map(lambda x, index=index: x[index], conditions)
            start = stack([states[row] for row in rows])
            found, state = self.frame_model(frames[index], start, known, blocks)
            for row, *own in zip(rows, found, unstack(state, len(rows)), strict=True):
                vectors[row], after[row] = own
        return torch.stack(vectors), after

    def loss(self, vectors: Tensor, frames: Tensor, last: Tensor) -> Tensor:
        """Mean of -log p over the tokens of the frames (B, F, P) after `last`, in nats."""
        parts = vectors.flatten(0, 1), frames.flatten(0, 1), last.flatten(0, 1)
        return F.cross_entropy(self.frame_model.head(*parts).flatten(0, 1), frames.flatten())

    def split(self, batch: Any) -> tuple[Tensor, Tensor, Conditions]:
        """Frames (B, F, P) that are read, the next of each, and what is known of those read."""
        frames = batch.tokens.unflatten(1, (-1, math.prod(self.frame_model.config.grid)))
        return frames[:, :-1], frames[:, 1:], conditions_of(batch)

    def mistakes(self, frames: Tensor) -> Tensor:
        """Frames (B, F, P) of tokens that are half random and half a frame late, each alone.

        An early token would be the one to predict.
        """
        random = torch.randint_like(frames, self.frame_model.config.vocab_size)
        late = torch.cat((frames[:, :1], frames[:, :-1]), dim=1)
        return random.where(torch.rand(frames.shape, device=frames.device) < 0.5, late)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        states = None if batch.fresh is None else self.lanes.start(batch.fresh)
        frames, targets, conditions = self.split(batch)
        frames = noisy(frames, self.noise, self.mistakes)
        vectors, after = self.read(frames, conditions, states)
        loss = self.loss(vectors, targets, frames)
        if batch.fresh is not None:
            self.lanes.carry(after)
        self.log("train_loss", loss)
        bits = loss.detach() * targets.shape[2] / math.log(2)
        self.log("train_bits_per_frame", bits, prog_bar=True)
        weight, rows = weigh(batch, self.trainer.world_size)
        self.trained["frames"] += rows * targets.shape[1]
        self.trained |= {"window": targets.shape[1], "steps": self.global_step + 1}
        self.log_rate(rows * targets.shape[1], "frames_per_s")
        return loss * weight

    def validation_step(self, batch: Any, batch_idx: int, name: str = "val") -> None:
        frames, targets, conditions = self.split(batch)
        vectors, _ = self.read(frames, conditions, None)
        loss = self.loss(vectors, targets, frames)
        options: Any = {"batch_size": len(frames), "sync_dist": True}
        self.log(f"{name}_loss", loss, **options)
        bits = loss * targets.shape[2] / math.log(2)
        self.log(f"{name}_bits_per_frame", bits, prog_bar=True, **options)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx, "test")


def conditions_of(batch: Any) -> Conditions:
    """What is known of the frames of a batch of windows."""
    names = ("actions", "poses", "classes", "seconds")
    return Conditions(**{name: getattr(batch.conditions, name, None) for name in names})


def check_known(config: FrameModelConfig, header: Any) -> None:
    """Raise ValueError for what the model reads of a frame and the token file does not hold."""
    poses, known = config.address.poses, config.conditions
    needs = [
        ("address.poses", poses, "none", "actions" if poses == "moves" else "poses"),
        ("conditions.actions", known.actions or 0, 0, "actions"),
        ("conditions.action_size", known.action_size, 0, "actions"),
        ("conditions.classes", known.classes, 0, "classes"),
        ("conditions.seconds", known.seconds, False, "seconds"),
    ]
    for key, value, nothing, array in needs:
        if value != nothing and array not in header.conditions:
            raise ValueError(
                f"{key} is {value}, and the token file has no {array}: set it to {nothing}, or "
                f"prepare the videos with their {array}".lower()
            )


def fitted(config: FrameModelConfig, header: Any) -> FrameModelConfig:
    """The config with the facts of a token file."""
    check_known(config, header)
    periods = config.address.periods
    if config.address.poses == "shift":
        periods = getattr(header, "pose_periods", None) or periods
    kinds = getattr(header, "action_kinds", None)
    known = config.conditions
    return replace(
        config,
        vocab_size=header.vocab_size,
        grid=header.grid,
        address=replace(config.address, periods=periods),
        conditions=replace(known, actions=0 if known.actions == 0 else kinds or known.actions or 0),
    )
