"""`tttvideo evaluate recall`: what a model recalls of drawn text, by length and by a difficulty.

Each task is a map: exact answers by length, and by the depth of the needle, the number of pairs, or
the hops of the chain.
"""

import argparse
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttvideo.measures.names import mixer_name


if TYPE_CHECKING:
    from tttvideo.data.recall.questions import Cell
    from tttvideo.data.text.tokenizer import Tokenizer
    from tttvideo.weights.checkpoints import TokenCheckpoint


SETTINGS = (
    ("depths", 5, "places of the needle, from start to end"),
    ("distractors", 3, "needles that nobody asks for"),
    ("samples", 10, "texts per cell of a map"),
    ("seed", 0, "another draws other texts"),
)


def add_parser(kinds: Any) -> None:
    parser = kinds.add_parser(
        "recall",
        help="needles, pairs and chains of variables in drawn text",
        description="Ask for what a drawn text told before: the code of a needle in a haystack, "
        "the values of pairs, the end of a chain of variables. Exact answers, by the length of the "
        "text and by depth, pairs or hops, as JSON, tables and maps.",
        epilog="example: tttvideo evaluate recall out/recall/last.ckpt --out out/recall/maps",
    )
    add = parser.add_argument
    add("checkpoints", nargs="+", metavar="CKPT", help="trained by `tttvideo fit` on text")
    add("--out", required=True, metavar="DIR", help="folder to write to")
    lengths = [256, 512, 1024, 2048, 4096]
    help = f"of the texts, in tokens (default: {' '.join(map(str, lengths))})"
    add("--lengths", nargs="+", type=int, default=lengths, metavar="T", help=help)
    for name, default, help in SETTINGS:
        add(
            f"--{name}", type=int, default=default, metavar="N", help=f"{help} (default: {default})"
        )
    add("--haystack", metavar="FILE", help="text around the facts (default: drawn sentences)")


def run(options: argparse.Namespace) -> None:
    check(options)
    from tttvideo.apps.device import best_device
    from tttvideo.apps.report import run_conditions
    from tttvideo.apps.show.recall_maps import draw_maps, markdown
    from tttvideo.files import write_text

    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    device, records = best_device(), []
    about = run_conditions(device)
    for name, path in names(options.checkpoints).items():
        file = out / f"recall-{name}.json"
        record = evaluate(name, path, file, options, device, about)
        draw_maps(record, file.with_suffix(".png"))
        records.append(record)
    text = markdown(records, about)
    write_text(out / "recall.md", text)
    print(text)
    print(*sorted(out.glob("recall*.*")), sep="\n")


def check(options: argparse.Namespace) -> None:
    for name, *_ in SETTINGS:
        least = int(name in ("depths", "samples"))
        if getattr(options, name) < least:
            raise ValueError(f"--{name} is {getattr(options, name)}; it must be {least} or more")
    if min(options.lengths) < 1:
        raise ValueError(f"--lengths has {min(options.lengths)}; a text has 1 token or more")


def names(checkpoints: list[str]) -> dict[str, Path]:
    """A name for each checkpoint: its folder's, or as much of its path as tells it apart."""
    paths = [Path(path) for path in dict.fromkeys(checkpoints)]
    parts = [p.resolve().with_suffix("").parts[1:] for p in paths]
    parts = [part[:-1] if part[-1] == "last" and part[:-1] else part for part in parts]
    for count in range(1, max(map(len, parts)) + 1):
        found = {"-".join(part[-count:]): path for part, path in zip(parts, paths, strict=True)}
        if len(found) == len(paths):
            return found
    raise ValueError(f"{', '.join(map(str, paths))} are not all different; give each once")


def evaluate(
    name: str,
    path: Path,
    file: Path,
    options: argparse.Namespace,
    device: str,
    about: dict[str, Any],
) -> dict[str, Any]:
    """What `file` says, when these weights answered these questions before; else ask, and write."""
    from tttvideo.apps.report import write_record
    from tttvideo.data.text.tokenizer import load_tokenizer
    from tttvideo.data.tokens import file_hash
    from tttvideo.files import read_json
    from tttvideo.weights.checkpoints import load_tokens_model

    model = load_tokens_model(path)
    if model.frame_tokenizer is not None:
        raise ValueError(f"{path} is a model of video; recall is asked of models of text")
    tokenizer = load_tokenizer(model.tokenizer, model.tokenizer_json)
    cells = draw(options, tokenizer)
    asked = repr((model.tokenizer, model.bos, cells)).encode()
    key = {"checkpoint": file_hash(path), "questions": hashlib.sha256(asked).hexdigest()}
    before = read_json(file, "delete it") if file.is_file() else {}
    if before.get("key") == key:
        return before
    record = {
        "name": name,
        "key": key,
        "mixer": mixer_name(model.backbone.config),
        "parameters": sum(p.numel() for p in model.backbone.parameters()),
        "trained": model.trained,
        "tokenizer": model.tokenizer,
        "settings": {name: getattr(options, name) for name, *_ in SETTINGS},
        "haystack": options.haystack,
        "cells": ask(name, model, tokenizer, cells, device),
        **about,
    }
    return write_record(file, record)


def draw(options: argparse.Namespace, tokenizer: "Tokenizer") -> "list[Cell]":
    """The questions; the same for every model of one tokenizer."""
    from tttvideo.data.recall.questions import Questions
    from tttvideo.data.recall.texts import drawn_haystack, text_haystack
    from tttvideo.progress import progress

    @cache
    def measure(text: str) -> int:
        return len(tokenizer.encode(text))

    hay = drawn_haystack
    if options.haystack is not None:
        hay = text_haystack(read_haystack(options.haystack))
    settings = (sorted(set(options.lengths)), options.depths, options.samples, options.distractors)
    questions = Questions(*settings, options.seed, measure, hay)
    cells = []
    with progress("drawing texts", len(questions), "cells") as advance:
        for cell in questions.cells():
            cells.append(cell)
            advance(1)
    return cells


def read_haystack(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--haystack {path} is no text in UTF-8: byte {error.start} is {error.reason}; "
            "convert it, for instance by iconv"
        ) from error


def ask(
    name: str, model: "TokenCheckpoint", tokenizer: "Tokenizer", cells: "list[Cell]", device: str
) -> list[dict[str, Any]]:
    from tttvideo.measures.recall import recall_cells
    from tttvideo.progress import progress

    total = sum(cell.length * len(cell.samples) for cell in cells)
    with progress(f"asking {name}", total, "tokens") as advance:
        return recall_cells(model.backbone.to(device), tokenizer, model.bos, cells, advance)
