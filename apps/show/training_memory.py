"""The memory of each TTT layer during a run, in the log; a warning where one has no effect."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from tttvideo.measures.inner_loss import ttt_layers, watch_layers
from tttvideo.measures.layer_memory import MemoryFigures, memory_figures
from tttvideo.training.outer_loop import OuterLoop


class TrainingMemory(Callback):
    """Log the MemoryFigures of layer N as layer_N/NAME, whenever the training loss is logged.

    From the end of the outer loop's warm-up on, `warn` is called once for each dead layer.
    """

    def __init__(self, warn: Callable[[str], None]):
        self.warn = warn
        self.warned: set[int] = set()
        self.found: dict[int, MemoryFigures] = {}

    def on_train_batch_start(self, trainer: Trainer, model: LightningModule, *_: Any) -> None:
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (trainer.global_step + 1) % every == 0:
            layers = ttt_layers(model)

            def measure(place: int, call: Any) -> None:
                self.found[place] = memory_figures(layers[place], call)

            watch_layers(layers, measure)

    def on_train_batch_end(self, trainer: Trainer, model: LightningModule, *_: Any) -> None:
        if self.found:
            watch_layers(ttt_layers(model), None)
            for place, figures in self.found.items():
                values = asdict(figures).items()
                model.log_dict({f"layer_{place}/{name}": value for name, value in values})
                self.check(trainer, model, place, figures)
            self.found = {}

    def check(
        self, trainer: Trainer, model: LightningModule, place: int, figures: MemoryFigures
    ) -> None:
        reason = figures.dead()
        early = isinstance(model, OuterLoop) and trainer.global_step < model.warmup_steps
        if reason and not early and place not in self.warned:
            self.warned.add(place)
            self.warn(
                f"step {trainer.global_step:,}: the memory of layer {place} has no effect: "
                f"{reason}; a larger ttt.carry or ttt.base_lr writes more"
            )
