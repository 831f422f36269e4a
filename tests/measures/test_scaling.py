"""Laws of the scaling fits and of the best context."""

import json
import math

import numpy as np
import pytest
import torch

from tttvideo.apps.commands import invoke
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.measures.flops import training_flops
from tttvideo.measures.scaling import Point, best_context, fit_power_law
from tttvideo.measures.scaling_runs import read_run
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.weights.checkpoints import TokenCheckpoint, save_tokens_model


SIZES = np.array([1e5, 3e5, 1e6, 3e6, 1e7])


def law(x, E=1.5, A=80.0, alpha=0.3):
    return E + A * x**-alpha


@pytest.mark.parametrize("x", [SIZES, SIZES * 1e12], ids=["parameters", "operations"])
def test_a_fit_finds_the_law_that_made_the_losses(x):
    fit = fit_power_law(x, law(x, A=80.0 * (x[0] / 1e5) ** 0.3))
    assert (fit.E, fit.alpha) == pytest.approx((1.5, 0.3), abs=1e-6)
    assert fit.log_A == pytest.approx(math.log(80.0 * (x[0] / 1e5) ** 0.3), abs=1e-5)
    assert np.abs(fit.residuals).max() < 1e-9
    np.testing.assert_allclose(fit(x), law(x, A=80.0 * (x[0] / 1e5) ** 0.3))


def test_alpha_lies_in_its_95_percent_interval_about_as_often():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        fit = fit_power_law(SIZES, law(SIZES) * np.exp(0.004 * rng.standard_normal(len(SIZES))))
        low, high = fit.interval
        hits += low <= 0.3 <= high
    assert 50 <= hits < 60


def test_one_odd_run_hardly_moves_the_fit_and_shows_in_the_residuals():
    x = np.geomspace(1e5, 1e7, 8)
    loss = law(x)
    loss[3] *= 1.2
    fit = fit_power_law(x, loss)
    assert fit.alpha == pytest.approx(0.3, abs=0.03)
    assert fit.residuals[3] == pytest.approx(math.log(1.2), abs=0.01)
    assert np.abs(np.delete(fit.residuals, 3)).max() < 0.01


@pytest.mark.parametrize("count", [2, 3])
def test_few_sizes_get_a_power_law_without_E_and_a_note(count):
    fit = fit_power_law(SIZES[:count], law(SIZES[:count], E=0.0))
    assert fit.E == 0 and fit.alpha == pytest.approx(0.3)
    assert "too few for E" in fit.note
    assert (fit.interval is None) == (count == 2)


@pytest.mark.parametrize("loss", [[2.0] * 4, [4.0, 3, 4, 3], [1.0, 2, 3, 4]], ids=str)
def test_losses_of_no_law_are_fitted_without_a_fall(loss):
    fit = fit_power_law([1, 2, 3, 4], loss)
    assert math.isfinite(fit.alpha) and np.isfinite(fit([1.0, 4.0])).all()


@pytest.mark.parametrize(("x", "loss"), [([1], [1]), ([2, 2], [1, 2]), ([1, 2], [0, 1])], ids=str)
def test_losses_that_cannot_be_fitted_are_refused(x, loss):
    with pytest.raises(ValueError, match="two different sizes or more"):
        fit_power_law(x, loss)


def test_the_best_context_is_the_lowest_between_runs_and_never_beyond_them():
    points = [
        *(Point(1024, flops, 10 * flops**-0.05) for flops in (1e12, 1e14)),
        *(Point(4096, flops, 20 * flops**-0.075) for flops in (3e12, 1e14, 1e15)),
        Point(8192, 1.05e14, 3.0),
    ]
    found = {best.flops: best for best in best_context(points)}
    assert set(found) == {3e12, 1e14}
    assert found[3e12].losses.keys() == {1024, 4096}
    assert found[3e12].losses[1024] == pytest.approx(10 * 3e12**-0.05)
    assert found[3e12].context == 4096
    assert found[1e14].losses[8192] == 3.0 and found[1e14].context == 4096
    assert 1e12 not in found and 1e15 not in found


def run_command(arguments):
    invoke("evaluate scaling", [*map(str, arguments)])


def make_run(folder, losses, width=16, window=64, tokenizer="bytes", before=0, **changes):
    """A folder as `tttvideo fit` leaves it, with the losses of steps 10, 20, ..."""
    sizes = {"vocab_size": 20, "width": width, "depth": 1, "heads": 2, "mlp_width": 2 * width}
    config = BackboneConfig(**sizes, **changes)
    save_tokens_model(TokenCheckpoint(Backbone(config), tokenizer), folder / "last.ckpt")
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    steps = 10 * max(1, len(losses))
    tokens = before + 100 * steps
    trained = {"tokens": tokens, "window": window, "steps": steps}
    trained["flops"] = training_flops(config, tokens, window)
    trained["before"] = {"tokens": before, "flops": training_flops(config, before, window)}
    saved["tttvideo"]["trained"] = trained
    torch.save(saved, folder / "last.ckpt")
    logs = folder / "logs" / "version_0"
    logs.mkdir(parents=True)
    rows = [f"{10 * n + 9},{loss},\n{10 * n + 9},,1.0" for n, loss in enumerate(losses)]
    (logs / "metrics.csv").write_text("\n".join(["step,val_loss,train_loss", *rows]) + "\n")
    return folder


