"""Text <-> tokens: bytes, or any tokenizer.json of the tokenizers library; training of one.

V is the size of the vocabulary. The marks of a document are the tokens BOS and EOS. Encoding never
makes them: a text that spells out a mark is read as ordinary text.
"""

import codecs
import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers.trainers
from tokenizers import decoders, models, pre_tokenizers


BOS_NAMES = ("<s>", "<|bos|>", "<|begin_of_text|>", "[BOS]", "<bos>")
EOS_NAMES = ("</s>", "<|eos|>", "<|end_of_text|>", "[EOS]", "<eos>")
SHARED_NAMES = ("<|endoftext|>",)
Marks = tuple[str | int | None, str | int | None]
"""BOS and EOS: a token's name, its id, or None for the usual names."""
USUAL: Marks = (None, None)
CONTEXT = 1024  # characters on each side of a piece of text that are encoded with it


class ByteDecoder:
    """Decodes a stream of tokens; a character is returned with its last byte.

    bytes_of: the bytes of a token; None: a token is a byte, and marks have none.
    """

    def __init__(self, bytes_of: Callable[[int], bytes] | None = None):
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.bytes_of = bytes_of or (lambda token: bytes([token]) if token < 256 else b"")

    def __call__(self, tokens: Iterable[int], final: bool = False) -> str:
        return self.decoder.decode(b"".join(map(self.bytes_of, tokens)), final)


class ByteTokenizer:
    """A token is a byte of the text; BOS is 256 and EOS 257."""

    name = "bytes"
    vocab_size = 258
    bos, eos = 256, 257

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without marks."""
        return list(text.encode())

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, without marks."""
        return self.decoder()(tokens, final=True)

    def decoder(self) -> ByteDecoder:
        return ByteDecoder()

    def byte_lengths(self) -> np.ndarray:
        """(V,) number of bytes of text for each token; 0 for the marks."""
        return np.array([1] * 256 + [0, 0])

    def to_json(self) -> None:
        return None


class JsonTokenizer:
    """A tokenizer.json of the tokenizers library.

    Its name is the sha256 of the text of that file. BOS and EOS are those of `marks`, or else found
    by their usual names; if only one of them exists, it serves as both.
    Raises: ValueError for text that is no tokenizer, for a tokenizer without a mark, and for a name
    of a mark that is no token, or one of ordinary text.
    """

    def __init__(self, text: str, origin: str = "tokenizer.json", marks: Marks = USUAL):
        try:
            self.tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            reason = str(error).splitlines()[0]
            raise ValueError(f"{origin} cannot be read as a tokenizer.json: {reason}") from error
        self.text, self.name = text, hashlib.sha256(text.encode()).hexdigest()
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # marks in a text are text
        self.vocab_size = max(self.tokenizer.get_vocab().values(), default=-1) + 1
        self.bos, self.eos = self.find_marks(origin, marks)

    def find_marks(self, origin: str, marks: Marks) -> tuple[int, int]:
        both = zip(marks, ("--bos", "--eos"), (BOS_NAMES, EOS_NAMES), strict=True)
        found = [self.find_mark(origin, *each) for each in both]
        known = [mark for mark in found if mark is not None]
        if not known:
            names = ", ".join(BOS_NAMES + EOS_NAMES + SHARED_NAMES)
            raise ValueError(
                f"{origin} has no token that begins or ends a document ({names}); add one to it, "
                "or name a token of it as --bos or --eos"
            )
        return known[0], known[-1]

    def find_mark(
        self, origin: str, mark: str | int | None, option: str, usual: Sequence[str]
    ) -> int | None:
        """The id of a mark; None if it is of no name that is usual."""
        vocabulary = self.tokenizer.get_vocab()
        if isinstance(mark, int):
            return mark
        if mark is None:
            known = (vocabulary[name] for name in (*usual, *SHARED_NAMES) if name in vocabulary)
            return next(known, None)
        if mark not in vocabulary or vocabulary[mark] in self.encode(mark):
            added = [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]
            names = added + [name for name in vocabulary if name[0] in "<["]
            near = ", ".join(dict.fromkeys(difflib.get_close_matches(mark, names, 4, 0)))
            what = "a token of ordinary text in" if mark in vocabulary else "no token of"
            raise ValueError(
                f"{option} {mark} is {what} {origin}; near names are: {near or 'none'}"
            )
        return vocabulary[mark]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without marks."""
        return self.tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_all(self, pieces: Iterable[str]) -> Iterator[tuple[str, list[int]]]:
        """The pieces of a text, each with its tokens in the encoding of the whole text.

        A piece that is encoded alone may have others: many tokenizers put a space before a text,
        and some have tokens that cross a line end. Each piece is encoded with `CONTEXT` characters
        on each side, and their tokens are dropped. This is exact unless a token depends on a more
        distant character, as in a word of thousands of letters.
        """
        pieces = iter(pieces)
        before, piece, skipped = "", next(pieces, ""), 0
        for after in chain(pieces, [""]):
            tokens = self.encode(before + piece + after[:CONTEXT])
            before = (before + piece)[-CONTEXT:]
            left, right = self.count_tokens(before, after[:CONTEXT]) if after else (0, 0)
            yield piece, tokens[skipped : len(tokens) - right]
            piece, skipped = after, left

    def count_tokens(self, before: str, after: str) -> tuple[int, int]:
        """The numbers of tokens of a text that start in its first part and in its second."""
        whole = self.tokenizer.encode(before + after, add_special_tokens=False)
        left = sum(start < len(before) for start, _ in whole.offsets)
        return left, len(whole) - left

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, without marks."""
        kept = [token for token in tokens if token not in (self.bos, self.eos)]
        return self.tokenizer.decode(kept, skip_special_tokens=True)

    def decoder(self) -> ByteDecoder:
        """A decoder of a stream of tokens; it keeps a space before the first word."""
        return ByteDecoder(
            lambda token: self.token_bytes[token] if token < self.vocab_size else b""
        )

    def byte_lengths(self) -> np.ndarray:
        """(V,) number of bytes of each token inside a text; 0 for the marks."""
        return np.array([len(data) for data in self.token_bytes])

    def to_json(self) -> str:
        return self.text

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each token inside a text; empty for marks and unused ids."""
        added = self.tokenizer.get_added_tokens_decoder()
        kinds = decoder_types(json.loads(self.text).get("decoder"))
        bytes_of = byte_level if "ByteLevel" in kinds else DecodedBytes(self.tokenizer, kinds)
        found = [b""] * self.vocab_size
        for string, token in self.tokenizer.get_vocab().items():
            if token in (self.bos, self.eos) or (token in added and added[token].special):
                continue
            is_added = token in added
            found[token] = added[token].content.encode() if is_added else bytes_of(string, token)
        return found


Tokenizer = ByteTokenizer | JsonTokenizer


def decoder_types(part: dict[str, Any] | None) -> set[str]:
    """The types of a decoder and of the decoders inside it."""
    if not part:
        return set()
    return {part["type"]}.union(*map(decoder_types, part.get("decoders", [])))


def byte_alphabet() -> dict[str, int]:
    """The bytes of a byte-level tokenizer's characters: visible ones stay, others are from 256."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(256 + number): byte for number, byte in enumerate(hidden)
    }


