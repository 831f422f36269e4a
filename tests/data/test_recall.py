"""Laws of the generated recall texts and their questions."""

import re
from itertools import islice

import numpy as np
import pytest

from tttvideo.data.recall import texts as recall
from tttvideo.data.recall.questions import TASKS, Questions, chance, encode_sample
from tttvideo.data.recall.texts import (
    byte_length,
    hide_facts,
    mqar,
    needle,
    recall_documents,
    variables,
)
from tttvideo.data.text.tokenizer import ByteTokenizer


PLAN = {
    "needle": lambda rng: needle(rng, [0.5, 0.1, 0.9], asks=2),
    "mqar": lambda rng: mqar(rng, 5),
    "variables": lambda rng: variables(rng, hops=2, asks=3),
}


def draw(seed, length, plan, **settings):
    rng = np.random.default_rng(seed)
    return hide_facts(rng, length, plan(rng), **settings)


class Pairs:
    """A tokenizer of two bytes a token, so that tokens and answers end at different places."""

    def encode(self, text):
        data = text.encode()
        return [*range(len(data) // 2)] + [999] * (len(data) % 2)

    def byte_lengths(self):
        return np.array([2] * 999 + [1])


@pytest.mark.parametrize("length", [300, 1000, 4096])
@pytest.mark.parametrize("task", PLAN)
def test_a_sample_has_the_given_length(task, length):
    for seed in range(5):
        sample = draw(seed, length, PLAN[task])
        assert length - 5 < byte_length(sample.text) <= length


@pytest.mark.parametrize("task", PLAN)
def test_an_answer_repeats_the_value_of_its_fact(task):
    rng = np.random.default_rng(0)
    for _ in range(20):
        sample = hide_facts(rng, 500, PLAN[task](rng))
        assert sample.answers
        for answer in sample.answers:
            value = sample.text[answer.start : answer.end]
            assert len(value) == recall.DIGITS[task] and value.isdigit()
            assert sample.text[answer.source :].startswith(value) and answer.source < answer.start
            if task != "variables":
                before = (sample.text[:place] for place in (answer.start, answer.source))
                question, fact = (text.rsplit(" ", 1)[1] for text in before)
                assert question == fact  # the same name or key stands before both


def test_a_chain_of_variables_leads_to_its_value():
    for seed in range(10):
        text = draw(seed, 600, lambda rng: variables(rng, hops=3, chains=2)).text
        facts, question = text.split("Ask ")
        values = {}
        for sentence in facts.split(". "):
            if sentence.startswith("Let "):
                name, value = sentence.removeprefix("Let ").split("=")
                values[name] = values.get(value, value)
        name, value = question.removesuffix(". ").split("=")
        assert values[name] == value and len(values) == 8


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
def test_a_needle_lies_at_its_depth(depth):
    (answer,) = draw(1, 2000, lambda rng: needle(rng, [depth])).answers
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
    sample = draw(0, 400, lambda rng: needle(rng, [0.5]), haystack=hay)
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
        hide_facts(rng, 50, mqar(rng, 8))
    with pytest.raises(ValueError, match="names for"):
        needle(rng, [0.5] * 200)
    with pytest.raises(ValueError, match="256 bytes or more"):
        next(recall_documents(100))


def test_tokens_of_an_answer_are_those_that_hold_a_part_of_it():
    sample = draw(0, 300, lambda rng: mqar(rng, 4))
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
        encode_sample(draw(0, 300, lambda rng: mqar(rng, 4)), Loses())


@pytest.mark.parametrize("task", TASKS)
def test_chance_is_the_score_of_repeating_a_random_value(task):
    questions, hits = Questions([400], distractors=3), []
    row = {"needle": 0.5, "mqar": 4, "variables": 1}[task]
    rng = np.random.default_rng(0)
    for seed in range(400):
        text = questions.draw(task, row, 400, (seed,)).text
        facts, question = re.split(r"Ask |Recall:", text)
        values, right = re.findall(r"=(\d+)", facts), re.search(r"=(\d+)", question)[1]
        hits.append(values[rng.integers(len(values))] == right)
    assert np.mean(hits) == pytest.approx(chance(task, row, 3), abs=0.075)
    assert chance("needle", 0.5, 3) == pytest.approx(1 / 4, abs=1e-3)
    assert chance("variables", 3, 3) == pytest.approx(1 / 2, abs=1e-2)
    assert chance("mqar", 1, 3) == 1 and 1 / 10 < chance("mqar", 8, 3) < 1 / 4
