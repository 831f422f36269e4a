"""Recall: whether a model predicts answers that stand earlier in the same text.

Each token of an answer is predicted from the true text before it.

B batch, T tokens, A answers.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tttvideo.backbone import Backbone
from tttvideo.data.recall.questions import Cell, Questions, encode_batch
from tttvideo.data.recall.texts import drawn_haystack, text_haystack
from tttvideo.data.text.tokenizer import Tokenizer
from tttvideo.progress import Advance
from tttvideo.reading import CHUNK, read, score_hidden


BATCH, CALL = 16, 8192  # texts, and tokens of all of them, that one call reads


def token_questions(
    tokenizer: Tokenizer, haystack: str | None = None, **settings: Any
) -> Questions:
    """Questions whose lengths are counted in tokens, in a given text or in generated sentences."""
    return Questions(
        measure=cache(lambda text: len(tokenizer.encode(text))),
        haystack=drawn_haystack if haystack is None else text_haystack(haystack),
        **settings,
    )


def recall_cells(
    backbone: Backbone,
    tokenizer: Tokenizer,
    bos: int | None,
    cells: Sequence[Cell],
    advance: Advance = lambda _: None,
) -> list[dict[str, Any]]:
    """For each cell: answers, the exact share of them and bits per token; None without a text.

    An answer whose bits are not finite, because the model diverged, is not exact.
    """
    device, rows = backbone.embedding.weight.device, []
    for cell in cells:
        exact, bits = [], []
        for start in range(0, len(cell.samples), BATCH):
            samples = cell.samples[start : start + BATCH]
            arrays = encode_batch(samples, tokenizer, bos)
            tokens, answers = (torch.from_numpy(array).to(device) for array in arrays)
            found = score_answers(backbone, tokens, answers, chunk=CALL // len(samples))
            exact += (found[0] & found[1].isfinite()).tolist()
            bits += found[1].tolist()
            advance(cell.length * len(samples))
        row = {"task": cell.task, "length": cell.length, "row": cell.row, "answers": len(bits)}
        rows.append({**row, "exact": mean(exact), "bits": mean(bits)})
    return rows


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


@torch.inference_mode()
def score_answers(
    backbone: Backbone, tokens: Tensor, answers: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Score the answers in texts that are read `chunk` tokens of a row at a time.

    Arguments:
        tokens: (B, T) on the backbone's device; padding stands behind the text of a row.
        answers: (B, T), the number 0 ... A - 1 of the answer that a token belongs to, else -1;
            every number occurs, in one row only, and never at a row's first token.
    Returns: exact (A,) bool, whether every token of the answer was the most probable one;
        bits (A,) float64, the mean cost of an answer's tokens.
    Raises: ValueError when `answers` does not fit the tokens or has no answer.
    """
    if answers.shape != tokens.shape or answers.max() < 0 or (answers[:, 0] >= 0).any():
        raise ValueError(
            f"answers are {tuple(answers.shape)} for tokens {tuple(tokens.shape)}; they must have "
            "the same shape, one answer or more, and none at a first token"
        )
    A = int(answers.max()) + 1
    exact = torch.ones(A, dtype=torch.bool, device=tokens.device)
    bits, counts = torch.zeros(2, A, dtype=torch.float64, device=tokens.device)
    for start, hidden, _ in read(backbone, tokens[:, :-1], chunk=chunk):
        targets = slice(start + 1, start + 1 + hidden.shape[1])
        number, target = answers[:, targets], tokens[:, targets]
        here = number >= 0
        number = number[here]
        nats, predicted = score_hidden(backbone, hidden[here], target[here])
        exact[number[~predicted]] = False
        bits.index_add_(0, number, nats / math.log(2))
        counts.index_add_(0, number, torch.ones_like(nats))
    return exact, bits / counts
