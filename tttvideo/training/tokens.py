"""The outer loop: a LightningModule for models of tokens, text or video, and one for frames.

The model's vocabulary and frame grid come from the data module's token file, so that they cannot
disagree with it.
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from tttvideo.backbone import Backbone, BackboneConfig, BackboneState
from tttvideo.kernels import Packed
from tttvideo.measures.flops import training_flops
from tttvideo.mixers.registry import CONFIGS
from tttvideo.mixers.ttt import TTTLayer
from tttvideo.states import from_plain, same_structure, stack, to_plain, tree_map, unstack
from tttvideo.video.frame_tokenizer import FrameTokenizer, FrameTokenizerConfig
from tttvideo.weights.checkpoints import load_frame_tokenizer, load_tokens_model


@dataclass
class OptimConfig:
    lr: float = 3e-3
    """Peak learning rate of AdamW."""
    final_lr: float = 1e-5
    """Learning rate at the last step, reached along a cosine."""
    warmup: float = 0.1
    """Share of all steps in which the learning rate rises linearly from 0."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates."""
    weight_decay: float = 0.1
    """On every parameter, norms and inner initial weights included, as in the paper."""
    inner_lr_start: float | None = None
    """Factor on the inner learning rate at step 0, rising to 1 with the warm-up; null: 0.1 for
    TTT-MLP, which needs it, and 1 for TTT-Linear."""


class OuterLoop(LightningModule):
    """AdamW, linear warm-up, cosine, and the speed in the progress bar."""

    def __init__(self, optim: OptimConfig):
        super().__init__()
        self.optim = optim

    def configure_optimizers(self) -> dict[str, Any]:
        if not self.optim.lr > 0:
            raise ValueError(f"optim.lr is {self.optim.lr}; it must be above 0")
        total = self.trainer.estimated_stepping_batches
        if not math.isfinite(total):
            raise ValueError("the cosine needs an end: set trainer.max_steps or trainer.max_epochs")
        self.warmup_steps = max(1, round(self.optim.warmup * total))
        floor = self.optim.final_lr / self.optim.lr

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / self.warmup_steps
            done = (step - self.warmup_steps) / max(1, total - self.warmup_steps)
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, self.optim.lr, self.optim.betas, weight_decay=self.optim.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        done, most = checkpoint["global_step"], self.trainer.max_steps
        if self.trainer.state.fn == TrainerFn.FITTING and 0 <= most < done:
            raise ValueError(
                f"the run in --out has {done} steps behind it, and trainer.max_steps is {most}; "
                "choose another --out"
            )

    def on_train_start(self) -> None:
        self.clock, self.units = time.monotonic(), 0

    def count(self, units: int, name: str) -> None:
        """Show units per second, over spans of at least half a second."""
        self.units += units
        seconds = time.monotonic() - self.clock
        if seconds >= 0.5:
            rate = self.units / seconds * self.trainer.world_size
            self.log(name, rate, prog_bar=True, on_step=True)
            self.clock, self.units = time.monotonic(), 0

    def on_validation_end(self) -> None:
        self.clock, self.units = time.monotonic(), 0  # validation is no training time


