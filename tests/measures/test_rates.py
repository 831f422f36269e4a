"""`tttvideo evaluate rates`: one target for every rate, equal operations, and what is recorded."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.walks import write_walks
from tttvideo.apps.cli import main
from tttvideo.apps.commands import evaluate_rates
from tttvideo.data.video.drawn.moments import GREYS, MOMENTS
from tttvideo.measures import rates
from tttvideo.measures.flops import TRAINING, frame_flops_per_token
from tttvideo.measures.rates import (
    EVALUATED,
    RATES,
    WORLDS,
    RateSettings,
    both_walks,
    draw,
    likeliest,
    measure,
    new_config,
    new_model,
    recall,
)
from tttvideo.video.frame_model import FrameModel


TINY = RateSettings(gflops=1, colours=3, seconds=1, frames=4, moments=3, tokens=512)
LONG = RateSettings(seconds=1, frames=40, tokens=512)
OPTIONS = ["--gflops", "1", "--frames", "4", "--seconds", "1", "--moments", "2", "--colours", "3"]


def silent(_):
    pass


@pytest.fixture
def tiny(tmp_path):
    """TINY with walks of five seconds."""
    paths = [str(tmp_path / name) for name in ("walks.bin", "held_out.bin")]
    for seed, path in enumerate(paths):
        write_walks(path, (175, 190), seed)
    return replace(TINY, walks=paths[0], held_out=paths[1])


@pytest.mark.parametrize("world", WORLDS)
def test_every_rate_has_equal_operations_of_training_and_the_same_targets(world, tiny, monkeypatch):
    monkeypatch.setitem(rates.EASY, world, 0.02)
    monkeypatch.setattr(rates, "STEPS", {})
    runs = [measure(world, rate, tiny, 0, silent) for rate in RATES]
    spent = [run["training_gflops"] for run in runs]
    step = TRAINING * 512 * frame_flops_per_token(new_config(world, tiny), 4) / 1e9
    assert min(spent) >= 0.02 and max(spent) < 0.02 + step
    for rate, run in zip(RATES, runs, strict=True):
        found = {(x["frames"], x["horizon"]) for x in run["measured"]}
        lengths = {1, rate, 4}
        assert found == {(n, horizon) for n in lengths for horizon in WORLDS[world].horizons}
    assert len({json.dumps(run["copied"]) for run in runs}) == 1


def test_the_operations_of_a_frame_model_are_counted_from_its_products():
    config = new_config("bounce", TINY)
    T, P, C = 32, 16, 32
    model, products = FrameModel(config), 0

    def count(module, inputs, output):
        nonlocal products
        products += 2 * output.numel() // output.shape[-1] * module.weight.numel()

    outside = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    for module in outside:
        module.register_forward_hook(count)
    frames, conditions = rates.tensors(rates.training_contexts("bounce", TINY, 30, 1.0, (0, 0)))
    F = frames.shape[1] - 1
    vectors, _ = model(frames[:, :F], None, conditions)
    rates.logits(model, vectors, frames)
    per_token = products / frames[:, :F].numel()
    scores = 2 * 4 * P * C  # of attention, in two blocks
    window = 18 * 2 * (C // 4) * C
    inner = frame_flops_per_token(config, T) - per_token - scores - window
    assert 0 < inner < 0.5 * frame_flops_per_token(config, T)


def test_a_flash_in_training_can_be_seen_in_a_dense_context():
    for step in range(20):
        contexts = rates.training_contexts("flash", LONG, 30, step / 20, (0, step))
        assert contexts.seen.all() and 6 <= contexts.frames.shape[1] - 1 <= 40


@pytest.mark.parametrize("world", MOMENTS)
def test_the_products_of_a_new_model_keep_the_size_of_what_they_read(world):
    torch.manual_seed(0)
    model = new_model(new_config(world, TINY))
    for module in (m for m in model.modules() if isinstance(m, torch.nn.Linear)):
        x = torch.randn(400, module.in_features)
        assert module(x).detach().square().mean().sqrt() == pytest.approx(1, abs=0.35)


def test_the_answer_of_bounce_is_the_cell_that_is_least_likely_ground_in_its_colour():
    cells = draw("bounce", TINY, 60, 1, 0).cells[:, -1]
    truth = torch.from_numpy(cells)
    sure = torch.nn.functional.one_hot(truth, GREYS + 3).float()
    everywhere = sure.amax(1, keepdim=True).expand_as(sure).clone()  # its colour in every cell
    everywhere[..., 0] = 0
    asked = np.ones(cells.shape, bool)
    found = [
        recall("bounce", (likeliest("bounce", x) == truth).numpy(), asked)
        for x in (sure, 0.1 * sure + torch.tensor([3.0, 0, 0, 0, 0, 0]), everywhere)
    ]
    assert found[:2] == [1, 1] and found[2] < 0.2
    assert recall("bounce", np.zeros_like(cells) == cells, asked) == 0  # ground alone


def test_what_is_learned_is_the_static_picture(monkeypatch):
    monkeypatch.setitem(rates.EASY, "static", 4.0)
    run = measure("static", 30, TINY, 0, silent)
    right = [x["recall"] for x in run["measured"] if x["frames"] == 4]
    assert min(right) == 1 and run["copied"] == dict.fromkeys(run["copied"], 1.0)


def test_contexts_that_differ_in_their_targets_alone_are_read_once_with_the_same_loss(tiny):
    torch.manual_seed(0)
    model = new_model(new_config("maze", tiny)).eval()
    contexts = rates.training_contexts("maze", tiny, 30, 1.0, (0, 0))
    asks = rates.ASKS["maze"]
    found, tokens = rates.mean_nats(model, contexts, asks)
    every, _ = rates.mean_nats(model, contexts, 1)
    frames, conditions = rates.tensors(contexts)
    vectors, _ = model(frames[:, :-1], None, conditions)
    costs = rates.nats(model, vectors, frames)
    torch.testing.assert_close(every, costs.mean() + costs[:, -1].mean())
    once = torch.cat((costs[::asks, :-1].flatten(), costs[:, -1].flatten()))
    torch.testing.assert_close(found, once.mean() + costs[:, -1].mean())
    assert tokens == len(once)


def test_contexts_of_mazes_are_long_from_the_start(tiny):
    lengths = {
        rates.training_contexts("maze", tiny, 30, 0.0, (0, n)).frames.shape[1] - 1
        for n in range(60)
    }
    assert min(lengths) >= 30 / rates.LONG["maze"] and 25 <= max(lengths) <= 30


def test_moments_of_mazes_that_are_measured_are_of_other_walks_than_those_of_training(tiny):
    train, held_out = both_walks(tiny)
    for seed, walks in (((0, 5), train), ((EVALUATED,), held_out)):
        poses = draw("maze", tiny, 5, 40, *seed).poses.reshape(-1, 3)
        assert {*map(tuple, poses)} <= {*map(tuple, walks.poses.reshape(-1, 3))}


def test_the_page_of_mazes_tells_what_is_seen_again_from_what_is_new(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(rates.EASY, "maze", 0.02)
    out = str(tmp_path / "out")
    command = ["evaluate", "rates", "--out", out, *OPTIONS, "--worlds", "maze", "--rates", "1"]
    with pytest.raises(SystemExit, match="the world maze needs --walks and --held-out"):
        main(command)
    command += ["--walks", tiny.walks, "--held-out", tiny.held_out]
    with pytest.raises(SystemExit, match=r"the shortest walk of .* prepare mazes of"):
        main([*command, "--seconds", "9"])
    assert not Path(out).exists()
    main(command)
    page = Path(out, "rates.md").read_text()
    assert "last frame alone | bits, seen again | bits, new" in page


def test_the_command_knows_the_worlds_and_their_settings():
    assert set(evaluate_rates.WORLDS) == set(WORLDS) == set(rates.MODELS)
    assert evaluate_rates.RATES == RATES
    defaults = {name: default for name, (default, *_) in evaluate_rates.SETTINGS.items()}
    assert defaults.items() <= vars(RateSettings()).items()


def test_the_command_measures_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for world in MOMENTS:
        monkeypatch.setitem(rates.EASY, world, 0.02)
    command = ["evaluate", "rates", "--out", "out", *OPTIONS, "--rates", "30", "1", "--worlds"]
    main([*command, "static", "--seeds", "0"])
    first = json.loads(Path("out/rates.json").read_text())["runs"]
    main([*command, "static", "flash", "--seeds", "0", "1"])
    runs = json.loads(Path("out/rates.json").read_text())["runs"]
    assert runs[:2] == first
    found = [(run["seed"], run["world"], run["rate"]) for run in runs]
    assert found == list(product((0, 1), ("static", "flash"), (30, 1)))
    page = Path("out/rates.md").read_text()
    assert "## flash" in page and "Equal seconds: 1 s." in page and " ± " in page
    assert "seen by luck" in page.split("## flash")[1]
    assert Path("out/rates.png").stat().st_size > 10_000
    for options, message in (
        (["static", "--colours", "4"], "holds runs with other settings"),
        (["statics"], "invalid choice: 'statics'"),
        (["static", "--grid", "7"], "--grid 7 must be at most 6"),
        (["static", "--frames", "1"], "--frames 1 must be 2 or more"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*command, *options])


def test_the_help_states_the_shares_of_the_easy_worlds():
    text = evaluate_rates.SETTINGS["gflops"][2].replace(" has", "")
    for world, share in rates.EASY.items():
        assert f"{world} {100 * share:.0f} %%" in text
