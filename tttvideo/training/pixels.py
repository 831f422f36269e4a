"""Training of the ConvLSTM on clips of true pixels: read some frames, predict the rest."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tttvideo.measures.video import frame_errors, psnr
from tttvideo.video.conv_lstm import ConvLSTM, ConvLSTMConfig
from tttvideo.weights.video_checkpoints import PixelCheckpoint, pixel_description

from .outer_loop import OptimConfig, OuterLoop


class PixelModel(OuterLoop):
    """Predict the pixels of the next frame, and of those after it from the model's own frames.

    Arguments:
        conv_lstm: the model.
        optim: the outer loop's optimizer.
        context: true frames of a clip that are read; after them it reads its own predictions, as
            when it continues a video.
    """

    measure, higher_is_better = "val_ssim", True

    def __init__(
        self,
        conv_lstm: ConvLSTMConfig,
        optim: OptimConfig = OptimConfig(),  # noqa: B008 - jsonargparse copies it
        context: int = 10,
    ):
        super().__init__(optim)
        if context < 1:
            raise ValueError(f"model.context is {context}; it must be 1 or more")
        self.conv_lstm, self.context = ConvLSTM(conv_lstm), context
        self.trained = {"frames": 0, "window": 0, "steps": 0}

    def setup(self, stage: str) -> None:
        clips, size = getattr(self.data, "clips", None), self.conv_lstm.config.size
        if clips is None:
            raise ValueError("a PixelModel learns from clips of pixels: set data to a ClipData")
        if self.data.size != size:
            raise ValueError(
                f"model.conv_lstm.size is {size} and data.size {self.data.size}; set both to the "
                "same value"
            )
        if self.context >= self.data.frames:
            raise ValueError(
                f"model.context is {self.context}; it must be below data.frames, {self.data.frames}"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        model = PixelCheckpoint(self.conv_lstm, dict(self.trained))
        checkpoint["tttvideo"] = pixel_description(model)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.trained = dict(checkpoint["tttvideo"]["trained"])

    def predict(self, frames: Tensor) -> Tensor:
        """All frames (B, F - 1, S, S, 3) of clips after the first, those after `context` from the
        model's own.
        """
        return self.conv_lstm.roll_out(frames[:, : self.context], frames.shape[1] - self.context)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The sum of both errors: the squared one alone blurs, the absolute one alone learns to
        leave small objects out.
        """
        predicted, truth = self.predict(batch.frames), batch.frames[:, 1:] / 255
        loss = F.l1_loss(predicted, truth) + 10 * F.mse_loss(predicted, truth)
        self.log("train_loss", loss)
        ahead = predicted[:, self.context - 1 :].detach().flatten(0, 1)
        true = truth[:, self.context - 1 :].flatten(0, 1)
        self.log("train_psnr", psnr(ahead, true).mean(), prog_bar=True)
        frames = truth.shape[0] * truth.shape[1] * self.trainer.world_size
        self.trained["frames"] += frames
        self.trained |= {"window": truth.shape[1], "steps": self.global_step + 1}
        self.log_rate(frames, "frames_per_s")
        return loss

    def validation_step(self, batch: Any, batch_idx: int, name: str = "val") -> None:
        """Log PSNR and SSIM of the frames after the context."""
        ahead = self.predict(batch.frames)[:, self.context - 1 :].clamp(0, 1)
        frames = (255 * ahead).round().to(batch.frames.dtype)
        found = frame_errors(frames.flatten(0, 1), batch.frames[:, self.context :].flatten(0, 1))
        options: Any = {"batch_size": len(batch.frames), "sync_dist": True, "prog_bar": True}
        for measure in ("psnr", "ssim"):
            self.log(f"{name}_{measure}", found[measure].mean(), **options)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx, "test")
