"""`tttvideo evaluate capacity`: equal states and training, the cells asked for, and the curves."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tttvideo.apps.cli import main
from tttvideo.apps.commands import evaluate_capacity
from tttvideo.measures import capacity
from tttvideo.measures.capacity import (
    MEMORIES,
    CapacitySettings,
    draw,
    draw_size,
    measure,
    memory_shape,
    new_config,
    recall,
)
from tttvideo.measures.capacity_curves import crossing, curves
from tttvideo.measures.small_training import schedule
from tttvideo.video.frame_model import FrameModel


TINY = CapacitySettings(sizes=(4, 6), colours=3, most_asked=9, batch=2, seconds=0.01, worlds=3)
EQUAL = [name for name in MEMORIES if name not in ("attention", "window")]


def new_model(name):
    torch.manual_seed(0)
    return FrameModel(new_config(name, TINY)).eval()


@pytest.mark.parametrize("name", MEMORIES)
def test_every_memory_is_trained_and_its_state_is_swapped(name):
    record = measure(name, TINY, 0, lambda _: None)
    assert record["steps"] >= 1 and set(record["recall"]) == {"16", "36"}
    for found in record["recall"].values():
        assert found["tokens"] > 0
        assert (found["own"] == found["other"]) == (name == "window")
        assert 0 <= found["own"]["accuracy"] <= 1 and found["own"]["bits"] > 0


@pytest.mark.parametrize("name", EQUAL)
def test_states_have_64_kib_and_what_little_their_shapes_add(name):
    held = recall(new_model(name), TINY, 4)["state_bytes"]
    wanted = 65536 if name != "lstm" else 16384
    assert wanted <= held <= 1.08 * wanted


def test_the_state_of_attention_grows_by_a_key_and_a_value_of_each_token():
    held = [recall(new_model("attention"), TINY, size)["state_bytes"] for size in (4, 6)]
    assert held == [2 * 128 * 4 * cells for cells in (16, 36)]


@pytest.mark.parametrize("size, oldest", [(4, 4), (6, 8)])
def test_what_is_measured_was_seen_in_the_sweep_eight_frames_ago_or_all_of_it(
    size, oldest, monkeypatch
):
    tokens, conditions, _ = draw(TINY, TINY.worlds, size, capacity.EVALUATED, size)
    begin, wanted = TINY.swept(size), []
    for world, poses in enumerate(conditions.poses.tolist()):
        shown = [
            [((r + i) % 12, (c + j) % 12) for i in range(2) for j in range(2)] for r, c in poses
        ]
        for frame in range(begin + 1, len(poses)):
            for place, cell in enumerate(shown[frame]):
                last = max(n for n in range(frame) if cell in shown[n])
                if last < begin and frame - last >= oldest:
                    wanted.append(tokens[world, frame, place])
    counted, score = [], capacity.score
    monkeypatch.setattr(capacity, "score", lambda x, y: counted.append(y) or score(x, y))
    recall(new_model("window"), TINY, size)
    assert wanted and all(torch.equal(found, torch.stack(wanted)) for found in counted)


def test_worlds_of_training_differ_by_seed_and_step_from_those_measured():
    drawn = [draw(TINY, 3, 6, *seed)[0] for seed in ((0, 0), (0, 1), (1, 0), (1 << 31, 6))]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_training_begins_with_the_smallest_world_and_ends_with_all():
    random, sizes = np.random.default_rng(0), (4, 6, 8)
    reached = [{draw_size(sizes, done, random) for _ in range(60)} for done in (0, 0.3, 0.6, 1)]
    assert reached == [{4}, {4, 6}, {4, 6, 8}, {4, 6, 8}]


def test_the_schedule_rises_and_ends_near_zero():
    assert schedule(0) == 0 and schedule(0.05) > 0.99 and schedule(1) == pytest.approx(3e-3)


def test_associations_are_heads_times_the_features_of_a_key():
    shapes = {name: memory_shape(new_config(name, TINY)) for name in MEMORIES}
    assert shapes["ttt_mlp"] == {"heads": 2, "key": 32, "blocks": 1}
    assert shapes["mamba2"] == {"heads": 1, "key": 128, "blocks": 1}
    assert shapes["lstm"] is shapes["window"] is shapes["attention"] is None


def test_half_is_recalled_where_the_curve_crosses():
    assert crossing((16, 64), (0.75, 0.25), 0.5) == pytest.approx(32)
    assert crossing((16, 64), (0.4, 0.25), 0.5) == 0
    assert crossing((16, 64), (0.9, 0.6), 0.5) == math.inf


def run(accuracy, seed=0):
    found = {"own": {"accuracy": accuracy, "bits": None}}
    return {"label": "one", "seed": seed, "shape": None, "recall": {"16": found}}


def test_seeds_are_averaged_with_their_interval_and_one_that_diverged_stays():
    curve = curves([run(0.5), run(0.7, 1)])[0]
    estimate = curve.estimate("own", "accuracy", 16)
    assert estimate.value == pytest.approx(0.6)
    assert estimate.margin == pytest.approx(12.706 * 0.1, rel=1e-3)  # t of one degree of freedom
    assert math.isnan(curve.estimate("own", "bits", 16).value)


def test_the_command_knows_the_memories():
    assert set(evaluate_capacity.MEMORIES) == set(MEMORIES)
    defaults = {name: default for name, (default, *_) in evaluate_capacity.SETTINGS.items()}
    assert CapacitySettings() == replace(
        CapacitySettings(), sizes=evaluate_capacity.SIZES, seconds=60.0, **defaults
    )


def test_the_command_measures_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "capacity", "--out", "out", "--seconds", "0.05", "--worlds", "4"]
    command += ["--sizes", "4", "6", "--seeds", "0", "--memories"]
    main([*command, "window"])
    first = json.loads(Path("out/capacity.json").read_text())["runs"]
    main([*command, "window", "linear_attention", "--seeds", "0", "1"])
    runs = json.loads(Path("out/capacity.json").read_text())["runs"]
    assert runs[:1] == first
    pairs = {(run["memory"], run["seed"]) for run in runs}
    assert len(runs) == 4 and pairs >= {("window", 1), ("linear_attention", 0)}
    page = Path("out/capacity.md").read_text()
    assert "| window only" in page and "| 1 x 128 x 1 " in page and "±" in page
    assert Path("out/capacity.png").stat().st_size > 10_000
    for options, message in (
        (["window", "--worlds", "5"], "holds runs with other settings"),
        (["windows"], "invalid choice: 'windows'"),
        (["window", "--sizes", "5"], "--sizes 5 must be even, and 4 or more"),
        (["window", "--sizes", "6", "4"], "--sizes 6 4 must be in rising order"),
        (["window", "--seconds", "0"], "--seconds 0.0 must be above 0"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*command, *options])
