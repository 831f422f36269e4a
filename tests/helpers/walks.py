"""Walks as token files, without an engine."""

import numpy as np

from tttvideo.data.tokens import Header, token_writer


HEADER = Header("video", "a tokenizer", 20, (4, 4), 35.0, conditions=("poses",))


def write_walks(path, frames, seed=0, header=HEADER):
    """A walk for each number of frames; returns their tokens (F, 16) and poses (F, 3)."""
    rng, walks = np.random.default_rng(seed), []
    with token_writer(path, header) as writer:
        for count in frames:
            tokens = rng.integers(20, size=(count, 16))
            turns = 11.25 * rng.integers(32, size=(count, 1))
            poses = np.hstack((rng.uniform(0, 2, (count, 2)), turns)).astype("<f4")
            writer.start_document()
            writer.write(tokens, **({"poses": poses} if header.conditions else {}))
            walks.append((tokens, poses))
    return walks
