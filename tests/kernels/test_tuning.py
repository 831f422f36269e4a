"""Laws of the choice between launch options."""

import pytest
import torch
import triton

from tttvideo.kernels import tuning


OPTIONS = [{"num_warps": 4}, {"num_warps": 8}]


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A simulated GPU on which 8 warps are faster; yields the list of measured options."""
    measured = []
    monkeypatch.setattr(tuning, "wanted", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    monkeypatch.setattr(tuning, "known", {})

    def do_bench(launch, return_mode):
        assert return_mode == "median"
        launch()
        return 1 / measured[-1]["num_warps"]

    monkeypatch.setattr(triton.testing, "do_bench", do_bench)
    return measured


def test_the_fastest_option_is_measured_once_and_kept(gpu, monkeypatch):
    for _ in range(2):
        assert tuning.fastest("kernel 64 16", OPTIONS, gpu.append) == {"num_warps": 8}
    assert gpu == OPTIONS
    monkeypatch.setattr(tuning, "known", {})  # another process
    assert tuning.fastest("kernel 64 16", OPTIONS, gpu.append) == {"num_warps": 8}
    assert gpu == OPTIONS
    tuning.fastest("kernel 64 32", OPTIONS, gpu.append)
    assert gpu == 2 * OPTIONS


def test_a_single_option_is_not_measured(gpu):
    assert tuning.fastest("kernel", OPTIONS[:1], gpu.append) == OPTIONS[0]
    assert gpu == []


def test_a_graph_that_is_recorded_takes_what_is_known_and_measures_nothing(gpu, monkeypatch):
    tuning.fastest("kernel 64 16", OPTIONS, gpu.append)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert tuning.fastest("kernel 64 16", OPTIONS, gpu.append) == {"num_warps": 8}
    assert tuning.fastest("kernel 64 32", OPTIONS, gpu.append) == OPTIONS[0]
    assert gpu == OPTIONS


def test_the_environment_prunes_to_the_first_option(gpu, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert tuning.wanted()
    monkeypatch.setenv("TTTVIDEO_AUTOTUNE", "0")
    assert tuning.fastest("kernel", OPTIONS, gpu.append) == OPTIONS[0]
    assert gpu == []
