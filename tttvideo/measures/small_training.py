"""Training of small models that are measured: AdamW along the share of a budget that is spent.

The learning rate follows that share, so that it has ended for slow models too.
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn


WARMUP, FINAL_LR = 0.05, 3e-3  # shares of the training and of the peak learning rate


class SmallTraining:
    """Steps of the optimizer; lr: the peak learning rate."""

    def __init__(self, model: nn.Module, lr: float):
        self.parameters, self.lr = list(model.parameters()), lr
        self.optimizer = torch.optim.AdamW(self.parameters, lr, (0.9, 0.95), weight_decay=0.01)

    def run(
        self,
        seconds: float,
        loss: Callable[[float, int], Tensor],
        advance: Callable[[int], None],
    ) -> int:
        """Learn for some CPU time from loss(share of it that is over, step); the steps taken."""
        start, step, told = time.process_time(), 0, 0
        while (spent := time.process_time() - start) < seconds:
            done = spent / seconds
            self.step(loss(done, step), done)
            step += 1
            advance(int(spent) - told)
            told = int(spent)
        advance(int(seconds) - told)
        return step

    def step(self, loss: Tensor, done: float) -> None:
        """Learn from a loss when a share `done` of the budget is spent."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * schedule(done)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()


def schedule(done: float) -> float:
    """Share of the peak learning rate when a share of the training is over: a warm-up, a cosine."""
    cosine = FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * done))
    return min(1.0, done / WARMUP) * cosine
