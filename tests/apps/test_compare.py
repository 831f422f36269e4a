"""`tttvideo compare` trains what is missing, alike in what it says, and measures all runs."""

import json
from pathlib import Path

import pytest

from tttvideo.apps.cli import main
from tttvideo.apps.compare import last_loss
from tttvideo.weights.checkpoints import load_tokens_model


SMALL = ["--tokens=1024", "--seconds=1", "--window=64", "--seeds=3", "--jobs=1"]
SMALL += ["--length=512", "--rates", "0.003", "0.03"]


@pytest.mark.slow
def test_each_run_is_trained_once_and_all_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("books").mkdir()
    for name in "abc":
        Path(f"books/{name}.txt").write_text(f"It was {name}, the best of times. " * 100)
    main(["prepare", "text", "books", "--out", "corpus"])
    command = ["compare", "corpus/train", "corpus/train", "--out", "out", *SMALL]
    main([*command, "--mixers", "attention", "--parts", "tokens"])
    first = capsys.readouterr().out
    assert "out/rates/attention_0.03: 2 steps" in first
    assert "out/tokens/attention_3: 8 steps" in first
    main([*command, "--mixers", "attention", "ttt_linear_forget"])
    again = capsys.readouterr().out
    assert again.count("out/tokens/attention_3: done before") == 1
    assert "out/lanes/ttt_linear_forget_3: 8 steps" in again
    assert not Path("out/lanes/attention_3").exists()

    record = json.loads(Path("out/comparison.json").read_text())
    assert list(record["parts"]) == ["tokens", "seconds", "lanes"]
    for mixer, choice in record["chosen"].items():
        losses = {lr: last_loss(Path(f"out/rates/{mixer}_{lr}")) for lr in ("0.003", "0.03")}
        assert choice["losses"] == losses
        assert f"{choice['lr']:g}" == min(losses, key=losses.get)
        trained = load_tokens_model(f"out/seconds/{mixer}_3/last.ckpt").trained
        assert trained["steps"] == max(1, round(1 / choice["seconds"]))
        assert 0.2 < trained["seconds"] < 5
    attention, ttt = record["parts"]["tokens"]
    assert attention["less attention"]["value"] == 0
    difference = ttt["after 448"]["value"] - attention["after 448"]["value"]
    assert ttt["less attention"]["value"] == pytest.approx(difference)
    assert attention["million tokens"]["value"] == ttt["million tokens"]["value"] == 8 * 128 / 1e6
    assert Path("out/comparison.png").is_file() and Path("out/lanes/evaluation.md").is_file()

    wrong = [
        (["--tokens", "512"], "holds a run with --trainer.max_steps=2, not"),
        (["--mixers", "broken"], "there is no config file mixer/broken"),
        (["--length", "9999"], "no document of .* is long enough|has"),
        (["--window", "512"], "--reset 512 must be"),
        (["--jobs", "0"], "--jobs 0 must be 1 or more"),
        (["--rates", "0"], "--rates 0.0 must be above 0"),
        (["--parts", "lanes"], "--parts is lanes, and attention cannot carry"),
    ]
    for options, message in wrong:
        with pytest.raises(SystemExit, match=message):
            main([*command, "--mixers", "attention", *options])
    assert not Path("out/tokens/broken_3").exists()
