"""Training of frame tokenizers on single frames."""

import math
from typing import Any

import torch
from torch import Tensor

from tttvideo.measures.video import psnr
from tttvideo.video.frame_tokenizer import FrameTokenizer, FrameTokenizerConfig
from tttvideo.weights.checkpoints import frame_tokenizer_about

from .outer_loop import OptimConfig, OuterLoop


FLOOR = 1e-4  # of the squared error, so that frames that are good already do not rule the others


class FrameTokenizerModel(OuterLoop):
    """Learn to reconstruct frames from their tokens.

    Arguments:
        tokenizer: the autoencoder.
        optim: the outer loop's optimizer.
    """

    measure, higher_is_better = "val_psnr", True

    def __init__(
        self,
        tokenizer: FrameTokenizerConfig,
        optim: OptimConfig = OptimConfig(),  # noqa: B008 - jsonargparse copies it
    ):
        super().__init__(optim)
        self.tokenizer = FrameTokenizer(tokenizer)

    def setup(self, stage: str) -> None:
        own, given = self.tokenizer.config.size, getattr(self.data, "size", None)
        if given is None:
            raise ValueError("a FrameTokenizerModel learns from frames: set data to a FrameData")
        if own != given:
            raise ValueError(
                f"model.tokenizer.size is {own} and data.size {given}; set both to the same value"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["tttvideo"] = frame_tokenizer_about(self.tokenizer.config)

    def training_step(self, frames: Tensor, batch_idx: int) -> Tensor:
        """The logarithm of each frame's squared error is its PSNR, but for a factor."""
        pixels, _ = self.tokenizer(frames)
        error = (pixels - frames / 255).square().mean((1, 2, 3))
        loss = (error + FLOOR).log().mean() / 10
        self.log("train_loss", loss)
        self.log("train_psnr", psnr(pixels.detach(), frames / 255).mean(), prog_bar=True)
        self.log_rate(len(frames) * self.trainer.world_size, "frames_per_s")
        return loss

    def on_validation_start(self) -> None:
        vocabulary = self.tokenizer.config.vocab_size
        self.counts = torch.zeros(vocabulary, dtype=torch.long, device=self.device)
        self.differ: list[Tensor] = []

    on_test_start = on_validation_start

    def validation_step(self, frames: Tensor, batch_idx: int, name: str = "val") -> None:
        pixels, tokens = self.tokenizer(frames)
        options: Any = {"batch_size": len(frames), "sync_dist": True, "prog_bar": True}
        self.log(f"{name}_psnr", psnr(pixels.clamp(0, 1), frames / 255).mean(), **options)
        self.counts += tokens.flatten().bincount(minlength=len(self.counts))
        self.differ.append((tokens[1:] != tokens[:-1]).float().flatten())

    def on_validation_epoch_end(self, name: str = "val") -> None:
        """Log the codes in use, the bits of a frame's tokens by their frequencies alone, and the
        share of tokens that differ from frame to frame, also where one clip follows another.
        """
        share = self.counts[self.counts > 0] / self.counts.sum()
        bits = -(share * share.log2()).sum() * math.prod(self.tokenizer.config.grid)
        self.log(f"{name}_codes", float((self.counts > 0).sum()), sync_dist=True)
        self.log(f"{name}_token_bits_per_frame", bits, sync_dist=True)
        if len(differ := torch.cat(self.differ)):
            self.log(f"{name}_tokens_differ", differ.mean(), sync_dist=True)

    def test_step(self, frames: Tensor, batch_idx: int) -> None:
        self.validation_step(frames, batch_idx, "test")

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end("test")
