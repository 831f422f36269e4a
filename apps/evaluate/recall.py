"""`tttvideo evaluate recall`: exact answers about generated texts, by length and difficulty.

Each task is a map: exact answers by length, and by the depth of the needle, the number of pairs, or
the hops of the chain.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

from tttvideo.apps.commands.evaluate_recall import SETTINGS, name_checkpoints, read_haystack
from tttvideo.apps.device import best_device
from tttvideo.apps.report import run_conditions, write_record
from tttvideo.apps.show.recall_maps import draw_maps, recall_page
from tttvideo.data.recall.questions import Cell
from tttvideo.data.text.tokenizer import Tokenizer, load_tokenizer
from tttvideo.data.tokens import file_hash
from tttvideo.files import read_json, write_text
from tttvideo.measures.names import mixer_name
from tttvideo.measures.recall import recall_cells, token_questions
from tttvideo.progress import progress
from tttvideo.weights.checkpoints import load_tokens_model


def evaluate_recall(options: argparse.Namespace) -> None:
    out, device, records = Path(options.out), best_device(), []
    about = run_conditions(device)
    for name, path in name_checkpoints(options.checkpoints).items():
        file = out / f"recall-{name}.json"
        record = measure_or_read(name, path, file, options, device, about)
        draw_maps(record, file.with_suffix(".png"))
        records.append(record)
    text = recall_page(records, about)
    write_text(out / "recall.md", text)
    print(text)
    print(*sorted(out.glob("recall*.*")), sep="\n")


def measure_or_read(
    name: str,
    path: Path,
    file: Path,
    options: argparse.Namespace,
    device: str,
    about: dict[str, Any],
) -> dict[str, Any]:
    """The record of a checkpoint: read from `file` if it is of these weights and questions."""
    model = load_tokens_model(path)
    if model.frame_tokenizer is not None:
        raise ValueError(f"{path} is a model of video; recall is measured of models of text")
    marks = model.bos, model.eos
    tokenizer = load_tokenizer(model.tokenizer, model.tokenizer_json, marks)
    cells = draw_cells(options, tokenizer)
    asked = repr((model.tokenizer, model.bos, cells)).encode()
    key = {"checkpoint": file_hash(path), "questions": hashlib.sha256(asked).hexdigest()}
    before = read_json(file, "delete it") if file.is_file() else {}
    if before.get("key") == key:
        return before
    total = sum(cell.length * len(cell.samples) for cell in cells)
    with progress(f"asking {name}", total, "tokens") as advance:
        backbone = model.backbone.to(device)
        answers = recall_cells(backbone, tokenizer, model.bos, cells, advance)
    record = {
        "name": name,
        "key": key,
        "mixer": mixer_name(model.backbone.config),
        "parameters": sum(p.numel() for p in model.backbone.parameters()),
        "trained": model.trained,
        "tokenizer": model.tokenizer,
        "settings": {name: getattr(options, name) for name in SETTINGS},
        "haystack": options.haystack,
        "cells": answers,
        **about,
    }
    return write_record(file, record)


def draw_cells(options: argparse.Namespace, tokenizer: Tokenizer) -> list[Cell]:
    """The questions; equal for every model of one tokenizer."""
    questions = token_questions(
        tokenizer,
        None if options.haystack is None else read_haystack(options.haystack),
        lengths=sorted(set(options.lengths)),
        **{name: getattr(options, name) for name in SETTINGS},
    )
    cells = []
    with progress("generating texts", len(questions), "cells") as advance:
        for cell in questions.cells():
            cells.append(cell)
            advance(1)
    return cells
