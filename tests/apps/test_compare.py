"""`tttvideo compare` trains the stages that are missing and measures all runs."""

import json
from pathlib import Path

import pytest

from tttvideo.apps.cli import main
from tttvideo.weights.checkpoints import load_tokens_model


SMALL = ["--tokens", "512", "256", "--windows", "64", "128", "--seeds", "3", "--jobs", "1"]


@pytest.mark.slow
def test_each_stage_is_trained_once_and_all_runs_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("books").mkdir()
    for name in "abc":
        Path(f"books/{name}.txt").write_text(f"It was {name}, the best of times. " * 100)
    main(["prepare", "text", "books", "--out", "corpus"])
    command = ["compare", "corpus/train", "corpus/train", "--out", "out", *SMALL, "--mixers"]
    main([*command, "attention"])
    first = capsys.readouterr().out
    assert "attention_3, stage 0: 4 steps of 2 x 64 tokens" in first
    assert "attention_3, stage 1: 2 steps of 1 x 128 tokens" in first
    main([*command, "attention", "ttt_linear"])
    again = capsys.readouterr().out
    assert again.count("attention_3, stage 0: done before") == 1
    assert again.count("attention_3, stage 1: done before") == 1
    assert "ttt_linear_3, stage 1: 2 steps" in again
    models = json.loads(Path("out/evaluation.json").read_text())["models"]
    assert [model["label"] for model in models] == ["attention", "ttt_linear"]
    assert Path("out/fixed_targets.png").is_file() and Path("out/by_index.png").is_file()
    trained = load_tokens_model("out/ttt_linear_3/stage_1/last.ckpt").trained
    assert trained["tokens"] == 512 + 256 and trained["before"]["tokens"] == 512

    wrong = [
        (["--tokens", "256", "256"], "holds a run with --trainer.max_steps=4, not"),
        (["--mixers", "broken"], "there is no config file mixer/broken"),
        (["--windows", "64", "9999"], "no document of .* is long enough|has"),
        (["--windows", "128", "128"], "--reset 128 must be"),
        (["--jobs", "0"], "--jobs 0 must be 1 or more"),
    ]
    for options, message in wrong:
        with pytest.raises(SystemExit, match=message):
            main([*command, "attention", *options])
    assert not Path("out/broken_3").exists()