class TokenModel(OuterLoop):
    """Predict the next token, of text or of video.

    Arguments:
        backbone: the model; vocab_size and grid come from the data.
        optim: the outer loop's optimiser.
        frame_tokenizer: checkpoint of the frame tokenizer that made a video's tokens; it is kept in
            this model's checkpoints, so that they can show what they predict.
        start_from: checkpoint whose weights training begins with, for instance to go on at a longer
            context; the schedule begins anew.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        optim: OptimConfig = OptimConfig(),  # noqa: B008 - jsonargparse copies it
        frame_tokenizer: str | None = None,
        start_from: str | None = None,
    ):
        super().__init__(optim)
        self.config, self.frame_tokenizer_path = backbone, frame_tokenizer
        self.start_from = start_from
        self.backbone: Backbone | None = None
        self.frame_tokenizer: FrameTokenizer | None = None
        self.resumed = False
        self.carried: list[BackboneState] = []  # by lane, what `Backbone.detach_carry` gave
        self.trained = {"tokens": 0, "flops": 0.0, "window": 0, "steps": 0}
        self.trained["before"] = {"tokens": 0, "flops": 0.0}  # brought along by `start_from`

    def configure_model(self) -> None:
        if self.backbone is not None:
            return
        self.header = header = self.trainer.datamodule.header
        self.backbone = Backbone(
            replace(self.config, vocab_size=header.vocab_size, grid=header.grid)
        )
        if header.kind == "text":
            return
        if self.frame_tokenizer_path is None:
            raise ValueError("these tokens are video: set model.frame_tokenizer to the checkpoint")
        self.frame_tokenizer = load_frame_tokenizer(self.frame_tokenizer_path).requires_grad_(False)
        fingerprint = self.frame_tokenizer.fingerprint()
        if fingerprint != header.tokenizer:
            raise ValueError(
                f"the tokens were made by frame tokenizer {header.tokenizer}, and "
                f"{self.frame_tokenizer_path} is {fingerprint}: prepare the video again with it"
            )
        if not self.start_from:
            self.embed_alike()

    def on_fit_start(self) -> None:
        """Once the model is on its device, and a checkpoint, if there is one, was read."""
        if self.start_from and not self.resumed:
            self.begin_with(self.start_from)
        self.carried = [tree_map(lambda x: x.to(self.device), one) for one in self.carried]
        data, config = self.trainer.datamodule, self.backbone.config
        if data.lanes and self.trainer.world_size > 1:
            raise ValueError(
                f"data.lanes is for one process, and there are {self.trainer.world_size}; set "
                "trainer.devices to 1"
            )
        endless = config.mixer == "attention" and config.attention.window is None
        if data.lanes and endless and data.share_fresh == 0:
            raise ValueError(
                "with data.share_fresh 0 attention's lanes remember the whole corpus; set "
                "attention.window, or a share_fresh above 0"
            )

    def begin_with(self, path: str) -> None:
        """Take the weights and the record of training of a checkpoint."""
        other = load_tokens_model(path)
        ours = {**functional(self.backbone.config), "tokenizer": self.header.tokenizer}
        theirs = {**functional(other.backbone.config), "tokenizer": other.tokenizer}
        for name in ours:
            if name not in theirs or ours[name] != theirs[name]:
                raise ValueError(
                    f"model.start_from {path} has {name} {theirs.get(name)}, and this model "
                    f"{ours[name]}; say the same in its config"
                )
        self.backbone.load_state_dict(other.backbone.state_dict())
        if other.trained:
            self.trained = dict(other.trained)
            self.trained["before"] = {name: other.trained[name] for name in ("tokens", "flops")}

    @torch.no_grad()
    def embed_alike(self) -> None:
        """Begin with embeddings in which tokens of near codes look alike, as their pixels do."""
        fsq = self.frame_tokenizer.fsq
        codes = fsq.to_codes(torch.arange(self.header.vocab_size, device=fsq.counts.device))
        features = torch.cat((codes, codes.square() - codes.square().mean(0)), dim=1)
        tables = [self.backbone.embedding.weight]
        if self.backbone.window:
            tables.append(self.backbone.window.embedding.weight[: len(codes)])
        for table in tables:
            spread = torch.randn(features.shape[1], table.shape[1], device=features.device)
            table += features @ spread * table.std()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["tttvideo"] = {
            "model": "tokens",
            "backbone": asdict(self.backbone.config),
            "tokenizer": self.header.tokenizer,
            "tokenizer_json": self.trainer.datamodule.tokenizer_json,
            "bos": self.header.bos,
            "eos": self.header.eos,
            "fps": self.header.fps,
            "frame_tokenizer": self.frame_tokenizer and asdict(self.frame_tokenizer.config),
            "trained": dict(self.trained),
        }
        checkpoint["lanes"] = [to_plain(state) for state in self.carried]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        try:
            self.carried = [from_plain(state) for state in checkpoint["lanes"]]
            self.trained = dict(checkpoint["tttvideo"]["trained"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the checkpoint was written by another version, without {error}; start a new run "
                "with another --out"
            ) from error
        self.resumed = True

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        inner = self.config.ttt.inner
        start = self.optim.inner_lr_start
        start = (0.1 if inner == "mlp" else 1.0) if start is None else start
        rise = min(1.0, self.global_step / self.warmup_steps)
        self.set_inner_lr(start + (1 - start) * rise)

    def on_validation_start(self) -> None:
        self.set_inner_lr(1.0)

    on_test_start = on_validation_start

    def set_inner_lr(self, factor: float) -> None:
        for block in self.backbone.blocks:
            if isinstance(block.mixer, TTTLayer):
                block.mixer.lr_factor = factor

    def read(
        self, tokens: Tensor, begins: Tensor | None, states: list[BackboneState] | None
    ) -> tuple[Tensor, list[BackboneState]]:
        """Logits (B, T, V) of tokens (B, T), and the state after each row.

        states: one of each row; None for fresh ones. begins: (B, T) where a document begins, there
        the state is fresh too.
        """
        if begins is None and (states is None or same_structure(states)):
            logits, state = self.backbone(tokens, states and stack(states))
            return logits, unstack(state, len(tokens))
        states = states or [self.backbone.init_state(1)] * len(tokens)
        packed: list[BackboneState] = []
        lengths: list[int] = []
        last = []
        for row, state in enumerate(states):
            inside = [] if begins is None else begins[row].nonzero()[:, 0].tolist()
            packed += [state] * (0 not in inside) + [self.backbone.init_state(1)] * len(inside)
            borders = sorted({0, *inside, tokens.shape[1]})
            lengths += [end - begin for begin, end in pairwise(borders)]
            last.append(len(packed) - 1)
        start = Packed(tuple(packed), tuple(lengths))
        logits, after = self.backbone(tokens.reshape(1, -1), start)
        return logits.view(*tokens.shape, -1), [after.states[place] for place in last]

    def lane_states(self, fresh: Tensor) -> list[BackboneState]:
        """What each lane goes on from: what it carried, or the learned start."""
        start = self.backbone.init_state(1)
        carried = self.carried or [start] * len(fresh)
        lanes = zip(fresh.tolist(), carried, strict=True)
        return [start if anew else self.backbone.attach_carry(state) for anew, state in lanes]

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over the targets (B, T) of -log p, in nats, but for BOS, as in the paper."""
        ignored = -100 if self.header.bos is None else self.header.bos
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=ignored)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        states = None if batch.fresh is None else self.lane_states(batch.fresh)
        logits, states = self.read(batch.tokens[:, :-1], batch.begins, states)
        loss = self.loss(logits, batch.tokens[:, 1:])
        if batch.fresh is not None:
            self.carried = [self.backbone.detach_carry(state) for state in states]
        self.log("train_loss", loss)
        self.log("train_bits", loss.detach() / math.log(2), prog_bar=True)
        self.record(batch.tokens[:, 1:])
        return loss

    def record(self, targets: Tensor) -> None:
        """Count what was learned from, in all processes; targets (B, T).

        Operations are those of windows of T tokens that begin with nothing, whatever lanes carry.
        """
        tokens, T = targets.numel() * self.trainer.world_size, targets.shape[1]
        self.trained["tokens"] += tokens
        self.trained["flops"] += training_flops(self.backbone.config, tokens, T)
        self.trained["window"], self.trained["steps"] = T, self.global_step + 1
        self.count(targets.numel(), "tokens_per_s")

    def validation_step(self, batch: Any, batch_idx: int, name: str = "val") -> None:
        logits, _ = self.read(batch.tokens[:, :-1], batch.begins, None)
        loss = self.loss(logits, batch.tokens[:, 1:])
        bits = loss / math.log(2)
        options = {"batch_size": len(batch.tokens), "sync_dist": True}
        self.log(f"{name}_loss", loss, **options)
        self.log(f"{name}_bits", bits, prog_bar=True, **options)
        if self.header.grid:
            self.log(f"{name}_bits_per_frame", bits * self.header.frame, **options)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx, "test")


