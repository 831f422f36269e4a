"""Laws of the time of training steps: what it counts, and that a resumed run adds to it."""

import time

import pytest
import torch

from tttvideo.training import step_clock
from tttvideo.training.step_clock import FIRST, StepClock
from tttvideo.weights.checkpoints import load_step_time


CPU = torch.device("cpu")


def test_the_first_steps_and_the_time_between_steps_are_not_counted(monkeypatch):
    times = iter(range(1000))
    monkeypatch.setattr(step_clock, "now", lambda device: next(times) ** 2)
    clock, wanted = StepClock(), 0
    for step in range(FIRST + 2):
        clock.start(CPU)  # at (4 n) ** 2
        for last in (0, 0, 1):  # three micro-batches of a step
            clock.lap(last)
        wanted += (step >= FIRST) * ((4 * step + 3) ** 2 - (4 * step) ** 2)
    assert (clock.steps, clock.seconds) == (2, wanted)


def test_one_thread_is_timed_by_its_processor_and_several_by_the_wall(monkeypatch):
    monkeypatch.setattr(time, "process_time", lambda: "processor")
    monkeypatch.setattr(time, "perf_counter", lambda: "wall")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert step_clock.now(CPU) == "processor"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert step_clock.now(CPU) == "wall"


def test_a_gpu_is_waited_for_and_timed_by_the_wall(monkeypatch):
    waited, gpu = [], torch.device("cuda", 0)
    monkeypatch.setattr(time, "perf_counter", lambda: "wall")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    assert step_clock.now(gpu) == "wall" and waited == [gpu]


def test_the_time_of_a_step_is_read_from_a_checkpoint_whatever_its_weights(tmp_path):
    path = tmp_path / "a.ckpt"
    weights = {"x": torch.tensor(float("nan"))}
    torch.save({"state_dict": weights, "step_time": {"seconds": 3.0, "steps": 4}}, path)
    assert load_step_time(path) == 0.75
    for untimed in ({}, {"step_time": {"seconds": 0.0, "steps": 0}}):
        torch.save(untimed, path)
        with pytest.raises(ValueError, match="does not record the time of its steps; an earlier"):
            load_step_time(path)
