"""Training of models of tokens, text or video.

The vocabulary and the frame grid come from the header of the token file, so that a config cannot
contradict the data.

B batch, T tokens, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any, Protocol, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tttvideo.backbone import AnyState, Backbone, BackboneConfig, BackboneState
from tttvideo.kernels import Packed
from tttvideo.measures.flops import training_flops
from tttvideo.mixers.mixer import Grid
from tttvideo.mixers.registry import CONFIGS
from tttvideo.mixers.ttt import TTTLayer
from tttvideo.states import same_structure, stack, unstack
from tttvideo.video.frame_codec import FrameCodec
from tttvideo.weights.checkpoints import (
    TokenCheckpoint,
    description,
    load_frame_tokenizer,
    load_tokens_model,
)

from .lanes import Lanes, weigh
from .outer_loop import OptimConfig, OuterLoop, checkpointed


class TokenHeader(Protocol):
    """The header of a token file, as data.tokens.Header has it."""

    kind: str
    tokenizer: str
    vocab_size: int
    grid: Grid | None
    frame: int
    fps: float | None
    bos: int | None
    eos: int | None


class Amount(TypedDict):
    tokens: int
    flops: float


class Trained(Amount):
    """The record of training in a checkpoint; `before` is the share that `start_from` brought."""

    window: int
    steps: int
    before: Amount


class TokenModel(OuterLoop):
    """Predict the next token, of text or of video.

    Arguments:
        backbone: the model; vocab_size and grid come from the data.
        header: facts of the token file; `fit` takes it from the data.
        optim: the outer loop's optimizer.
        frame_tokenizer: checkpoint of the frame tokenizer that made a video's tokens; checkpoints
            of this model keep it, so that they can show frames.
        start_from: checkpoint whose weights training starts with, for instance to train at a longer
            context; the schedule starts anew.
        activation_checkpointing: keep the input of each block alone, and compute the block again in
            the backward pass: a third of the memory for 40 % more time, and the same gradients.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        header: Any,  # a TokenHeader; jsonargparse cannot check a Protocol without methods
        optim: OptimConfig = OptimConfig(),  # noqa: B008 - jsonargparse copies it
        frame_tokenizer: str | None = None,
        start_from: str | None = None,
        activation_checkpointing: bool = False,
    ):
        super().__init__(optim)
        if header is None:
            raise ValueError("a TokenModel learns from tokens: use the data of a TokenData")
        self.header: TokenHeader = header
        self.start_from, self.activation_checkpointing = start_from, activation_checkpointing
        config = replace(backbone, vocab_size=header.vocab_size, grid=header.grid)
        self.backbone = Backbone(config)
        self.frame_tokenizer: FrameCodec | None = None
        if header.kind == "video":
            self.frame_tokenizer = matching_frame_tokenizer(frame_tokenizer, header)
            if not start_from:
                tables = [self.backbone.embedding.weight]
                if self.backbone.window:
                    tables.append(self.backbone.window.embedding.weight)
                embed_codes(tables, self.frame_tokenizer)
        self.resumed = False
        self.lanes = Lanes(self.backbone)
        before = Amount(tokens=0, flops=0.0)
        self.trained = Trained(**before, window=0, steps=0, before=before)

    def on_fit_start(self) -> None:
        """With the model on its device, after a checkpoint, if there is one, was loaded."""
        if self.start_from and not self.resumed:
            self.load_start(self.start_from)
        self.lanes.to(self.device)
        data, config = self.data, self.backbone.config
        endless = config.mixer == "attention" and config.attention.window is None
        if data.lanes and endless and data.share_fresh == 0:
            raise ValueError(
                "with data.share_fresh 0 attention's lanes remember the whole corpus; set "
                "attention.window, or a share_fresh above 0"
            )

    def load_start(self, path: str) -> None:
        """Load the weights and the record of training of a checkpoint."""
        start = load_tokens_model(path)
        here = {**functional(self.backbone.config), "tokenizer": self.header.tokenizer}
        there = {**functional(start.backbone.config), "tokenizer": start.tokenizer}
        for name in here:
            if name not in there or here[name] != there[name]:
                raise ValueError(
                    f"model.start_from {path} has {name} {there.get(name)}, and this model "
                    f"{here[name]}; set the same value in its config"
                )
        self.backbone.load_state_dict(start.backbone.state_dict())
        if start.trained:
            done: Any = start.trained
            before = Amount(tokens=done["tokens"], flops=done["flops"])
            self.trained = done | {"before": before}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        header, json = self.header, self.data.tokenizer_json
        facts = header.tokenizer, json, header.bos, header.eos, header.fps
        model = TokenCheckpoint(self.backbone, *facts, self.frame_tokenizer, dict(self.trained))
        checkpoint["tttvideo"] = description(model)
        checkpoint["lane_states"] = self.lanes.to_plain()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        trained: Any = self.lanes.load(checkpoint, self.trainer)
        self.trained, self.resumed = trained, True

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        set_inner_lr(self.backbone, self.inner_lr(self.backbone.config.ttt.inner))

    def on_validation_start(self) -> None:
        set_inner_lr(self.backbone, 1.0)

    on_test_start = on_validation_start

    def read(
        self, tokens: Tensor, begins: Tensor | None, states: Sequence[BackboneState] | None
    ) -> tuple[Tensor, list[BackboneState]]:
        """Logits (B, T, V) of tokens (B, T), and the state after each row.

        begins: (B, T), true where a document begins with a fresh state; None: nowhere.
        states: one of batch 1 for each row; None: fresh ones.
        """
        if begins is None and (states is None or same_structure(states)):
            start = self.backbone.init_state(len(tokens)) if states is None else stack(states)
            logits, state = self.logits(tokens, start)
            return logits, unstack(state, len(tokens))
        fresh = self.backbone.init_state(1)
        states = states or [fresh] * len(tokens)
        packed: list[BackboneState] = []
        lengths: list[int] = []
        last = []
        for row, before in enumerate(states):
            inside = [] if begins is None else begins[row].nonzero()[:, 0].tolist()
            packed += [before] * (0 not in inside) + [fresh] * len(inside)
            borders = sorted({0, *inside, tokens.shape[1]})
            lengths += [end - begin for begin, end in pairwise(borders)]
            last.append(len(packed) - 1)
        logits, after = self.logits(tokens.reshape(1, -1), Packed(tuple(packed), tuple(lengths)))
        return logits.view(*tokens.shape, -1), [after.states[place] for place in last]

    def logits(self, tokens: Tensor, state: AnyState) -> tuple[Tensor, AnyState]:
        """As the backbone, with checkpoints of activations if they are wanted."""
        blocks = self.backbone.blocks
        checkpoints = self.activation_checkpointing and torch.is_grad_enabled()
        hidden, after = self.backbone.features(
            tokens, state, checkpointed(blocks) if checkpoints else blocks
        )
        return self.backbone.head(hidden), after

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean of -log p over the targets (B, T), in nats, excluding BOS, as in the paper."""
        ignored = -100 if self.header.bos is None else self.header.bos
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=ignored)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        states = None if batch.fresh is None else self.lanes.start(batch.fresh)
        tokens, targets = self.split(batch.tokens)
        logits, after = self.read(tokens, batch.begins, states)
        loss = self.loss(logits, targets)
        if batch.fresh is not None:
            self.lanes.carry(after)
        self.log("train_loss", loss)
        self.log("train_bits", loss.detach() / math.log(2), prog_bar=True)
        weight, rows = weigh(batch, self.trainer.world_size)
        self.record(rows, targets.shape[1])
        return loss * weight

    def split(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens (B, T) of a window that are read, and those, a token later, to predict.

        A window of video, (B, T + P), holds the whole frame after those that are read.
        """
        T = window.shape[1] - (math.prod(self.header.grid) if self.header.grid else 1)
        return window[:, :T], window[:, 1 : T + 1]

    def record(self, rows: int, T: int) -> None:
        """Add T targets of each row of every process to the record of training.

        FLOPs are those of windows of T tokens from an empty state, also with lanes.
        """
        tokens = rows * T
        self.trained["tokens"] += tokens
        self.trained["flops"] += training_flops(self.backbone.config, tokens, T)
        self.trained["window"], self.trained["steps"] = T, self.global_step + 1
        self.log_rate(tokens, "tokens_per_s")

    def validation_step(self, batch: Any, batch_idx: int, name: str = "val") -> None:
        tokens, targets = self.split(batch.tokens)
        logits, _ = self.read(tokens, batch.begins, None)
        loss = self.loss(logits, targets)
        bits = loss / math.log(2)
        options: Any = {"batch_size": len(batch.tokens), "sync_dist": True}
        self.log(f"{name}_loss", loss, **options)
        self.log(f"{name}_bits", bits, prog_bar=True, **options)
        if self.header.grid:
            self.log(f"{name}_bits_per_frame", bits * math.prod(self.header.grid), **options)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx, "test")


@torch.no_grad()
def embed_codes(tables: Sequence[Tensor], tokenizer: FrameCodec) -> None:
    """Change tables of embeddings so that tokens of near codes, with similar pixels, are near."""
    codes = tokenizer.codes()
    features = torch.cat((codes, codes.square() - codes.square().mean(0)), dim=1)
    for table in tables:
        spread = torch.randn(features.shape[1], table.shape[1], device=features.device)
        table[: len(codes)] += features @ spread * table.std()


def set_inner_lr(model: nn.Module, factor: float) -> None:
    for module in model.modules():
        if isinstance(module, TTTLayer):
            module.lr_factor = factor


def matching_frame_tokenizer(path: str | None, header: TokenHeader) -> FrameCodec:
    """The frozen frame tokenizer that made the tokens; ValueError for any other."""
    if path is None:
        raise ValueError("these tokens are video: set model.frame_tokenizer to the checkpoint")
    tokenizer = load_frame_tokenizer(path).requires_grad_(False)
    if tokenizer.fingerprint() != header.tokenizer:
        raise ValueError(
            f"the tokens were made by frame tokenizer {header.tokenizer}, and {path} is "
            f"{tokenizer.fingerprint()}: prepare the video again with it"
        )
    return tokenizer


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
