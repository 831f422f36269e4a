"""Text <-> tokens: bytes, or any tokenizer.json of the tokenizers library; and training one.

V is the vocabulary. A document's marks, BOS and EOS, are never made from text: where a text spells
one out, it is read as ordinary text.
"""

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np


BEGINNINGS = ("<s>", "<|bos|>", "<|begin_of_text|>", "[BOS]", "<bos>")
ENDS = ("</s>", "<|eos|>", "<|end_of_text|>", "[EOS]", "<eos>")
BOTH = ("<|endoftext|>",)
REACH = 1024  # characters around a piece of a text that decide on its tokens, at most


class ByteDecoder:
    """Bytes back to text, as they come: a character is shown when its last byte is there."""

    def __init__(self, pieces: Callable[[int], bytes] | None = None):
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.pieces = pieces or (lambda token: bytes([token]) if token < 256 else b"")

    def __call__(self, tokens: Iterable[int], final: bool = False) -> str:
        return self.decoder.decode(b"".join(map(self.pieces, tokens)), final)


class ByteTokenizer:
    """A token is a byte of the text; 256 begins a document and 257 ends it."""

    name = "bytes"
    vocab_size = 258
    bos, eos = 256, 257

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without marks."""
        return list(text.encode())

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; marks are left out."""
        return self.decoder()(tokens, final=True)

    def decoder(self) -> ByteDecoder:
        return ByteDecoder()

    def byte_lengths(self) -> np.ndarray:
        """(V,) bytes of text that each token stands for; 0 for the marks."""
        return np.array([1] * 256 + [0, 0])

    def to_json(self) -> None:
        return None


class JsonTokenizer:
    """A tokenizer.json of the tokenizers library.

    Its name is the sha256 of the text of that file. BOS and EOS are found by their usual names;
    when there is only one of them, it is both. Raises ValueError for text that is no tokenizer, and
    for a tokenizer without such a mark.
    """

    def __init__(self, text: str, origin: str = "tokenizer.json"):
        from tokenizers import Tokenizer

        try:
            self.tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            reason = str(error).splitlines()[0]
            raise ValueError(f"{origin} cannot be read as a tokenizer.json: {reason}") from error
        self.text, self.name = text, hashlib.sha256(text.encode()).hexdigest()
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # marks in a text are text
        self.vocab_size = max(self.tokenizer.get_vocab().values(), default=-1) + 1
        self.bos, self.eos = self.marks(origin)

    def marks(self, origin: str) -> tuple[int, int]:
        vocabulary = self.tokenizer.get_vocab()
        bos = next((vocabulary[name] for name in BEGINNINGS + BOTH if name in vocabulary), None)
        eos = next((vocabulary[name] for name in ENDS + BOTH if name in vocabulary), None)
        if bos is None and eos is None:
            names = ", ".join(BEGINNINGS + ENDS + BOTH)
            raise ValueError(
                f"{origin} has no token that begins or ends a document ({names}); add one to it"
            )
        return (eos if bos is None else bos), (bos if eos is None else eos)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without marks."""
        return self.tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_all(self, pieces: Iterable[str]) -> Iterator[tuple[str, list[int]]]:
        """The pieces of a text, each with the tokens that begin in it when the whole is encoded.

        A piece alone may have others: many tokenizers put a space before what they are given, and
        some have tokens that cross a line end. So each is encoded with `REACH` characters of what
        stands around it, and the tokens of those are left out. That is exact unless a token hangs
        on what is farther away, as in a word of thousands of letters.
        """
        pieces = iter(pieces)
        before, piece, skipped = "", next(pieces, ""), 0
        for after in chain(pieces, [""]):
            tokens = self.encode(before + piece + after[:REACH])
            before = (before + piece)[-REACH:]
            left, right = self.around(before, after[:REACH]) if after else (0, 0)
            yield piece, tokens[skipped : len(tokens) - right]
            piece, skipped = after, left

    def around(self, before: str, after: str) -> tuple[int, int]:
        """How many tokens of a text begin in its first part, and how many in its second."""
        whole = self.tokenizer.encode(before + after, add_special_tokens=False)
        left = sum(start < len(before) for start, _ in whole.offsets)
        return left, len(whole) - left

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; marks are left out."""
        kept = [token for token in tokens if token not in (self.bos, self.eos)]
        return self.tokenizer.decode(kept, skip_special_tokens=True)

    def decoder(self) -> ByteDecoder:
        """To show a text as it goes on, so with the space before its first word if there is one."""
        return ByteDecoder(lambda token: self.pieces[token] if token < self.vocab_size else b"")

    def byte_lengths(self) -> np.ndarray:
        """(V,) bytes of text that each token stands for inside a text; 0 for the marks."""
        return np.array([len(piece) for piece in self.pieces])

    def to_json(self) -> str:
        return self.text

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of each token inside a text; none for marks and ids that stand for nothing."""
        added = self.tokenizer.get_added_tokens_decoder()
        kinds = kinds_of(json.loads(self.text).get("decoder"))
        read = byte_level if "ByteLevel" in kinds else Measure(self.tokenizer, kinds)
        pieces = [b""] * self.vocab_size
        for string, token in self.tokenizer.get_vocab().items():
            if token in (self.bos, self.eos) or (token in added and added[token].special):
                continue
            pieces[token] = added[token].content.encode() if token in added else read(string, token)
        return pieces


Tokenizer = ByteTokenizer | JsonTokenizer


def kinds_of(part: dict[str, Any] | None) -> set[str]:
    """Types of a decoder and of the decoders in it."""
    if not part:
        return set()
    return {part["type"]}.union(*map(kinds_of, part.get("decoders", [])))


def byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level tokenizers write bytes: itself if visible, or from 256."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(256 + number): byte for number, byte in enumerate(hidden)
    }


BYTE_OF = byte_alphabet()


def byte_level(string: str, token: int) -> bytes:
    """Bytes of a token as a byte-level tokenizer writes it."""
    return bytes(BYTE_OF[character] for character in string)


class Measure:
    """Bytes of a token as the tokenizer's own decoder shows it after another token."""

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


