"""Early stopping that keeps the best weights."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


KEPT = ("best", "since", "weights", "finished")  # in checkpoints


class KeepBest(Callback):
    """Stop when a measure on validation data no longer gets better, and go back to its best.

    At the end of training the model has the weights of the best validation, whether training was
    stopped or not. A run that has ended is not trained on: its optimizer is that of other weights.

    Arguments:
        measure: the name of a logged value.
        highest: whether a higher value is better; else a lower one is.
        patience: validations without a better value after which training stops.
    """

    def __init__(self, measure: str, highest: bool, patience: int):
        self.measure, self.sign, self.patience = measure, 1 if highest else -1, patience
        if patience < 1:
            raise ValueError(f"optim.patience is {patience}; it must be 1 or more")
        self.best, self.since, self.finished = -torch.inf, 0, False
        self.weights: dict[str, torch.Tensor] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.finished:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.training:
            return
        value = self.sign * float(trainer.callback_metrics[self.measure])
        self.since += 1
        if value > self.best:
            self.best, self.since = value, 0
            self.weights = {name: x.clone() for name, x in pl_module.state_dict().items()}
        if self.since >= self.patience:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finished = True
        if self.weights:
            pl_module.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update({name: state_dict[name] for name in KEPT})
