"""Facts: small text models, one for each mixer, learn to recall what a text states.

Every model is trained for the same CPU time on texts that state facts and ask for them at their
end; only the answers are learned. Then it is asked about longer texts, up to 16 times the length,
and about texts of many pairs. States of the mixers have equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.data.recall.lessons import Lessons
from tttvideo.data.recall.questions import Questions, encode_batch
from tttvideo.data.recall.texts import KEYS, Sample, hide_facts, mqar, pairs_length
from tttvideo.data.text.tokenizer import ByteTokenizer
from tttvideo.layers import init_by_fan_in
from tttvideo.mixers.gated_delta import GatedDeltaConfig
from tttvideo.mixers.mamba import MambaConfig
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.states import state_bytes
from tttvideo.weights.checkpoints import TokenCheckpoint

from .flops import training_flops
from .recall import mean, recall_cells, score_answers
from .small_training import SmallTraining


TTT = TTTConfig(carry=1.0, forget=True, first_decay=0.05)
"""A carry of 1 is 16 times the usual one: a fact is read once. The gate begins so that half of a
memory is left after 10,000 bytes."""
MIXERS: dict[str, dict[str, Any]] = {
    "ttt_linear": {"mixer": "ttt", "ttt": TTT},
    "ttt_mlp": {"mixer": "ttt", "ttt": replace(TTT, inner="mlp"), "heads": 8},
    "gated_delta": {"mixer": "gated_delta", "gated_delta": GatedDeltaConfig(first_decay=1e-3)},
    "mamba": {"mixer": "mamba", "mamba": MambaConfig(32, first_decay=1e-3)},
    "attention": {"mixer": "attention", "heads": 2},
}
"""Fields of BackboneConfig by name. The memory of a block has 16 KiB, and what little the shapes
add, apart from attention's, which grows. Gates begin so that they keep a whole text."""
PAIRS = 1, 2, 4, 8, 16, 24, 32, 48, 64
TIMES = 1, 2, 4, 8, 16
"""Lengths of the texts that are measured, as multiples of the longest that is learned."""
TOKENIZER = ByteTokenizer()


@dataclass(frozen=True)
class FactSettings:
    """The lessons and the questions, the same for every mixer."""

    length: int = 256
    """Bytes of the longest texts that are learned."""
    batch: int = 2048
    """Bytes of a training step."""
    lr: float = 3e-3
    """Peak learning rate of AdamW."""
    seconds: float = 120.0
    """CPU time of training."""
    samples: int = 16
    """Texts of each kind and length that are measured; twice as many for the number of pairs."""
    distractors: int = 3
    """Needles that are not asked for."""


def new_model(name: str) -> Backbone:
    """Two blocks with this mixer."""
    fields = {"width": 64, "heads": 1, "depth": 2, "mlp_width": 128, **MIXERS[name]}
    model = Backbone(BackboneConfig(vocab_size=TOKENIZER.vocab_size, **fields))
    init_by_fan_in(model)
    nn.init.normal_(model.embedding.weight, std=model.config.width**-0.5)
    return model


def train(
    model: Backbone, settings: FactSettings, seed: int, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Train for `settings.seconds` of CPU time, on new texts at each step.

    Returns: tokens, flops, window and steps, as a checkpoint holds them.
    """
    lessons, read = Lessons(settings.length, settings.batch), []

    def loss(done: float, step: int) -> Tensor:
        texts = lessons.batch(np.random.default_rng((seed, step)), done)
        tokens, answers = tensors(texts)
        read.append(tokens.numel())
        return answer_nats(model, tokens, answers)

    steps = SmallTraining(model, settings.lr).run(settings.seconds, loss, advance)
    flops = training_flops(model.config, sum(read), settings.length)
    return {"tokens": sum(read), "flops": flops, "window": settings.length, "steps": steps}


def tensors(texts: list[Sample]) -> tuple[Tensor, Tensor]:
    """Tokens (B, T), and the number of the answer that each is a part of, or -1."""
    tokens, answers = encode_batch(texts, TOKENIZER, TOKENIZER.bos)
    return torch.from_numpy(tokens), torch.from_numpy(answers)


def answer_nats(model: Backbone, tokens: Tensor, answers: Tensor) -> Tensor:
    """Mean of -log p over the tokens of the answers."""
    hidden, _ = model.features(tokens[:, :-1])
    here = answers[:, 1:] >= 0
    return F.cross_entropy(model.head(hidden[here]), tokens[:, 1:][here])


def measure(
    name: str, settings: FactSettings, seed: int, advance: Callable[[int], None]
) -> tuple[TokenCheckpoint, dict[str, Any]]:
    """Train a model with a mixer and measure it: its checkpoint, and a record of JSON's types."""
    torch.manual_seed(seed)
    model = new_model(name)
    trained = train(model, settings, seed, advance)
    model.eval()
    run = {
        "mixer": name,
        "label": model.config.entry.label(model.config.own),
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained": trained,
        "shape": memory_shape(model.config),
        "state_bytes": bytes_after(model, settings.length),
        "cells": maps(model, settings),
        "recall": {str(n): recall_pairs(model, n, 2 * settings.samples) for n in PAIRS},
    }
    bos, eos = TOKENIZER.bos, TOKENIZER.eos
    return TokenCheckpoint(model, TOKENIZER.name, bos=bos, eos=eos, trained=trained), run


def memory_shape(config: BackboneConfig) -> dict[str, int] | None:
    """Heads H and features D of a key, of a memory with keys and a state of one size."""
    if config.mixer == "attention":
        return None
    if config.mixer == "mamba":  # all of its features share their keys
        return {"heads": 1, "key": config.resolved.d_state}
    return {"heads": config.heads, "key": config.width // config.heads}


@torch.inference_mode()
def bytes_after(model: Backbone, tokens: int) -> int:
    """Bytes of the state of one text after so many tokens."""
    _, state = model.features(torch.zeros(1, tokens, dtype=torch.long))
    return state_bytes(state)


def maps(model: Backbone, settings: FactSettings) -> list[dict[str, Any]]:
    """Exact answers of every task, by length and by depth, pairs or hops."""
    lengths = [settings.length * n for n in TIMES]
    questions = Questions(
        lengths, depths=3, samples=settings.samples, distractors=settings.distractors
    )
    return recall_cells(model, TOKENIZER, TOKENIZER.bos, [*questions.cells()])


def recall_pairs(model: Backbone, pairs: int, count: int) -> dict[str, dict[str, float | None]]:
    """Accuracy and bits of answers about so many pairs, in texts of these alone.

    own: after the text's own facts; other: after another text's, which is another's state.
    """
    random = np.random.default_rng((1 << 31, pairs))
    length = pairs_length(pairs)
    texts = [hide_facts(random, length, mqar(random, pairs, keys=KEYS)) for _ in range(count)]
    tokens, answers = tensors(texts)
    asked = 1 + len("Pairs:. ") + 4 * pairs  # the first token of the questions
    other = torch.cat((tokens[:, :asked].roll(1, 0), tokens[:, asked:]), dim=1)
    found = {}
    for name, rows in (("own", tokens), ("other", other)):
        exact, bits = score_answers(model, rows, answers)
        found[name] = {"accuracy": mean(exact.tolist()), "bits": mean(bits.tolist())}
    return found


def mean_cells(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells of the maps of a mixer, with the means over its seeds of the exact answers."""
    cells = []
    for same in zip(*(run["cells"] for run in runs), strict=True):
        found = [cell["exact"] for cell in same if cell["exact"] is not None]
        cells.append({**same[0], "exact": mean(found)})
    return cells
