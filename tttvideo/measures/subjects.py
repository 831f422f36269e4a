"""The checkpoints of one evaluation of text: their labels, sizes and training."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tttvideo.backbone import BackboneConfig
from tttvideo.data.text.tokenizer import load_tokenizer, tokenizer_of
from tttvideo.data.tokens import Tokens, file_hash
from tttvideo.weights.checkpoints import TokenCheckpoint, load_tokens_model

from .meter import Measured
from .names import mixer_name


@dataclass(frozen=True)
class Subject:
    """A measured checkpoint; the fields are keys of evaluation.json."""

    label: str
    path: str
    sha256: str
    mixer: str
    parameters: int
    window: int | None
    trained: dict[str, Any] | None
    cached: bool = False
    measured: dict[str, Any] = field(default_factory=dict)
    """Conditions of the measurement: date, device, commit and more."""


def read_subjects(named: list[tuple[str, str]], data: Tokens) -> list[Subject]:
    """Read the checkpoints, given as (label or "", path).

    Checkpoints without a label are labelled by their model; those that differ in more than their
    seed also by their folder. Raises ValueError for a checkpoint that cannot read this data.
    """
    subjects: list[Subject] = []
    kinds: dict[str, set[str]] = {}
    for label, path in named:
        checkpoint = load_for(path, data)
        config, trained = checkpoint.backbone.config, checkpoint.trained
        window = trained["window"] if trained else None
        subject = Subject(
            label=label or describe(config, window),
            path=path,
            sha256=file_hash(Path(path)),
            mixer=mixer_name(config),
            parameters=sum(p.numel() for p in checkpoint.backbone.parameters()),
            window=window,
            trained=trained,
        )
        subjects.append(subject)
        if not label:
            kinds.setdefault(subject.label, set()).add(repr((asdict(config), trained)))
    return [
        replace(s, label=f"{s.label} ({Path(s.path).parent.name})")
        if len(kinds.get(s.label, ())) > 1
        else s
        for s in subjects
    ]


def training_windows(subjects: Iterable[Subject]) -> list[int]:
    """The training windows that checkpoints record, in tokens."""
    return [subject.window for subject in subjects if subject.window]


def load_for(path: str, data: Tokens) -> TokenCheckpoint:
    """Load a checkpoint. Raises ValueError where its tokens are not those of the data."""
    checkpoint, header = load_tokens_model(path), data.header
    if checkpoint.tokenizer != header.tokenizer:
        hint = "; import it with its --tokenizer" if checkpoint.tokenizer == "unknown" else ""
        raise ValueError(
            f"{path} reads tokens of {checkpoint.tokenizer}, and {data.path} holds tokens of "
            f"{header.tokenizer}{hint}"
        )
    vocab_size = checkpoint.backbone.config.vocab_size
    if vocab_size != header.vocab_size:
        raise ValueError(
            f"{path} has a vocabulary of {vocab_size}, and {data.path} one of {header.vocab_size}; "
            "measure it on data that was prepared as its training data was"
        )
    return checkpoint


def describe(config: BackboneConfig, window: int | None) -> str:
    trained = f", trained on {window:,} tokens" if window else ""
    return f"{mixer_name(config)}, {config.width}x{config.depth}{trained}"


def byte_lengths(checkpoint: TokenCheckpoint, data: Tokens) -> np.ndarray:
    """The number of bytes of text (V,) of each token."""
    name, text = checkpoint.tokenizer, checkpoint.tokenizer_json
    marks = data.header.bos, data.header.eos
    if text is None:
        return tokenizer_of(data.path, name, marks).byte_lengths()
    return load_tokenizer(name, text, marks).byte_lengths()


def group_by_label(results: list[tuple[Subject, Measured]]) -> dict[str, list[Measured]]:
    """The results of each label, in the order of the labels."""
    found: dict[str, list[Measured]] = {}
    for subject, measured in results:
        found.setdefault(subject.label, []).append(measured)
    return found