def test_the_command_fits_the_last_losses_by_mixer_and_context(tmp_path, capsys):
    def loss(width, window):
        return 2 - width / 100 - window / 1e4

    runs = [
        make_run(tmp_path / f"run{width}_{window}", [4, 3, loss(width, window)], width, window)
        for width in (16, 24, 32)
        for window in (64, 128)
    ]
    run_command([*runs, "--out", tmp_path / "fit"])
    found = json.loads((tmp_path / "fit" / "scaling.json").read_text())
    names = [group["name"] for group in found["groups"]]
    assert names == ["TTT-Linear, context 64", "TTT-Linear, context 128"]
    first = found["groups"][0]
    x = [run["parameters"] for run in first["runs"]]
    y = [run["loss"] for run in first["runs"]]
    assert y == [loss(width, 64) for width in (16, 24, 32)]
    assert first["by_parameters"]["alpha"] == pytest.approx(fit_power_law(x, y).alpha)
    assert [len(run["curve"]) for run in first["runs"]] == [3, 3, 3]
    assert {best["context"] for best in found["best_context"]["TTT-Linear"]} == {128}
    table = (tmp_path / "fit" / "scaling.md").read_text()
    assert "run16_64" in table and "too few for E" in table and table in capsys.readouterr().out
    assert (tmp_path / "fit" / "scaling.png").stat().st_size > 10_000


def test_a_resumed_run_is_read_as_one(tmp_path):
    run = make_run(tmp_path / "run", [4.0, 3.0])
    again = run / "logs" / "version_10"
    again.mkdir()
    (run / "logs" / "version_0").rename(run / "logs" / "version_9")
    (again / "metrics.csv").write_text("step,val_loss\n19,2.5\n")
    found = read_run(run)
    assert found.loss == 2.5 and found.flops == found.curve[-1][0] > found.curve[0][0]
    assert [loss for _, loss in found.curve] == [4.0, 2.5]


def test_a_run_that_starts_from_another_counts_its_tokens_too(tmp_path):
    """Its steps begin at 0 again; its tokens and operations do not."""
    alone = read_run(make_run(tmp_path / "alone", [4.0, 3.0]))
    more = read_run(make_run(tmp_path / "more", [4.0, 3.0], before=5000))
    assert (alone.tokens, more.tokens) == (2000, 7000)
    per_token = alone.flops / alone.tokens
    flops = [x for x, _ in more.curve]
    assert flops == pytest.approx([6000 * per_token, 7000 * per_token])


def test_models_that_differ_in_more_than_size_are_not_fitted_together(tmp_path):
    runs = [
        make_run(tmp_path / f"{name}{width}", [3 - width / 100], width, ttt=ttt)
        for name, ttt in (("m", TTTConfig()), ("t", TTTConfig(backbone="transformer")))
        for width in (16, 24)
    ]
    run_command([*runs, "--out", tmp_path / "fit"])
    found = json.loads((tmp_path / "fit" / "scaling.json").read_text())
    groups = {group["name"]: len(group["runs"]) for group in found["groups"]}
    assert groups == {"TTT-Linear": 2, "TTT-Linear (T)": 2}


@pytest.mark.parametrize("losses", [[4.0, math.nan], [math.inf, 3.0]], ids=str)
def test_a_run_that_diverged_is_named_in_one_line(losses, tmp_path):
    good, bad = make_run(tmp_path / "good", [3.0]), make_run(tmp_path / "bad", losses)
    step = 10 if math.isinf(losses[0]) else 20
    with pytest.raises(ValueError, match=f"/bad diverged: its val_loss at step {step} is") as error:
        run_command([good, bad, "--out", tmp_path / "fit"])
    assert "\n" not in str(error.value)


def test_folders_that_are_no_set_of_runs_are_refused_in_one_line(tmp_path):
    good, silent = make_run(tmp_path / "good", [3.0]), make_run(tmp_path / "silent", [])
    other = make_run(tmp_path / "other", [3.0], tokenizer="0123")
    (tmp_path / "empty").mkdir()
    imported = make_run(tmp_path / "imported", [3.0])
    backbone = Backbone(BackboneConfig(20, 16, 1, 2, 32))
    save_tokens_model(TokenCheckpoint(backbone, "bytes"), imported / "last.ckpt")
    old = make_run(tmp_path / "old", [3.0])
    saved = torch.load(old / "last.ckpt", weights_only=True)
    del saved["tttvideo"]["trained"]["before"]
    torch.save(saved, old / "last.ckpt")
    for second, message in [
        (old, "old/last.ckpt was written by another version"),
        (good, "is one run"),
        (silent, "has no val_loss yet"),
        (other, "of bytes and .*other of 0123"),
        (tmp_path / "empty", "has no last.ckpt"),
        (tmp_path / "nowhere", "there is no run folder"),
        (imported, "records no training"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            run_command([good, second, "--out", tmp_path / "fit"])
        assert "\n" not in str(error.value)