BYTE_OF = byte_alphabet()


def byte_level(string: str, token: int) -> bytes:
    """The bytes of a token of a byte-level tokenizer."""
    return bytes(BYTE_OF[character] for character in string)


class DecodedBytes:
    """The bytes of a token as the tokenizer's own decoder writes it after another token."""

    def __init__(self, tokenizer: Any, kinds: set[str]):
        self.tokenizer, self.fallback = tokenizer, "ByteFallback" in kinds
        vocabulary = tokenizer.get_vocab()
        self.other = next(
            (vocabulary[name] for name in "aeiouxAEIOU0123456789.," if name in vocabulary), None
        )
        self.before = "" if self.other is None else tokenizer.decode([self.other])

    def __call__(self, string: str, token: int) -> bytes:
        if self.fallback and re.fullmatch(r"<0x[0-9A-F]{2}>", string):
            return bytes([int(string[3:5], 16)])
        context = [] if self.other is None else [self.other]
        return self.tokenizer.decode([*context, token])[len(self.before) :].encode()


def load_tokenizer(name: str, json: str | None = None, marks: Marks = USUAL) -> Tokenizer:
    """The tokenizer that a header or checkpoint names, with the marks that stand there.

    Raises ValueError for the json of another tokenizer.
    """
    if name == ByteTokenizer.name:
        return ByteTokenizer()
    if json is None:
        raise ValueError(f"tokenizer {name} needs its tokenizer.json, and there is none")
    tokenizer = JsonTokenizer(json, marks=marks)
    if tokenizer.name != name:
        raise ValueError(f"this tokenizer.json is {tokenizer.name}, but the tokens are of {name}")
    return tokenizer


def read_tokenizer(path: str | Path, marks: Marks = USUAL) -> JsonTokenizer:
    """The tokenizer in a file. Raises ValueError if there is none."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no tokenizer {path}; choose bytes, or name a tokenizer.json")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read as a tokenizer.json: {error.reason}") from error
    return JsonTokenizer(text, str(path), marks)


def tokenizer_of(path: str | Path, name: str, marks: Marks = USUAL) -> Tokenizer:
    """The tokenizer `name` of prepared text: bytes, or the tokenizer.json of its corpus.

    marks: BOS and EOS as the header of the tokens has them.

    path: a token file or a folder of shards, as in open_tokens.
    """
    if name == ByteTokenizer.name:
        return ByteTokenizer()
    for folder in Path(path).resolve().parents[:2]:  # for out/books/train and for a shard in it
        if (folder / "tokenizer.json").is_file():
            text = read_tokenizer(folder / "tokenizer.json", marks).text
            return load_tokenizer(name, text, marks)
    raise ValueError(f"there is no tokenizer.json beside {path}; prepare the text again")


def train_bpe(texts: Iterable[str], vocab_size: int, marks: Sequence[str] = ("<s>", "</s>")) -> str:
    """Train a byte-level BPE on texts; returns the text of its tokenizer.json.

    Raises: ValueError for a vocabulary without room for the 256 bytes and the marks, and for texts
    that are too short to fill it.
    """
    least = 256 + len(marks)
    if vocab_size < least:
        raise ValueError(f"--train-bpe {vocab_size} must be {least} or more: the bytes and marks")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(marks),
        initial_alphabet=sorted(BYTE_OF),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise ValueError(
            f"the text is enough for {tokenizer.get_vocab_size()} tokens only; "
            f"choose --train-bpe {tokenizer.get_vocab_size()} or less"
        )
    return tokenizer.to_str()


def bytes_json(vocab_size: int) -> str:
    """The tokenizer.json whose tokens are bytes, with marks if the vocabulary has room for them."""
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=dict(BYTE_OF), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if vocab_size > 256:
        tokenizer.add_special_tokens(["<bos>", "<eos>"])  # 256 and 257
    return tokenizer.to_str()
