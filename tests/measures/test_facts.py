"""`tttvideo evaluate facts`: equal states, what is learned, the control, and the command."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tttvideo.apps.cli import main
from tttvideo.apps.commands import evaluate_facts
from tttvideo.data.recall.texts import byte_length
from tttvideo.measures import facts
from tttvideo.measures.facts import (
    MIXERS,
    PAIRS,
    FactSettings,
    answer_nats,
    mean_cells,
    memory_shape,
    new_model,
    recall_pairs,
)
from tttvideo.states import state_bytes
from tttvideo.weights.checkpoints import load_tokens_model


def model_of(name):
    torch.manual_seed(0)
    return new_model(name).eval()


@pytest.mark.parametrize("name", MIXERS)
def test_memories_have_16_kib_a_block_and_what_little_their_shapes_add(name):
    model = model_of(name)
    _, state = model(torch.zeros(1, 32, dtype=torch.long))
    for block in state.blocks:
        held = state_bytes(block.mixer)
        if name == "attention":
            assert held == 2 * 32 * 64 * 4  # a key and a value of each token
        else:
            assert 16384 <= held <= 1.15 * 16384


def test_only_the_answers_are_learned():
    model = model_of("attention")
    tokens = torch.randint(256, (2, 20))
    answers = torch.full_like(tokens, -1)
    answers[0, 7:9], answers[1, 12] = 0, 1
    logits = model(tokens)[0]
    costs = [F.cross_entropy(logits[r, t - 1], tokens[r, t]) for r, t in ((0, 7), (0, 8), (1, 12))]
    torch.testing.assert_close(answer_nats(model, tokens, answers), sum(costs) / 3)


def test_the_control_reads_the_same_questions_after_another_texts_pairs(monkeypatch):
    read, score = [], facts.score_answers
    monkeypatch.setattr(facts, "score_answers", lambda *x: read.append(x) or score(*x))
    recall_pairs(model_of("ttt_linear"), 5, 3)
    (own, other) = ([bytes(row[1:].tolist()).decode() for row in x[1]] for x in read)
    assert torch.equal(read[0][2], read[1][2])
    for n, (mine, swapped) in enumerate(zip(own, other, strict=True)):
        assert mine.split("Recall:")[1] == swapped.split("Recall:")[1]
        assert swapped.split("Recall:")[0] == own[n - 1].split("Recall:")[0]
    assert len(set(own)) == 3 and {byte_length(text) for text in own} == {57}


def test_shapes_say_how_many_keys_a_linear_memory_tells_apart():
    shapes = {name: memory_shape(model_of(name).config) for name in MIXERS}
    assert shapes["ttt_linear"] == shapes["gated_delta"] == {"heads": 1, "key": 64}
    assert shapes["mamba"] == {"heads": 1, "key": 32} and shapes["attention"] is None


def test_cells_are_averaged_over_the_seeds_and_stay_empty_without_room():
    def run(exact):
        return {"cells": [{"row": 8, "exact": exact}, {"row": 9, "exact": None}]}

    cells = mean_cells([run(0.5), run(1.0)])
    assert cells == [{"row": 8, "exact": 0.75}, {"row": 9, "exact": None}]


def test_the_command_knows_the_mixers():
    assert set(evaluate_facts.MIXERS) == set(MIXERS)
    defaults = {name: default for name, (default, *_) in evaluate_facts.SETTINGS.items()}
    assert FactSettings() == FactSettings(**defaults)


def test_the_command_trains_what_is_missing_and_writes_checkpoints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "facts", "--out", "out", "--seconds", "0.05", "--length", "96"]
    command += ["--samples", "1", "--mixers"]
    main([*command, "attention", "--seeds", "0"])
    first = json.loads(Path("out/facts.json").read_text())["runs"]
    main([*command, "attention", "ttt_linear", "--seeds", "0"])
    runs = json.loads(Path("out/facts.json").read_text())["runs"]
    assert runs[:1] == first and [run["mixer"] for run in runs] == ["attention", "ttt_linear"]
    for run in runs:
        assert run["trained"]["steps"] >= 1 and list(run["recall"]) == list(map(str, PAIRS))
        assert all(0 <= cell["exact"] <= 1 for cell in run["cells"] if cell["answers"])
    model = load_tokens_model("out/ttt_linear_0.ckpt")
    assert model.trained == runs[1]["trained"] and model.backbone.config.own.forget
    page = Path("out/facts.md").read_text()
    assert "| 1 x 64 |" in page and "TTT-Linear, other" in page
    assert Path("out/facts.png").stat().st_size > 10_000
    for options, message in (
        (["attention", "--samples", "2"], "holds runs with other settings"),
        (["lstm"], "invalid choice: 'lstm'"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*command, *options])
