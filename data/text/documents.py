"""Documents as streams of bytes, and their tokens.

A document is an iterator of chunks of UTF-8, so that it need not fit into memory, except where its
format demands that: a record of JSON, or a cell of a table.
"""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from tttvideo.data.tokens import Header

from .tokenizer import ByteTokenizer, Tokenizer


PIECE = 1 << 20  # characters that are tokenised together


def text_header(tokenizer: Tokenizer) -> Header:
    """The header of a token file of text."""
    bos, eos = tokenizer.bos, tokenizer.eos
    return Header("text", tokenizer.name, tokenizer.vocab_size, bos=bos, eos=eos)


BYTES = text_header(ByteTokenizer())


@dataclass(frozen=True)
class Document:
    """A text, as chunks of UTF-8 of `unpack.CHUNK` bytes, the last one shorter."""

    place: str  # file, and line or record in it
    chunks: Iterator[bytes]


@dataclass(frozen=True)
class Malformed:
    """A line, record or row that holds no text, and why."""

    place: str
    reason: str


class Utf8Decoder:
    """Chunks of UTF-8 to text; wrong bytes become U+FFFD.

    damaged: the place of the first wrong byte in the text, from 0; None while there is none.
    """

    damaged: int | None = None

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self.begin = 0  # of the next chunk, in the text

    def decode(self, chunk: bytes, final: bool = False) -> str:
        state, begin = self.decoder.getstate(), self.begin
        self.begin += len(chunk)
        try:
            return self.decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            self.damaged = begin - len(state[0]) + error.start
            self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
            self.decoder.setstate(state)
            return self.decoder.decode(chunk, final)

    def decode_all(self, chunks: Iterable[bytes]) -> Iterator[str]:
        yield from map(self.decode, chunks)
        yield self.decode(b"", final=True)


def encode_chunks(
    tokenizer: Tokenizer, chunks: Iterable[bytes], utf8: Utf8Decoder
) -> Iterator[tuple[np.ndarray, int]]:
    """Tokens of a document, `PIECE` characters at a time, and the bytes of text they stand for.

    Tokens that are bytes keep those that are no UTF-8; `utf8` notices them for every tokenizer.
    """
    if isinstance(tokenizer, ByteTokenizer):
        for chunk in chunks:
            utf8.decode(chunk)
            yield np.frombuffer(chunk, np.uint8), len(chunk)
        utf8.decode(b"", final=True)
    else:
        for piece, tokens in tokenizer.encode_all(split_text(utf8.decode_all(chunks), PIECE)):
            yield np.array(tokens, np.int64), len(piece.encode())


def split_text(texts: Iterable[str], size: int) -> Iterator[str]:
    """The joined texts in pieces of at most `size` characters, which depend on the whole alone.

    A piece ends after the last line end between two visible characters, where a tokenizer begins
    a new word anyway; without such a place, after any white space.
    """
    rest = ""
    for text in texts:
        rest += text
        while len(rest) > size:
            end = piece_end(rest, size)
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def piece_end(text: str, size: int) -> int:
    """The number of characters, at most `size`, of the first piece of a longer text."""
    end = text.rfind("\n", 1, size)
    while end > 0:
        if not text[end - 1].isspace() and not text[end + 1].isspace():
            return end + 1
        end = text.rfind("\n", 1, end)
    space = max(text.rfind(mark, 0, size) for mark in " \n\t")
    return space + 1 if space >= 0 else size
