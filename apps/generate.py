"""`tttvideo generate CKPT`: continue texts, or begin one, and print them while they are decoded."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from tttvideo.apps.show.stream_text import Pace, StreamedText, decode_pieces, print_texts
from tttvideo.data.text import unpack
from tttvideo.data.text.documents import Utf8Decoder, encode_chunks
from tttvideo.data.text.tokenizer import Tokenizer, load_tokenizer
from tttvideo.progress import Advance, progress
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.decode import Prefix
from tttvideo.sampling.saved_states import SavedState, load_state_file, save_state_file
from tttvideo.sampling.texts import Texts, read_parts
from tttvideo.weights.checkpoints import TokenCheckpoint, load_tokens_model

from .device import best_device


EMPTY = "give at least one character, or leave the prompt out to begin a document"


def run(options: argparse.Namespace) -> None:
    prompts = find_prompts(options)
    choose = Chooser(options.temperature, options.top_k, options.top_p, options.seed)
    model = load_tokens_model(options.checkpoint)
    check_text(model, options.checkpoint)
    marks = model.bos, model.eos
    tokenizer = load_tokenizer(model.tokenizer, model.tokenizer_json, marks)
    model.backbone.to(best_device())
    saved = load_state_file(options.load_state, model.backbone) if options.load_state else None
    if saved:
        print(f"{saved.tokens:,} tokens were read before", file=sys.stderr)
    draws = saved.draws if saved and options.seed is None and len(prompts) < 2 else None
    if draws is not None:
        choose.generator(0).set_state(draws)
    pace = Pace()
    prefixes, counts = read_prompts(model, tokenizer, prompts, saved)
    pace.lap("read", sum(counts))
    texts = Texts(model.backbone, prefixes, choose, model.eos)
    streams = [StreamedText(tokenizer.decoder(), options.stop) for _ in prefixes]
    print_texts(decode_pieces(texts, streams, options.tokens), titles(prompts))
    pace.lap("wrote", sum(stream.tokens for stream in streams))
    if options.save_state:
        if draws is not None or options.seed is not None:
            draws = choose.generator(0).get_state()
        count = (saved.tokens if saved else 0) + sum(counts) + streams[0].tokens
        last = SavedState(texts.ended[0], count, draws)
        save_state_file(last, model.backbone, options.save_state)
    print(pace, file=sys.stderr)


def check_text(model: TokenCheckpoint, path: str) -> None:
    """Refuse a model of video, and one whose tokenizer is not known."""
    if model.backbone.config.grid:
        raise ValueError(f"{path} is a model of video, not of text; `tttvideo predict` runs it")
    if model.tokenizer == "unknown":
        raise ValueError(
            f"{path} has no tokenizer; import it again with `tttvideo import "
            "--tokenizer bytes` or `--tokenizer FILE`"
        )


@dataclass(frozen=True)
class Prompt:
    """The beginning of a text: these bytes, or else a file; - is standard input."""

    text: bytes | None = None
    path: str = "-"

    @property
    def name(self) -> str:
        return "" if self.text is not None else f" {self.path}"

    @property
    def size(self) -> int | None:
        """Bytes; None for standard input."""
        if self.text is not None:
            return len(self.text)
        return None if self.path == "-" else Path(self.path).stat().st_size

    def chunks(self, advance: Advance) -> Iterator[bytes]:
        if self.text is not None:
            yield self.text
            advance(len(self.text))
        elif self.path == "-":
            given = unpack.read_all(sys.stdin.buffer, advance)
            yield from unpack.without_mark(given, "standard input")
        else:
            yield from unpack.open_chunks(Path(self.path), advance)


def find_prompts(options: argparse.Namespace) -> list[Prompt]:
    """The prompts that the options name; without any the empty one, or none after a saved state."""
    prompts = [Prompt() if t == "-" else Prompt(os.fsencode(t)) for t in options.prompt]
    prompts += [Prompt(path=path) for path in options.prompt_file]
    if options.prompts_file is not None:
        chunks = unpack.open_chunks(Path(options.prompts_file), lambda size: None)
        lines = b"".join(chunks).splitlines()
        prompts += [Prompt(line) for line in lines if line.strip()]
    return prompts or ([] if options.load_state else [Prompt(b"")])


def read_prompts(
    model: TokenCheckpoint,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    saved: SavedState | None,
) -> tuple[list[Prefix], list[int]]:
    """The prefix of each text, after that of `saved`, and the number of tokens read for it."""
    if not prompts:
        assert saved
        return [saved.prefix], [0]
    prefixes, counts = [], []
    sizes = [prompt.size for prompt in prompts]
    marks = [] if saved or model.bos is None else [model.bos]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    with progress("reading", total, "B") as advance:
        for prompt in prompts:
            encoded = encode_chunks(tokenizer, prompt.chunks(advance), Utf8Decoder())
            parts = chain([np.array(marks, np.int64)], (tokens for tokens, _ in encoded))
            prefix, count = read_parts(model.backbone, parts, saved.prefix if saved else None)
            if prompt.text is None and count == len(marks):
                raise ValueError(f"the prompt{prompt.name} is empty; {EMPTY}")
            if prefix is None:
                raise ValueError(
                    "this model knows no mark of a document's start (BOS), from which a text could "
                    "begin; give --prompt TEXT"
                )
            prefixes.append(prefix)
            counts.append(count)
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # the time it took is measured
    return prefixes, counts


def titles(prompts: Sequence[Prompt]) -> list[str]:
    """The heading of each text: its prompt, except a file's, after a number if there are many."""
    texts = [(prompt.text or b"").decode(errors="replace") for prompt in prompts] or [""]
    if len(texts) == 1:
        return texts
    lines = [f"--- {n} of {len(prompts)}{p.name} ---\n" for n, p in enumerate(prompts, 1)]
    return [line + text for line, text in zip(lines, texts, strict=True)]