def functional(config: BackboneConfig) -> dict[str, Any]:
    """Settings that fix the function of the weights, except those free to differ between runs."""
    entry = config.entry
    shared = {name: x for name, x in asdict(config).items() if name not in CONFIGS}
    own = {
        f"{entry.field}.{name}": value
        for name, value in asdict(config.resolved).items()
        if name not in entry.free
    }
    return shared | own


class FrameTokenizerModel(OuterLoop):
    """Learn to bring frames back from their tokens.

    Arguments:
        tokenizer: the autoencoder.
        optim: the outer loop's optimiser.
    """

    def __init__(
        self,
        tokenizer: FrameTokenizerConfig,
        optim: OptimConfig = OptimConfig(),  # noqa: B008 - jsonargparse copies it
    ):
        super().__init__(optim)
        self.tokenizer = FrameTokenizer(tokenizer)

    def setup(self, stage: str) -> None:
        ours, theirs = self.tokenizer.config.size, self.trainer.datamodule.size
        if ours != theirs:
            raise ValueError(
                f"model.tokenizer.size is {ours} and data.size {theirs}; say both alike"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["tttvideo"] = {
            "model": "frame tokenizer",
            "frame_tokenizer": asdict(self.tokenizer.config),
        }

    def training_step(self, frames: Tensor, batch_idx: int) -> Tensor:
        pixels, _ = self.tokenizer(frames)
        difference = pixels - frames / 255
        loss = difference.abs().mean() + difference.square().mean()
        self.log("train_loss", loss)
        self.log("train_psnr", psnr(difference).mean(), prog_bar=True)
        self.count(len(frames), "frames_per_s")
        return loss

    def validation_step(self, frames: Tensor, batch_idx: int, name: str = "val") -> None:
        pixels, _ = self.tokenizer(frames)
        difference = pixels.clamp(0, 1) - frames / 255
        options = {"batch_size": len(frames), "sync_dist": True, "prog_bar": True}
        self.log(f"{name}_psnr", psnr(difference).mean(), **options)

    def test_step(self, frames: Tensor, batch_idx: int) -> None:
        self.validation_step(frames, batch_idx, "test")


def psnr(difference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each frame, from differences (N, S, S, 3) of [0, 1]."""
    return -10 * difference.detach().square().mean(dim=(1, 2, 3)).clamp_min(1e-10).log10()
