"""A run prints few lines, a bar of one line, and nothing else."""

import csv
import re

import pytest
import torch
from rich.console import Console

from tttvideo.apps.cli import main
from tttvideo.apps.show import training_console
from tttvideo.apps.show.training_console import duration


SMALL = ["--model.backbone.width=16", "--model.backbone.depth=1", "--model.backbone.heads=2"]
SMALL += ["--data.window=32", "--data.batch_size=2", "--data.train=books/train"]
SMALL += ["--trainer.accelerator=cpu", "--trainer.limit_val_batches=1", "--out=run"]


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    folder = tmp_path_factory.mktemp("console")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "a.txt").write_text("It was the best of times, it was the worst of times. " * 60)
        main(["prepare", "text", "a.txt", "--out", "books"])
    return folder


@pytest.fixture
def fit(books, tmp_path, monkeypatch):
    """Run a command for 20 steps in a new folder."""
    (tmp_path / "books").symlink_to(books / "books")
    monkeypatch.chdir(tmp_path)

    def fit(*more, command="fit"):
        steps = ["--trainer.max_steps=20", "--trainer.val_check_interval=10"]
        main([command, "--config", "text_tiny", *SMALL, *steps, *more])

    return fit


def test_where_there_is_no_terminal_a_run_prints_plain_lines(fit, capsys):
    fit()
    printed = capsys.readouterr()
    first, *lines, last = printed.err.splitlines()
    assert re.match(
        r"TTT-Linear, forgetting, 22.6K parameters; books/train, 3,182 tokens; cpu; state 1.0 KB, "
        r"room for 16 associations a layer; backend ",
        first,
    )
    steps = [line for line in lines if line.startswith("step ") and "/20 loss " in line]
    assert [int(re.match(r"step (\d+)/", line)[1]) for line in steps] == list(range(2, 21, 2))
    assert all(re.search(r"bits \d\.\d{3} .*left$", line) for line in steps)
    validations = [line for line in lines if line not in steps]
    assert [line.split(" val_loss")[0] for line in validations] == ["step 10:", "step 20:"]
    assert last.startswith("run/last.ckpt: step 20; val_loss ")
    assert not {"\r", "\x1b"} & set(printed.err) and printed.out == ""


def test_a_restarted_run_prints_that_it_resumes_and_validate_prints_its_result(fit, capsys):
    fit()
    capsys.readouterr()
    fit()
    resumed, finished = capsys.readouterr().err.splitlines()
    assert resumed == "resuming from run/last.ckpt"
    assert finished == "run/last.ckpt: step 20; already finished"
    fit("--quiet", command="validate")
    printed = capsys.readouterr()
    assert re.fullmatch(r"val_loss \S+, val_bits \S+\n", printed.out) and printed.err == ""


def test_a_run_that_went_back_to_its_best_weights_is_finished(fit, capsys):
    patient = "--model.optim.patience=9"
    fit(patient, "--trainer.max_steps=2", "--trainer.val_check_interval=2")
    capsys.readouterr()
    fit(patient)
    assert capsys.readouterr().err.splitlines()[-1] == "run/last.ckpt: step 2; already finished"


def test_a_run_logs_the_memory_of_each_layer_and_warns_once_of_a_dead_one(fit, capsys):
    fit("--trainer.log_every_n_steps=5", "--model.backbone.ttt.carry=1e-9")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert len(warnings) == 1
    assert re.match(r"step 5: the memory of layer 0 has no effect: \|W - W0\| is ", warnings[0])
    with open("run/logs/version_0/metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["train_loss"]]
    assert [row["step"] for row in rows] == ["4", "9", "14", "19"]
    names = ("carry", "keep", "written", "start", "loss_before", "loss_after")
    assert all(float(row[f"layer_0/{name}"]) >= 0 for row in rows for name in names)


def test_quiet_prints_nothing(fit, capfd):
    fit("--quiet")
    assert capfd.readouterr() == ("", "")


def test_without_the_bar_the_steps_are_not_printed(fit, capsys):
    fit("--trainer.enable_progress_bar=false")
    assert not re.search(r"step \d+/20", capsys.readouterr().err)


def test_the_bar_is_one_line_of_at_most_80_columns(fit, capsys, monkeypatch):
    """Also with the longest step numbers and rates."""

    def terminal(**options):
        return Console(force_terminal=True, width=80, **options)

    monkeypatch.setattr(training_console, "Console", terminal)
    monkeypatch.setattr(training_console, "duration", lambda seconds: "23.9 h")
    values = {"train_loss": 10.123, "train_bits": 14.567, "tokens_per_s": 123456.0}
    values = {name: torch.tensor(value) for name, value in values.items()}
    form = " ".join(training_console.FIGURES[name].format(x) for name, x in values.items())
    assert len(f"step 12,345/50,000 {'━' * 8} {form} 23.9 h left") <= 80
    fit()
    printed = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    bars = [line for line in re.split(r"[\r\n]+", printed) if "━" in line]
    assert bars and all(line.startswith("step ") and len(line) <= 80 for line in bars)
    assert any("20/20" in line for line in bars)


def test_durations_are_short():
    seconds = (3, 119, 600, 36_000, 900_000)
    assert [duration(s) for s in seconds] == ["3 s", "119 s", "10.0 min", "10.0 h", "10.4 d"]
