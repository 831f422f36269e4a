"""The console of a training run, on standard error: a first line, a bar, validations, a last line.

Where standard error is no terminal, a plain line every 10 % replaces the bar.
"""

import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tttvideo.kernels.backends import choose_backend
from tttvideo.measures.inner_loss import ttt_layers
from tttvideo.measures.layer_memory import capacity
from tttvideo.measures.names import mixer_name, video_name
from tttvideo.states import state_bytes
from tttvideo.training import FrameTokenizerModel, PixelModel, TokenModel, VideoModel


FIGURES = {
    "train_loss": "loss {:.3f}",
    "train_bits": "bits {:.3f}",
    "train_bits_per_frame": "{:.2f} bits a frame",
    "train_psnr": "{:.1f} dB",
    "tokens_per_s": "{:,.0f} tokens/s",
    "frames_per_s": "{:,.0f} frames/s",
    "data_wait": "data {:.0%}",
}
"""Measured values in the bar, by their names in the log."""


class TrainingConsole(Callback):
    """Print the progress of a run, unless `quiet`; its steps only with `bar`."""

    def __init__(self, checkpoint: Path, bar: bool = True, quiet: bool = False):
        self.checkpoint, self.bar, self.quiet = checkpoint, bar and not quiet, quiet
        self.console = Console(stderr=True, highlight=False)
        self.progress: Progress | None = None
        self.measured, self.start = "", 0.0

    @rank_zero_only
    def print(self, line: str) -> None:
        if not self.quiet:
            self.console.print(line, markup=False, soft_wrap=True)

    def on_train_start(self, trainer: Trainer, model: LightningModule) -> None:
        self.start = self.clock = time.monotonic()
        self.first, self.shown, self.paused = trainer.global_step, trainer.global_step, 0.0
        self.total = trainer.estimated_stepping_batches
        if not trainer.is_global_zero:
            return
        self.print(describe(trainer, model))
        if self.bar and self.console.is_terminal:
            columns = TextColumn("step {task.completed:,}/{task.total:,}"), BarColumn(8)
            figures = TextColumn("{task.fields[figures]}", markup=False)
            self.progress = Progress(*columns, figures, console=self.console, transient=True)
            self.task = self.progress.add_task("", total=self.total, figures="")
            self.progress.start()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        step, now = trainer.global_step, time.monotonic()
        if not self.bar or not trainer.is_global_zero or step == self.shown:
            return
        if self.progress and (now - self.clock >= 0.25 or step == self.total):
            self.clock = now
            self.progress.update(self.task, completed=step, figures=self.figures(trainer))
        if not self.progress and 10 * step // self.total > 10 * self.shown // self.total:
            self.shown = step
            self.print(f"step {step:,}/{self.total:,} {self.figures(trainer)}")

    def figures(self, trainer: Trainer) -> str:
        """The measured values, and the time left at the rate so far."""
        values = trainer.callback_metrics
        shown = [form.format(values[name]) for name, form in FIGURES.items() if name in values]
        spent = time.monotonic() - self.start - self.paused
        rate = spent / (trainer.global_step - self.first)
        return " ".join([*shown, f"{duration(rate * (self.total - trainer.global_step))} left"])

    def on_validation_start(self, *_: Any) -> None:
        self.validation = time.monotonic()

    def on_validation_end(self, trainer: Trainer, model: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.measured = listed(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            self.paused += time.monotonic() - self.validation
            if trainer.is_global_zero:
                self.print(f"step {trainer.global_step:,}: {self.measured}")
        elif trainer.is_global_zero:
            print(self.measured)  # the result of `validate`

    def on_test_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.is_global_zero:
            print(listed(trainer))

    def finish(self, trainer: Trainer) -> None:
        """Print the checkpoint, the values of the last validation and the time of the run."""
        if trainer.is_global_zero:
            spent = duration(time.monotonic() - self.start) if self.start else "already finished"
            parts = [f"{self.checkpoint}: step {trainer.global_step:,}", self.measured, spent]
            self.print("; ".join(filter(None, parts)))

    def on_train_end(self, *_: Any) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = None

    def on_exception(self, *_: Any) -> None:
        self.on_train_end()


def describe(trainer: Trainer, model: LightningModule) -> str:
    """The model and its size, the data, the device, and the backend and the reason for it."""
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    name, data = type(model).__name__, "its own data"
    if isinstance(model, TokenModel):
        name = mixer_name(model.backbone.config)
        data = f"{model.data.train}, {len(model.data.file.tokens):,} tokens"
    elif isinstance(model, VideoModel):
        config, frames = model.frame_model.config, len(model.data.file.tokens) // model.header.frame
        name, data = video_name(config), f"{model.data.train}, {frames:,} frames"
    elif isinstance(model, FrameTokenizerModel):
        name, data = "frame tokenizer", f"{model.data.frames:,} frames"
    elif isinstance(model, PixelModel):
        name, data = "ConvLSTM of pixels", f"{len(model.data.clips):,} clips"
    gpu = model.device.type == "cuda"
    device = torch.cuda.get_device_name(model.device) if gpu else str(model.device)
    if trainer.world_size > 1:
        device = f"{trainer.world_size} x {device}"
    parts = [f"{name}, {short(size)} parameters", data, device, *memory(model)]
    parts += backend(trainer, model)
    return "; ".join(parts)


def short(count: int) -> str:
    """A count with three digits and a unit: 866K, 125M, 1.3B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def memory(model: LightningModule) -> list[str]:
    """The size of one sequence's state, and the room of TTT layers; nothing for other models."""
    layers = ttt_layers(model)
    core = getattr(model, "backbone", getattr(model, "frame_model", None))
    if core is None or not layers:
        return []
    size = state_bytes(core.init_state(1)) / 1000
    return [f"state {size:,.1f} KB, room for {capacity(layers[0]):,} associations a layer"]


def backend(trainer: Trainer, model: LightningModule) -> list[str]:
    """The backend of the first TTT layer and the reason; nothing for a model without one."""
    layers = ttt_layers(model)
    if not layers:
        return []
    layer = layers[0]
    dtypes = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    dtype = dtypes.get(str(trainer.precision).split("-")[0], torch.float32)
    q = torch.empty(1, 1, layer.heads, layer.head_dim, dtype=dtype, device=model.device)
    config = layer.config
    sizes = tuple(layer.start()), config.mini_batch_size
    choice = choose_backend(config.backend, (q, q, q), *sizes)
    return ["backend {} ({})".format(*choice)]


def listed(trainer: Trainer) -> str:
    """The values that the last validation or test measured."""
    values = trainer.callback_metrics.items()
    shown = [f"{name} {x:.4g}" for name, x in values if name.startswith(("val_", "test_"))]
    return ", ".join(shown)


def duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
