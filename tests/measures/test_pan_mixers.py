"""`tttvideo evaluate memory`: equal training of mixers as a memory, and the state swap."""

import json
from pathlib import Path

import pytest
import torch

from tttvideo.apps.cli import main
from tttvideo.apps.commands import evaluate_memory
from tttvideo.measures import pan_mixers
from tttvideo.measures.pan_mixers import MEMORIES, PanSettings, draw, measure, schedule
from tttvideo.video.frame_model import FrameModel


TINY = PanSettings(
    size=3, colours=3, view=2, width=16, frames=4, batch=2, seconds=0.05, worlds=3, seen=9, scored=9
)
OPTIONS = ["--seconds", "0.05", "--size", "5", "--view", "2", "--seen", "40", "--worlds", "2"]


@pytest.mark.parametrize("name", MEMORIES)
def test_every_memory_is_trained_and_swapped(name):
    record = measure(name, TINY, 0, lambda _: None)
    assert record["steps"] >= 1 and (record["state_bytes"] > 0) == (name != "window")
    own, other = record["bits"]["own"], record["bits"]["other"]
    assert own.keys() == other.keys() and len(own) > 1
    assert (own == other) == (name == "window")


def test_the_state_of_attention_grows_by_a_key_and_a_value_of_each_token():
    grown = [
        measure("attention", PanSettings(**vars(TINY) | {"seen": seen}), 0, lambda _: None)
        for seen in (9, 12)
    ]
    assert grown[1]["state_bytes"] - grown[0]["state_bytes"] == 3 * 4 * 2 * 16 * 4


def test_only_the_memory_differs_between_the_models():
    shapes = {}
    for name in MEMORIES:
        weights = FrameModel(pan_mixers.new_config(name, TINY)).state_dict()
        shapes[name] = {n: w.shape for n, w in weights.items() if "mixer" not in n}
    window = shapes.pop("window")
    assert window
    for name, found in shapes.items():
        extra = {n.split(".")[0] for n in found.keys() - window.keys()}
        assert window.items() <= found.items() and extra <= {"address", "pose_input"}, name


def test_worlds_of_training_differ_by_seed_and_step_from_those_measured():
    drawn = [draw(TINY, 3, 8, *seed)[0] for seed in ((0, 0), (0, 1), (1, 0), (1 << 31,))]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_the_schedule_rises_and_ends_near_zero():
    assert schedule(0) == 0 and schedule(0.05) > 0.99 and schedule(1) == pytest.approx(3e-3)


def test_the_command_knows_the_memories():
    assert set(evaluate_memory.MEMORIES) == set(MEMORIES)
    defaults = {name: default for name, (default, *_) in evaluate_memory.SETTINGS.items()}
    assert defaults.items() <= vars(PanSettings()).items()


def test_the_command_measures_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "memory", "--out", "out", *OPTIONS, "--seeds", "0", "--memories"]
    main([*command, "window"])
    first = json.loads(Path("out/memory.json").read_text())["runs"]
    main([*command, "window", "linear_attention", "--seeds", "0", "1"])
    runs = json.loads(Path("out/memory.json").read_text())["runs"]
    assert runs[:1] == first
    pairs = {(run["memory"], run["seed"]) for run in runs}
    assert len(runs) == 4 and pairs >= {("window", 1), ("linear_attention", 0)}
    page = Path("out/memory.md").read_text()
    assert "| window only" in page and "| linear attention" in page
    assert Path("out/memory.png").stat().st_size > 10_000
    for options, message in (
        (["window", "--size", "6"], "holds runs with other settings"),
        (["windows"], "invalid choice: 'windows'"),
        (["window", "--view", "6"], "--view 6 must be at most 5"),
        (["window", "--seconds", "0"], "--seconds 0.0 must be above 0"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*command, *options])
