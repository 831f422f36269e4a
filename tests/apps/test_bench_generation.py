"""`tttvideo bench generation`: flat and growing costs by context, its gate, its report."""

import json
from dataclasses import replace

import pytest
import torch

from tttvideo.apps.cli import main
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.measures import decoding
from tttvideo.measures.decoding import Point, decoding_by_context, relative_change
from tttvideo.mixers.attention import AttentionConfig
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.weights.checkpoints import TokenCheckpoint, save_tokens_model


CONTEXTS = (8, 16, 64)


def small(**changes):
    torch.manual_seed(0)
    ttt = TTTConfig(mini_batch_size=4)
    return Backbone(BackboneConfig(31, 16, 2, 2, 24, ttt=ttt, **changes)).eval()


@pytest.fixture(autouse=True)
def no_ceilings(monkeypatch):
    """They take a second, and numbers mean nothing here."""
    found = {"bytes_per_second": 1e10, "flop_per_second": 1e11}
    monkeypatch.setattr("tttvideo.apps.bench.program.ceilings", lambda *_: found)


@pytest.mark.parametrize(
    "changes, growth",
    [
        ({}, 0),
        ({"mixer": "attention"}, 2 * 2 * 16 * 4),  # k and v of each of two blocks
        ({"mixer": "attention", "attention": AttentionConfig(window=5)}, 0),
    ],
    ids=["ttt", "attention", "window"],
)
def test_only_the_state_of_full_attention_grows_with_the_context(changes, growth):
    read = []
    points = decoding_by_context(
        small(**changes), CONTEXTS, tokens=4, rounds=3, advance=read.append
    )
    assert [point.context for point in points] == list(CONTEXTS)
    first = points[0]
    for point in points:
        assert point.state == first.state + growth * (point.context - first.context)
        assert len(point.seconds) == 3 and min(point.seconds) > 0
        assert point.error < 1e-5
    assert sum(read) == 64 + 3 * 3 * 4


def test_the_slope_is_relative_and_over_the_logarithm_of_the_context():
    points = [Point(2**n, 0, 0.0, 10, [5.0 + n, 50.0, 5.0 + n]) for n in (10, 12, 15)]
    assert relative_change(points) == pytest.approx(5 / 15)
    flat = [replace(point, seconds=[2.0]) for point in points]
    assert relative_change(flat) == pytest.approx(0)


def test_a_checkpoint_gets_numbers_table_and_picture(tmp_path, capsys):
    save_tokens_model(TokenCheckpoint(small(), "unknown"), tmp_path / "a.ckpt")
    arguments = ["--checkpoint", str(tmp_path / "a.ckpt"), "--tokens", "32", "64"]
    out = tmp_path / "out"
    main(["bench", "generation", *arguments, "--repeats", "3", "--out", str(out)])
    assert {path.name for path in out.iterdir()} == {
        f"generation.{e}" for e in ("json", "md", "png")
    }
    record = json.loads((out / "generation.json").read_text())
    assert {(r["what"], r["case"]["tokens"]) for r in record["rows"]} == {
        (what, tokens) for what in ("decode", "state") for tokens in (32, 64)
    }
    assert "from 32 to 64 tokens of context the time of a token changes by" in record["notes"][0]
    assert "peak memory of the process, of all models and contexts" in record["notes"][1]
    assert len(record["notes"]) == 2
    assert (out / "generation.md").read_text() in capsys.readouterr().out


def test_decoding_that_differs_from_reading_fails_its_gate(tmp_path, monkeypatch):
    class Wrong(decoding.Decoding):
        def read(self, tokens):
            super().read(tokens)
            self.logits = 1.01 * self.logits

    monkeypatch.setattr(decoding, "Decoding", Wrong)
    arguments = ["--inner", "linear", "--tokens", "16", "--repeats", "3", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="a gate failed:\n.*logits are off by 1.0e-02"):
        main(["bench", "generation", *arguments])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["generation", "--batch", "2"], "--batch is not for generation"),
        (["generation", "--dtype", "bfloat16"], "--dtype is not for generation"),
        (["generation", "--limit", "3"], "--limit is not for generation"),
        (["generation", "--checkpoint", "x", "--inner", "mlp"], "--inner is not .* own"),
        (["generation", "--checkpoint", "x", "--size", "125m"], "--size is not .* own"),
        (
            ["generation", "--checkpoint", "x", "--mini-batch", "8"],
            "--mini-batch is not .* own",
        ),
        (["kernels", "--checkpoint", "x.ckpt"], "--checkpoint is for generation, not for kernels"),
        (["generation", "--checkpoint", "x.ckpt"], "there is no checkpoint x.ckpt"),
    ],
)
def test_wrong_options_are_refused_in_one_line(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        main(["bench", *arguments, "--out", str(tmp_path)])
