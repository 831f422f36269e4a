"""The comparison of mixers: trains what is missing, and measures all."""

import json
from pathlib import Path

import pytest

from tttvideo.apps.cli import main


SMALL = ["--tokens", "512", "256", "--windows", "64", "128", "--seeds", "3", "--jobs", "1"]


@pytest.mark.slow
def test_a_comparison_trains_each_run_once_and_draws_all(tmp_path, monkeypatch, capsys):
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
    assert {"attention", "ttt_linear"} <= set(
        json.loads(Path("out/evaluation.json").read_text())["groups"]
    )
    assert Path("out/fixed_targets.png").is_file() and Path("out/by_index.png").is_file()
    Path("out/broken_3").mkdir()
    with pytest.raises(
        SystemExit, match="the run out/broken_3 failed: .*no config file mixer/brok"
    ):
        main([*command, "broken"])
