"""`tttvideo generate CKPT --prompt TEXT`: texts go on, shown as they are decoded."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tttvideo.apps.device import best_device
from tttvideo.apps.show.stream_text import Pace, Shown, show
from tttvideo.data.text import corpus_workers, documents
from tttvideo.data.text.documents import Advance, Utf8, pieces
from tttvideo.data.text.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from tttvideo.progress import progress
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.decode import Prefix, prefill
from tttvideo.sampling.saved_states import SavedState, load_state_file, save_state_file
from tttvideo.sampling.texts import Texts
from tttvideo.weights.checkpoints import TokenCheckpoint, load_tokens_model


CHUNK = 1024  # tokens that are read at once


def run(options: argparse.Namespace) -> None:
    prompts = find_prompts(options)
    choose = Chooser(options.temperature, options.top_k, options.top_p, options.seed)
    model = load_tokens_model(options.checkpoint)
    check_text(model, options.checkpoint)
    tokenizer = load_tokenizer(model.tokenizer, model.tokenizer_json)
    model.backbone.to(best_device())
    saved = load_state_file(options.load_state, model.backbone) if options.load_state else None
    if saved:
        print(f"{saved.tokens:,} tokens were read before", file=sys.stderr)
    drawing = saved and saved.draws is not None and options.seed is None and len(prompts) < 2
    if drawing:
        choose.generator(0).set_state(saved.draws)
    pace = Pace()
    prefixes, counts = read_prompts(model, tokenizer, prompts, saved)
    pace.lap("read", sum(counts))
    texts = Texts(model.backbone, prefixes, choose, model.eos)
    shown = [Shown(tokenizer.decoder(), options.stop) for _ in prefixes]
    show(go_on(texts, shown, options.tokens), titles(prompts))
    pace.lap("wrote", sum(one.tokens for one in shown))
    if options.save_state:
        draws = choose if drawing or options.seed is not None else None
        count = (saved.tokens if saved else 0) + sum(counts) + shown[0].tokens
        save(options.save_state, model, texts, count, draws)
    print(pace, file=sys.stderr)


def check_text(model: TokenCheckpoint, path: str) -> None:
    if model.backbone.config.grid:
        raise ValueError(f"{path} is a model of video, not of text; `tttvideo predict` runs it")
    if model.tokenizer == "unknown":
        raise ValueError(
            f"{path} does not say what its tokens are; make it again by `tttvideo import "
            "--tokenizer bytes` or `--tokenizer FILE`"
        )


@dataclass(frozen=True)
class Prompt:
    """A beginning: this text, or else what is in a file; - is standard input."""

    text: bytes | None = None
    path: str = "-"

    @property
    def name(self) -> str:
        return "" if self.text is not None else f" {self.path}"

    @property
    def size(self) -> int | None:
        """Bytes; None if that is not known."""
        if self.text is not None:
            return len(self.text)
        return None if self.path == "-" else Path(self.path).stat().st_size

    def chunks(self, advance: Advance) -> Iterator[bytes]:

        if self.text is not None:
            yield self.text
            advance(len(self.text))
        elif self.path == "-":
            while chunk := sys.stdin.buffer.read(documents.CHUNK):
                yield chunk
                advance(len(chunk))
        else:
            yield from documents.read(Path(self.path), advance)


def find_prompts(options: argparse.Namespace) -> list[Prompt]:
    """The prompts that the options name; ValueError where there is none, or nothing in one."""
    prompts = [Prompt() if t == "-" else Prompt(os.fsencode(t)) for t in options.prompt]
    prompts += [Prompt(path=path) for path in options.prompt_file]
    if options.prompts_file is not None:
        lines = Path(options.prompts_file).read_bytes().splitlines()
        prompts += [Prompt(line) for line in lines if line.strip()]
    return prompts


def read_prompts(
    model: TokenCheckpoint,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    saved: SavedState | None,
) -> tuple[list[Prefix], list[int]]:
    """The prefix of each text, after that of `saved`, and the number of tokens read for it."""

    if not prompts:
        return [saved.prefix], [0]
    prefixes, counts = [], []
    sizes = [prompt.size for prompt in prompts]
    marks = [] if saved or model.bos is None else [model.bos]
    with progress("reading", None if None in sizes else sum(sizes), "B") as advance:
        for prompt in prompts:
            parts = tokens_of(tokenizer, prompt.chunks(advance))
            one, count = read_tokens(model, marks, parts, saved and saved.prefix)
            if not count:
                raise ValueError(f"the prompt{prompt.name} is empty; give at least one character")
            prefixes.append(one)
            counts.append(len(marks) + count)
    return prefixes, counts


def tokens_of(tokenizer: Tokenizer, chunks: Iterable[bytes]) -> Iterator[np.ndarray]:
    """Tokens of a text, piece by piece."""

    if isinstance(tokenizer, ByteTokenizer):
        yield from (np.frombuffer(chunk, np.uint8).astype(np.int64) for chunk in chunks)
    else:
        for _, tokens in tokenizer.encode_all(pieces(Utf8().all(chunks), corpus_workers.PIECE)):
            yield np.array(tokens, np.int64)


def read_tokens(
    model: TokenCheckpoint,
    marks: list[int],
    parts: Iterable[np.ndarray],
    prefix: Prefix | None,
) -> tuple[Prefix | None, int]:
    """Read marks and tokens after `prefix`; the new prefix, and the count without the marks."""

    device = next(model.backbone.parameters()).device
    count, rest = 0, np.array(marks, np.int64)

    def read(tokens: np.ndarray) -> None:
        nonlocal prefix
        if len(tokens):
            tokens = torch.from_numpy(tokens)[None].to(device)
            prefix = prefill(model.backbone, tokens, CHUNK, prefix)

    for part in parts:
        count += len(part)
        rest = np.concatenate((rest, part))
        whole = len(rest) - len(rest) % CHUNK  # so that the pieces do not decide on the chunks
        read(rest[:whole])
        rest = rest[whole:]
    read(rest)
    if device.type == "cuda":
        torch.cuda.synchronize()  # so that the time it took is known
    return prefix, count


def go_on(texts: Texts, shown: Sequence[Shown], count: int) -> Iterator[tuple[int, str, bool]]:
    """Pieces of the texts as they are said: row, text, whether that is all of it."""
    for _ in range(count):
        rows, said = texts.rows, texts.step()
        for row in rows:
            over = row not in said
            piece = shown[row]([] if over else [said[row]], final=over)
            if shown[row].ended and not over:
                texts.end([row])
            yield row, piece, shown[row].ended or over
        if not texts.rows:
            return
    rows = texts.rows
    texts.end(rows)
    for row in rows:
        yield row, shown[row]([], final=True), True


def titles(prompts: Sequence[Prompt]) -> list[str]:
    """What stands before each text: its prompt, unless that was a file, and if many its number."""
    texts = [(prompt.text or b"").decode(errors="replace") for prompt in prompts] or [""]
    if len(texts) == 1:
        return texts
    lines = [f"--- {n} of {len(prompts)}{p.name} ---\n" for n, p in enumerate(prompts, 1)]
    return [line + text for line, text in zip(lines, texts, strict=True)]


def save(
    path: str, model: TokenCheckpoint, texts: Texts, tokens: int, draws: Chooser | None
) -> None:
    """Keep the only text, and the generator that it was drawn by if that had a seed."""

    state = draws.generator(0).get_state() if draws else None
    save_state_file(SavedState(texts.ended[0], tokens, state), model.backbone, path)
