"""The time of training steps, so that models can be compared at equal time."""

import time

import torch


FIRST = 3
"""Steps after each start of a run that are not timed: they allocate memory and compile."""


class StepClock:
    """Seconds of the steps of a run: forward, backward and the optimizer, without data, validation,
    other callbacks and checkpoints.

    seconds, steps: of the timed steps, also of those before the run was resumed.
    """

    def __init__(self) -> None:
        self.seconds, self.steps, self.skipped = 0.0, 0, 0

    def start(self, device: torch.device) -> None:
        self.device, self.began = device, now(device)

    def lap(self, steps: int = 0) -> None:
        """Add the time since `start` or the last lap, in which so many steps ended."""
        began, self.began = self.began, now(self.device)
        if self.skipped < FIRST:
            self.skipped += steps
        else:
            self.seconds += self.began - began
            self.steps += steps


def now(device: torch.device) -> float:
    """Processor time, which other programs hardly change, for one thread of a CPU; else wall time,
    of a GPU when it has done all it was given.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()