def load_tokenizer(name: str, json: str | None = None) -> Tokenizer:
    """The tokenizer that a header or checkpoint names; ValueError when the json is another's."""
    if name == ByteTokenizer.name:
        return ByteTokenizer()
    if json is None:
        raise ValueError(f"tokenizer {name} needs its tokenizer.json, and there is none")
    tokenizer = JsonTokenizer(json)
    if tokenizer.name != name:
        raise ValueError(f"this tokenizer.json is {tokenizer.name}, and the tokens are of {name}")
    return tokenizer


def read_tokenizer(path: str | Path) -> JsonTokenizer:
    """The tokenizer in a file; ValueError when there is none."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no tokenizer {path}; say bytes, or name a tokenizer.json")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read as a tokenizer.json: {error.reason}") from error
    return JsonTokenizer(text, str(path))


def tokenizer_of(path: str | Path, name: str) -> Tokenizer:
    """The tokenizer `name` of prepared text: bytes, or the tokenizer.json of its corpus.

    path: token file or folder of shards, as for open_tokens.
    """
    if name == ByteTokenizer.name:
        return ByteTokenizer()
    for folder in Path(path).resolve().parents[:2]:  # of out/books/train and of a shard in it
        if (folder / "tokenizer.json").is_file():
            return load_tokenizer(name, read_tokenizer(folder / "tokenizer.json").text)
    raise ValueError(f"there is no tokenizer.json beside {path}; prepare the text again")


def train_bpe(texts: Iterable[str], vocab_size: int, marks: Sequence[str] = ("<s>", "</s>")) -> str:
    """A byte-level BPE learned from texts, as the text of a tokenizer.json.

    Raises ValueError for a vocabulary without room for the 256 bytes and the marks, or for merges
    that the texts cannot fill.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    least = 256 + len(marks)
    if vocab_size < least:
        raise ValueError(f"--train-bpe {vocab_size} must be {least} or more: the bytes and marks")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
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
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=dict(BYTE_OF), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if vocab_size > 256:
        tokenizer.add_special_tokens(["<bos>", "<eos>"])  # 256 and 257
    return tokenizer.to_str()
