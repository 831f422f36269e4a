"""Laws of the lessons: texts of one length, from few facts to many, each asked for at its end."""

import re

import numpy as np
import pytest

from tttvideo.data.recall.lessons import Lessons, most_pairs
from tttvideo.data.recall.texts import ASKS, KEYS, byte_length, pairs_length


LESSONS = Lessons(length=256, bytes=1024)


def batches(done, count=60):
    return [LESSONS.batch(np.random.default_rng(n), done) for n in range(count)]


def pairs_of(text):
    return len(re.findall("=", text.split("Recall:")[0])) if text.startswith("Pairs:") else 0


@pytest.mark.parametrize("done", [0, 0.3, 1])
def test_the_texts_of_a_batch_have_one_length_and_fill_it(done):
    for texts in batches(done):
        sizes = {byte_length(sample.text) for sample in texts}
        assert max(sizes) - min(sizes) < 5  # what no sentence fills
        assert len(texts) == 1024 // max(sizes) or len(texts) * max(sizes) <= 1024


def test_texts_and_their_pairs_grow_until_half_of_the_training():
    longest, most = [], []
    for done in (0, 0.25, 0.5, 1):
        texts = [sample.text for batch in batches(done, 200) for sample in batch]
        longest.append(max(map(byte_length, texts)))
        most.append(max(map(pairs_of, texts)))
    assert longest[0] <= 64 < longest[1] < 140 < longest[2] <= 256 and longest[3] > 240
    assert most[0] == 4 < most[1] < most[2] <= most_pairs(256) == 43 and most[3] > 35


def test_every_task_is_taught_and_every_answer_was_stated():
    texts = [sample for batch in batches(1) for sample in batch]
    for start in ("Code ", "Let ", "Pairs:"):
        assert sum(start in sample.text for sample in texts) > 10
    for sample in texts:
        assert 1 <= len(sample.answers) <= ASKS
        for answer in sample.answers:
            value = sample.text[answer.start : answer.end]
            assert sample.text[answer.source :].startswith(value)


@pytest.mark.parametrize("length", [48, 64, 100, 145, 149, 256, 400])
def test_as_many_pairs_as_there_is_room_or_keys_for(length):
    pairs = most_pairs(length)
    assert pairs_length(pairs) <= length
    assert pairs == len(KEYS) == 64 or pairs_length(pairs + 1) > length
