"""The outer loop: AdamW with a warm-up and a cosine, for every model that `tttvideo fit` trains."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.utils.checkpoint import checkpoint

from .keep_best import KeepBest
from .step_clock import StepClock


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
    patience: int | None = None
    """Validations without a better one after which training stops; the best weights are kept.
    null: every step is done, and the last weights are kept."""


class OuterLoop(LightningModule):
    """The optimizer, its schedule, the time of its steps, and the speed for the progress bar.

    measure, higher_is_better: the logged value that early stopping watches.
    """

    measure, higher_is_better = "val_loss", False

    def __init__(self, optim: OptimConfig):
        super().__init__()
        self.optim = optim
        self.step_clock = StepClock()

    @property
    def data(self) -> Any:
        """The data module of the run."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_callbacks(self) -> list[Callback]:
        if self.optim.patience is None:
            return []
        return [KeepBest(self.measure, self.higher_is_better, self.optim.patience)]

    def configure_optimizers(self) -> OptimizerLRScheduler:
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
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def inner_lr(self, inner: str) -> float:
        """Factor on the inner learning rate at this step: it rises to 1 with the warm-up."""
        start = self.optim.inner_lr_start
        if start is None:
            start = 0.1 if inner == "mlp" else 1.0
        return start + (1 - start) * min(1.0, self.global_step / self.warmup_steps)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed what a step draws by its number, so that a run that resumes draws the same."""
        facts = self.data.seed, self.global_step, batch_idx, self.global_rank
        torch.manual_seed(int(np.random.SeedSequence(facts).generate_state(1, np.uint64)[0]))
        self.step_clock.start(self.device)

    def on_after_backward(self) -> None:
        self.step_clock.lap()

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        super().optimizer_step(*args, **options)  # with the last backward pass inside
        self.step_clock.lap(steps=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        clock = self.step_clock
        checkpoint["step_time"] = {"seconds": clock.seconds, "steps": clock.steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        done, most = checkpoint["global_step"], self.trainer.max_steps
        if 0 <= most < done:
            raise ValueError(
                f"the run in --out has {done} steps behind it, and trainer.max_steps is {most}; "
                "choose another --out"
            )
        if "step_time" not in checkpoint:
            raise ValueError(
                "the run in --out was started by another version, which did not time its steps; "
                "start a new run with another --out"
            )
        timed = checkpoint["step_time"]
        self.step_clock.seconds, self.step_clock.steps = timed["seconds"], timed["steps"]

    def on_train_start(self) -> None:
        self.clock, self.units, self.waited = time.monotonic(), 0, self.wait()

    on_validation_end = on_train_start  # validation is not training time

    def wait(self) -> float:
        """Seconds that the run has waited for its data."""
        loader: Any = self.trainer.train_dataloader  # None in validation alone
        return loader.wait.seconds if loader else 0.0

    def log_rate(self, units: int, name: str) -> None:
        """Log units of all processes per second, and the share of the time in which this one waits
        for data, both over at least half a second.
        """
        self.units += units
        seconds = time.monotonic() - self.clock
        if seconds >= 0.5:
            self.log(name, self.units / seconds, prog_bar=True, on_step=True)
            share = (self.wait() - self.waited) / seconds
            self.log("data_wait", share, prog_bar=True, on_step=True)
            self.on_train_start()


def checkpointed(blocks: Iterable[Callable[..., Any]]) -> list[Callable[..., Any]]:
    """Blocks that keep their inputs alone, and are computed again in the backward pass.

    They must not draw random numbers.
    """
    own = {"use_reentrant": False, "preserve_rng_state": False}
    return [partial(checkpoint, block, **own) for block in blocks]
