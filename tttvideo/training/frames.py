"""Training of frame tokenizers on single frames."""

from typing import Any

from torch import Tensor

from tttvideo.measures.video import psnr
from tttvideo.video.frame_tokenizer import FrameTokenizer, FrameTokenizerConfig
from tttvideo.weights.checkpoints import frame_tokenizer_about

from .outer_loop import OptimConfig, OuterLoop


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
        checkpoint["tttvideo"] = frame_tokenizer_about(self.tokenizer.config)

    def training_step(self, frames: Tensor, batch_idx: int) -> Tensor:
        pixels, _ = self.tokenizer(frames)
        difference = pixels - frames / 255
        loss = difference.abs().mean() + difference.square().mean()
        self.log("train_loss", loss)
        self.log("train_psnr", psnr(pixels.detach(), frames / 255).mean(), prog_bar=True)
        self.log_rate(len(frames), "frames_per_s")
        return loss

    def validation_step(self, frames: Tensor, batch_idx: int, name: str = "val") -> None:
        pixels, _ = self.tokenizer(frames)
        options: Any = {"batch_size": len(frames), "sync_dist": True, "prog_bar": True}
        self.log(f"{name}_psnr", psnr(pixels.clamp(0, 1), frames / 255).mean(), **options)

    def test_step(self, frames: Tensor, batch_idx: int) -> None:
        self.validation_step(frames, batch_idx, "test")
