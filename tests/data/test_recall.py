"""Laws of the recall text and of its scores."""

import argparse
import json
import math
import re
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tttvideo.apps.evaluate import recall as app
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.data.recall import texts as recall
from tttvideo.data.recall.questions import HOPS, PAIRS, TASKS, Questions, chance, encode_sample
from tttvideo.data.recall.texts import byte_length, mqar, needle, recall_documents, variables
from tttvideo.data.text.tokenizer import ByteTokenizer
from tttvideo.measures.recall import score_answers
from tttvideo.weights.checkpoints import save_tokens_model


DRAW = {
    "needle": lambda rng, length: needle(rng, length, [0.5, 0.1, 0.9], asks=2),
    "mqar": lambda rng, length: mqar(rng, length, 5),
    "variables": lambda rng, length: variables(rng, length, hops=2, asks=3),
}


class Pairs:
    """A tokenizer of two bytes a token, so that tokens and answers end at different places."""

    def encode(self, text):
        data = text.encode()
        return [*range(len(data) // 2)] + [999] * (len(data) % 2)

    def byte_lengths(self):
        return np.array([2] * 999 + [1])


@pytest.mark.parametrize("length", [300, 1000, 4096])
@pytest.mark.parametrize("task", DRAW)
def test_a_sample_has_the_given_length(task, length):
    for seed in range(5):
        sample = DRAW[task](np.random.default_rng(seed), length)
        assert length - 5 < byte_length(sample.text) <= length


@pytest.mark.parametrize("task", DRAW)
def test_an_answer_repeats_the_value_of_its_fact(task):
    rng = np.random.default_rng(0)
    for _ in range(20):
        sample = DRAW[task](rng, 500)
        assert sample.answers
        for answer in sample.answers:
            value = sample.text[answer.start : answer.end]
            assert len(value) == recall.DIGITS[task] and value.isdigit()
            assert sample.text[answer.source :].startswith(value) and answer.source < answer.start
            if task != "variables":
                before = (sample.text[:place] for place in (answer.start, answer.source))
                asked, told = (text.rsplit(" ", 1)[1] for text in before)
                assert asked == told  # the same name or key stands before both


def test_a_chain_of_variables_leads_to_its_value():
    for seed in range(10):
        text = variables(np.random.default_rng(seed), 600, hops=3, chains=2).text
        told, question = text.split("Ask ")
        values = {}
        for sentence in told.split(". "):
            if sentence.startswith("Let "):
                name, value = sentence.removeprefix("Let ").split("=")
                values[name] = values.get(value, value)
        name, value = question.removesuffix(". ").split("=")
        assert values[name] == value and len(values) == 8


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
def test_a_needle_lies_at_its_depth(depth):
    (answer,) = needle(np.random.default_rng(1), 2000, [depth]).answers
    assert answer.source / answer.start == pytest.approx(depth, abs=0.035)


def test_the_same_seed_draws_the_same_text_and_another_seed_another():
    texts = [list(islice(recall_documents(700, seed), 20)) for seed in (3, 3, 4)]
    assert texts[0] == texts[1]
    assert not set(texts[0]) & set(texts[2])
    assert list(islice(recall_documents(700, 3), 5)) == texts[0][:5]


def test_training_documents_are_short_and_long_with_many_questions():
    documents = list(islice(recall_documents(2048, 0), 200))
    sizes = [byte_length(text) for text in documents]
    assert min(sizes) < 300 and max(sizes) > 1800
    assert all(250 < size <= 2048 for size in sizes)
    whole = " ".join(documents)
    for start in ("Code ", "Let ", "Ask ", "Pairs:", "Recall:"):
        assert whole.count(start) > 100, start
    asked = whole.count("Ask ") + sum(p.count("=") for p in whole.split("Recall:")[1:])
    assert len(whole) / asked < 50


def test_a_given_text_serves_as_haystack():
    hay = recall.text_haystack("Vögel sangen. Es war spät? Ja!")
    sample = needle(np.random.default_rng(0), 400, [0.5], haystack=hay)
    assert "Vögel sangen. " in sample.text and "Es war spät? " in sample.text
    (answer,) = sample.answers
    data = sample.text.encode()
    value = data[answer.start : answer.end]
    assert data[answer.source :].startswith(value) and value.isdigit()
    with pytest.raises(ValueError, match="full stops"):
        recall.text_haystack("no end")


def test_a_length_without_room_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="a length of 50 has no room for 10 facts"):
        mqar(rng, 50, 8)
    with pytest.raises(ValueError, match="names for"):
        needle(rng, 100_000, [0.5] * 200)
    with pytest.raises(ValueError, match="256 bytes or more"):
        next(recall_documents(100))


def test_tokens_of_an_answer_are_those_that_hold_a_part_of_it():
    sample = mqar(np.random.default_rng(0), 300, 4)
    tokens, spans = encode_sample(sample, ByteTokenizer())
    assert [(a.start, a.end) for a in sample.answers] == spans
    assert ByteTokenizer().decode(tokens) == sample.text
    _, spans = encode_sample(sample, Pairs())
    for (first, last), answer in zip(spans, sample.answers, strict=True):
        assert first == answer.start // 2 and last == (answer.end + 1) // 2


def test_a_tokenizer_that_loses_bytes_is_refused():
    class Loses(Pairs):
        def byte_lengths(self):
            return np.array([1] * 1000)

    with pytest.raises(ValueError, match="keeps every byte"):
        encode_sample(mqar(np.random.default_rng(0), 300, 4), Loses())


CONFIG = BackboneConfig(vocab_size=11, width=16, depth=2, heads=2, mlp_width=24)


def scored():
    """A model in float64, tokens (3, 40), the number of each one's answer, and spans by answer."""
    torch.manual_seed(0)
    model = Backbone(CONFIG).double()
    tokens = torch.randint(11, (3, 40))
    spans = [(0, 3, 5), (2, 17, 18), (0, 30, 33), (1, 15, 18), (1, 39, 40)]
    answers = torch.full_like(tokens, -1)
    for number, (row, start, end) in enumerate(spans):
        answers[row, start:end] = number
    return model, tokens, answers, spans


@pytest.mark.parametrize("chunk", [1, 16, 1000])
def test_scores_in_chunks_are_those_of_one_forward_pass(chunk):
    model, tokens, answers, spans = scored()
    with torch.no_grad():
        logits, _ = model(tokens)
    row, place, _ = spans[1]
    tokens[row, place] = logits[row, place - 1].argmax()  # one right answer
    with torch.no_grad():
        logits = model(tokens)[0].double()
    exact, bits = score_answers(model, tokens, answers, chunk)
    for number, (row, start, end) in enumerate(spans):
        truth, guess = tokens[row, start:end], logits[row, start - 1 : end - 1]
        cost = F.cross_entropy(guess, truth) / math.log(2)
        assert bits[number].item() == pytest.approx(cost.item(), rel=1e-5)
        assert exact[number].item() == bool((guess.argmax(-1) == truth).all())
    assert exact.any() and not exact.all()


def test_tokens_after_a_text_change_no_score():
    model, tokens, answers, _ = scored()
    longer = torch.cat((tokens, torch.randint(11, (3, 7))), dim=1)
    marks = torch.cat((answers, torch.full((3, 7), -1)), dim=1)
    for ours, theirs in zip(
        score_answers(model, tokens, answers), score_answers(model, longer, marks), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_answers_that_cannot_be_scored_are_refused():
    model, tokens, answers, _ = scored()
    first = answers.clone()
    first[0, 0] = 1
    for wrong in (answers[:, :-1], torch.full_like(answers, -1), first):
        with pytest.raises(ValueError, match="none at a first token"):
            score_answers(model, tokens, wrong)


def run_app(arguments):
    top = argparse.ArgumentParser()
    app.add_parser(top.add_subparsers())
    app.run(top.parse_args(["recall", *map(str, arguments)]))


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    backbone = Backbone(replace(CONFIG, vocab_size=258, depth=1))
    path = tmp_path / "tiny" / "last.ckpt"
    save_tokens_model(backbone, path, "bytes", bos=256, eos=257)
    saved = torch.load(path, weights_only=True)
    saved["tttvideo"]["trained"] = {"tokens": 10, "flops": 1e9, "window": 200, "steps": 2}
    torch.save(saved, path)
    return path


FEW = ["--lengths", 60, 300, "--depths", 2, "--samples", 2]


def test_the_app_leaves_maps_tables_and_numbers_and_reads_them_again(checkpoint, tmp_path, capsys):
    out = tmp_path / "maps"
    run_app([checkpoint, "--out", out, *FEW, "--distractors", 1])
    record = json.loads((out / "recall-tiny.json").read_text())
    cells = {(c["task"], c["length"], c["row"]): c for c in record["cells"]}
    assert len(cells) == 2 * (2 + len(PAIRS) + len(HOPS))
    assert cells["mqar", 60, 8]["exact"] is None and cells["mqar", 60, 8]["answers"] == 0
    assert cells["mqar", 300, 4]["answers"] == 8
    assert all(0 <= c["exact"] <= 1 and c["bits"] > 0 for c in cells.values() if c["answers"])
    table = (out / "recall.md").read_text()
    assert "| depth | by chance | 60 | 300* |" in table and "| 100%  | 50%       |" in table
    assert table in capsys.readouterr().out
    assert (out / "recall-tiny.png").stat().st_size > 10_000

    record["date"] = "long ago"
    (out / "recall-tiny.json").write_text(json.dumps(record))
    run_app([checkpoint, "--out", out, *FEW, "--distractors", 1])
    assert json.loads((out / "recall-tiny.json").read_text()) == record  # was not asked again
    run_app([checkpoint, "--out", out, *FEW, "--distractors", 0])
    assert json.loads((out / "recall-tiny.json").read_text())["date"] != "long ago"
    assert {path.suffix for path in out.iterdir()} == {".json", ".md", ".png"}


@pytest.mark.parametrize("task", TASKS)
def test_chance_is_the_score_of_repeating_a_random_value(task):
    questions, hits = Questions([400], distractors=3), []
    row = {"needle": 0.5, "mqar": 4, "variables": 1}[task]
    rng = np.random.default_rng(0)
    for seed in range(400):
        text = questions.draw(task, row, 400, (seed,)).text
        told, asked = re.split(r"Ask |Recall:", text)
        values, right = re.findall(r"=(\d+)", told), re.search(r"=(\d+)", asked)[1]
        hits.append(values[rng.integers(len(values))] == right)
    assert np.mean(hits) == pytest.approx(chance(task, row, 3), abs=0.075)
    assert chance("needle", 0.5, 3) == pytest.approx(1 / 4, abs=1e-3)
    assert chance("variables", 3, 3) == pytest.approx(1 / 2, abs=1e-2)
    assert chance("mqar", 1, 3) == 1 and 1 / 10 < chance("mqar", 8, 3) < 1 / 4


def test_a_model_that_diverges_is_wrong_and_said_so(checkpoint, tmp_path, monkeypatch):
    def broken(backbone, tokens, answers, chunk):
        exact, bits = score_answers(backbone, tokens, answers, chunk)
        far = tokens.shape[1] > 200
        return exact | far, bits.where(torch.tensor(not far), torch.nan)

    monkeypatch.setattr("tttvideo.measures.recall.score_answers", broken)
    run_app([checkpoint, "--out", tmp_path / "maps", *FEW])
    cells = json.loads((tmp_path / "maps" / "recall-tiny.json").read_text())["cells"]
    far = [c for c in cells if c["length"] == 300 and c["answers"]]
    assert far and all(c["bits"] is None and c["exact"] == 0 for c in far)
    assert all(c["bits"] > 0 for c in cells if c["length"] == 128 and c["answers"])
    assert "tiny diverged on texts of 300 tokens" in (tmp_path / "maps" / "recall.md").read_text()


def test_a_haystack_that_is_no_text_is_named_in_one_line(checkpoint, tmp_path):
    (tmp_path / "hay.bin").write_bytes(b"A sentence. \xff")
    hay = ["--haystack", tmp_path / "hay.bin"]
    with pytest.raises(ValueError, match=r"hay\.bin is no text in UTF-8: byte 12 is") as error:
        run_app([checkpoint, "--out", tmp_path / "maps", *FEW, *hay])
    assert "\n" not in str(error.value)


def test_checkpoints_are_named_by_as_much_of_their_path_as_tells_them_apart():
    assert list(app.names(["/a/x/last.ckpt", "/b/y/last.ckpt"])) == ["x", "y"]
    assert list(app.names(["/a/x/last.ckpt", "/b/x/last.ckpt"])) == ["a-x", "b-x"]
    assert list(app.names(["/a/imported.ckpt"])) == ["imported"]
    with pytest.raises(ValueError, match="give each once"):
        app.names(["/a/x/last.ckpt", "/a/../a/x/last.ckpt"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", 0], "--samples is 0"),
        (["--lengths", 0], "--lengths has 0"),
        (["--lengths", 40], "no length has room for the task needle"),
    ],
    ids=str,
)
def test_settings_that_ask_nothing_are_refused(arguments, message, checkpoint, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_app([checkpoint, "--out", tmp_path / "maps", *arguments])
