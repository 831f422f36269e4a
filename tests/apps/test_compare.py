"""`tttvideo compare` trains and measures what is missing, and compares seeds with themselves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tttvideo.apps import compare, comparison_runs
from tttvideo.apps.cli import main
from tttvideo.apps.commands import parse
from tttvideo.apps.comparison_plan import PLANS, Choice, Finished, Run, new_plan, runs_of
from tttvideo.apps.comparison_runs import Job
from tttvideo.apps.show.comparison_page import comparison_page, draw, part_curves, rows
from tttvideo.weights.checkpoints import load_step_time, load_tokens_model


SMALL = ["--tokens=4096", "--seconds=2", "--window=64", "--seeds=3", "--jobs=1"]
SMALL += ["--length=1024", "--documents=2", "--rates=0.003"]
COMMAND = ["compare", "corpus/train", "corpus/train", "--out", "out", *SMALL]


def corpus():
    Path("books").mkdir()
    for name in "abc":
        Path(f"books/{name}.txt").write_text(f"It was {name}, the best of times. " * 100)
    main(["prepare", "text", "books", "--out", "corpus"])


@pytest.mark.slow
def test_each_run_is_trained_once_and_all_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    corpus()
    main([*COMMAND, "--mixers", "attention", "--parts", "tokens"])
    first = capsys.readouterr().out
    assert "out/rates/attention_0.003: 8 steps" in first
    assert "out/tokens/attention_3: 32 steps, measured" in first
    assert list(json.loads(Path("out/comparison.json").read_text())["parts"]) == ["tokens"]
    Path("out/tokens/attention_3/targets.json").unlink()  # as if it was killed while it measured
    parts = ["--parts", "tokens", "seconds", "lanes"]
    main([*COMMAND, "--mixers", "attention", "sliding_window", *parts])
    again = capsys.readouterr().out
    assert "out/tokens/attention_3: measured" in again and "rates/attention" not in again
    assert "out/lanes/sliding_window_3: 32 steps" in again
    assert not Path("out/lanes/attention_3").exists()
    record = json.loads(Path("out/comparison.json").read_text())
    assert list(record["parts"]) == parts[1:]
    for mixer, choice in record["choices"].items():
        run = json.loads(Path(f"out/rates/{mixer}_0.003/run.json").read_text())
        assert choice["losses"] == {"0.003": run["loss"]} and run["loss"] > 0
        assert choice["step_seconds"] == run["step_seconds"] and choice["lr"] == 0.003
        checkpoint = f"out/seconds/{mixer}_3/last.ckpt"
        steps = load_tokens_model(checkpoint).trained["steps"]
        assert steps == round(2 / choice["step_seconds"])
        assert 0.4 < steps * load_step_time(checkpoint) < 10
    attention, other = record["parts"]["tokens"]
    difference = other["512 minus reset"]["value"]
    assert difference == pytest.approx(other["after 512"]["value"] - other["state reset"]["value"])
    gain = other["512 minus attention"]["value"]
    assert gain == pytest.approx(other["after 512"]["value"] - attention["after 512"]["value"])
    assert attention["M tokens"]["value"] == other["M tokens"]["value"] == 4096 / 1e6
    page = Path("out/comparison.md").read_text()
    assert "attention: left out, because the state grows" in page and "10% of the lanes" in page
    assert Path("out/fixed_targets.png").is_file()
    for options, message in CHANGED:
        with pytest.raises(SystemExit, match=message):
            main([*COMMAND, "--mixers", "attention", *options])


CHANGED = [
    (["--tokens", "8192"], "out holds a comparison with tokens 4096, and now it is 8192; give"),
    (["--documents", "1"], "out holds a comparison with documents 2, and now it is 1"),
]
WRONG = [
    (["--mixers", "broken"], "there is no config file mixer/broken"),
    (["--length", "9999"], "no document has"),
    (["--length", "500"], "--length 500 must hold 8 windows of 64 .* choose 586 or more"),
    (["--jobs", "0"], "--jobs 0 must be 1 or more"),
    (["--documents", "0"], "--documents 0 must be 1 or more"),
    (["--seconds", "inf"], "--seconds inf must be 1 or more, and finite"),
    (["--tokens", "1024"], "--tokens 1024 must be 4096 or more: the runs that choose"),
    (["--rates", "0"], "--rates 0.0 must be above 0, and finite"),
    (["--rates", "inf"], "--rates inf must be above 0, and finite"),
    (["--rates", "0.001", "0.0010000001"], "--rates 0.001 must be given once"),
    (["--seeds", "1", "100"], "--seeds 100 must be another: it chooses the learning rates"),
    (["--parts", "lanes"], "--parts lanes has no mixer: the state of attention grows"),
]


def test_what_cannot_be_compared_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus()
    for options, message in WRONG:
        with pytest.raises(SystemExit, match=message):
            main([*COMMAND, "--mixers", "attention", *options])
    main(["prepare", "text", "books", "--out", "bpe", "--train-bpe", "270"])
    with pytest.raises(SystemExit, match="corpus/train and bpe/train differ: tokenizer is"):
        main(["compare", "corpus/train", "bpe/train", "--out", "out", *SMALL])
    main(["prepare", "pan", "--worlds", "20", "--out", "pan"])
    with pytest.raises(SystemExit, match="pan/tokens.bin holds video; only text is compared here"):
        main(["compare", "pan/tokens.bin", "pan/tokens.bin", "--out", "out", *SMALL])
    assert not Path("out").exists()


def test_seconds_that_are_too_few_for_a_mixer_are_refused():
    options = parse("compare", [*COMMAND[1:], "--mixers", "mamba_8"])
    choices = {"mamba_8": Choice(0.003, 0.5, {})}
    with pytest.raises(
        ValueError, match="--seconds 2 are 4 steps of mamba_8, and it needs 8: give"
    ):
        list(runs_of("seconds", options, new_plan(options, "cpu"), choices))


def finished(mixer, seed, levels, reset=2.0, part="tokens", step_seconds=0.1):
    """A run with these bits per byte after 0, 64, 512 and 1024 tokens; None: it diverged."""
    about = {"date": "today", "commit": "abc"}
    record = {"loss": levels and 1.0, "step_seconds": step_seconds, "tokens": 1000}
    bits = levels and dict(zip(("0", "64", "512", "1024"), levels, strict=True))
    measured = {"bits_per_byte": bits, "reset": reset, "targets": 8, "far_targets": 2}
    measured |= {"target_tokens": 128, "measured": about}
    run = Run(part, mixer, seed, 0.003, 10)
    return Finished(run, {**record, "trained": about}, measured if levels else None)


PLAN = replace(PLANS["cpu"], window=64, mixers=("ttt_linear_forget", "mamba_8", "attention"))
RUNS = [
    finished("ttt_linear_forget", 0, [3.0, 2.0, 1.5, 1.4]),
    finished("ttt_linear_forget", 1, [3.0, 2.0, 1.7, 1.8]),
    finished("ttt_linear_forget", 2, [3.0, 2.0, 9.9, 9.9]),
    finished("mamba_8", 0, [3.0, 2.0, 2.0, 2.0]),
    finished("mamba_8", 1, [3.0, 2.0, 2.0, 2.0]),
    finished("mamba_8", 2, None),
    finished("attention", 0, [3.0, 2.0, 50.0, 90.0]),
]


def test_seeds_are_compared_with_themselves_and_diverged_runs_are_left_out():
    (_, _, ttt), (_, count, mamba), _ = rows(part_curves(RUNS, PLAN))
    assert ttt["512 minus mamba_8"].value == pytest.approx(-0.4)  # of seeds 0 and 1
    assert ttt["512 minus mamba_8"].margin == pytest.approx(0.1 * 12.706, rel=1e-3)
    assert ttt["after 512"].documents == 3
    assert count == "2, 1 diverged" and mamba["after 512"].value == 2.0
    assert ttt["512 minus reset"].value == pytest.approx((1.5 + 1.7 + 9.9) / 3 - 2)


def test_a_mixer_of_which_all_runs_diverged_is_shown_as_diverged():
    runs = [*RUNS[:3], finished("mamba_8", 0, None)]
    found, curves = {"tokens": runs}, {"tokens": part_curves(runs, PLAN)}
    choices = {"mamba_8": Choice(None, 0.1, {"0.003": None})}
    about = {"command": "c", "date": "d", "device": "e", "commit": "f"}
    plan = replace(PLAN, rates=(0.003,))
    page = comparison_page(found, curves, about, choices, plan)
    lines = [line.split() for line in page.splitlines() if line.startswith("| mamba_8 ")]
    assert ["diverged" in line for line in lines] == [True, True]
    assert "minus mamba_8**" not in page and "carried minus reset**" in page
    draw(curves)


def test_attention_does_not_hide_the_other_curves_and_the_legend_names_all_mixers():
    lanes = finished("mamba2_8", 0, [3.0, 2.0, 2.0, 2.0], part="lanes")
    found = {"tokens": part_curves(RUNS, PLAN), "lanes": part_curves([lanes], PLAN)}
    figure = draw(found)
    levels, gains = figure.axes[0], figure.axes[2]
    assert 9.9 < levels.get_ylim()[1] < 11 and gains.get_ylim()[1] < 9
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["ttt_linear_forget", "mamba_8", "attention", "mamba2_8"]


def test_the_lowest_finite_loss_chooses_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus()
    command = [*COMMAND[1:], "--mixers", "attention", "mamba_8", "--rates", "0.003", "0.03"]
    options = parse("compare", command)
    plan = new_plan(options, "cpu")
    losses = {("attention", 0.003): 2.0, ("attention", 0.03): None}

    def make(self, title, runs):
        found = [{"loss": losses.get((r.mixer, r.lr)), "step_seconds": r.lr} for r in runs]
        return [Finished(run, one, None) for run, one in zip(runs, found, strict=True)]

    monkeypatch.setattr(compare.Comparison, "make", make)
    choices = compare.Comparison(options, plan, None).choose()
    assert choices["attention"] == Choice(0.003, 0.0165, {"0.003": 2.0, "0.03": None})
    assert choices["mamba_8"].lr is None
    assert {run.mixer for run in runs_of("tokens", options, plan, choices)} == {"attention"}
    losses.clear()
    assert compare.Comparison(options, plan, None).choose() == choices


@pytest.fixture
def job(tmp_path):
    run = Run("tokens", "attention", 0, 0.003, 10)
    (tmp_path / "run").mkdir()
    return Job(run, PLAN, tmp_path / "run", {"tokens": 1}, ["--fit"], None, 1024)


def write_losses(folder, version, rows):
    path = folder / f"logs/version_{version}/metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text("step,val_loss\n" + "".join(f"{step},{loss}\n" for step, loss in rows))


@pytest.mark.parametrize("loss", [1.25, "nan"], ids=str)
def test_a_finished_run_is_recorded_with_its_last_loss_and_not_trained_again(
    job, loss, monkeypatch
):
    calls = []

    def fit(name, arguments):
        calls.append(arguments)
        write_losses(job.folder, 0, [(4, 3.0), (9, loss)])

    monkeypatch.setattr(comparison_runs, "invoke", fit)
    monkeypatch.setattr(comparison_runs, "load_step_time", lambda path: 0.5)
    assert job.do() == ("diverged" if loss == "nan" else "10 steps")
    assert job.records()[0]["loss"] == (None if loss == "nan" else loss)
    assert job.records()[0]["done"] and "commit" in job.records()[0]["trained"]
    assert job.do() == ("diverged" if loss == "nan" else "done before") and len(calls) == 1
    with pytest.raises(ValueError, match="holds another run; delete it, or choose another --out"):
        replace(job, settings={"tokens": 2}).do()


def test_a_run_that_cannot_be_validated_is_an_error(job, monkeypatch):
    monkeypatch.setattr(comparison_runs, "invoke", lambda *_: (job.folder / "last.ckpt").touch())
    with pytest.raises(ValueError, match="was not validated"):
        job.do()
    assert not job.is_trained()
