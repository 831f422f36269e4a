"""A checkpoint as a model of lm-evaluation-harness: likelihoods and continuations of texts.

No context is cut off: it is read in chunks into a state of constant size. Every text begins with
the mark that begins the documents of training. Requests are read in batches without padding, those
of like lengths together, and a question once for all its choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from tttvideo.apps.device import best_device
from tttvideo.apps.show.stream_text import StreamedText, decode_pieces
from tttvideo.data.text.tokenizer import load_tokenizer
from tttvideo.progress import progress
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.texts import Texts, likelihoods, prefill_texts
from tttvideo.weights.checkpoints import load_tokens_model


T = TypeVar("T")
BATCH = 32  # requests
GENERATION = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p", "num_beams"}


@register_model("tttvideo")
class TTTVideoLM(TemplateLM):
    """`lm_eval.simple_evaluate(model=TTTVideoLM("out/text_tiny/last.ckpt"), tasks=[...])`.

    device: where the model runs; a GPU if there is one.
    batch_size: requests that are read together. chunk: tokens of each that one call reads. Only
        memory and speed depend on them.
    Raises ValueError for a checkpoint whose tokens are not text or have no marks.
    """

    def __init__(
        self,
        checkpoint: str,
        device: str | None = None,
        chunk: int = 1024,
        batch_size: int | str = BATCH,
    ):
        super().__init__()
        if chunk < 1:
            raise ValueError(f"chunk {chunk} must be 1 or more tokens")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size {batch_size} must be a number of requests, 1 or more")
        model = load_tokens_model(checkpoint)
        if model.frame_tokenizer or model.tokenizer == "unknown":
            raise ValueError(
                f"{checkpoint} reads tokens of {model.tokenizer}; only models of text whose "
                "tokenizer is in the checkpoint can be measured"
            )
        if model.bos is None or model.eos is None:
            raise ValueError(
                f"{checkpoint} has no marks for the beginning and end of a document; train on a "
                "corpus of `tttvideo prepare text`, which has them"
            )
        self._device = torch.device(device or best_device())
        self.backbone = model.backbone.to(self._device)
        self.marks = model.bos, model.eos
        self.text = load_tokenizer(model.tokenizer, model.tokenizer_json, self.marks)
        self.chunk, self.batch_size = chunk, int(batch_size)

    @property
    def eot_token_id(self) -> int:
        return self.marks[1]

    @property
    def prefix_token_id(self) -> int:
        return self.marks[0]

    @property
    def tokenizer_name(self) -> str:
        return self.text.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Without marks in any case: `marked` puts the first one before every text."""
        return self.text.encode(string)

    def collect(
        self, kind: str, keys: Sequence[tuple[Any, ...]], answers: Iterable[list[tuple[int, T]]]
    ) -> list[T]:
        """The answers in order, which come in batches with their numbers, each also in the
        harness's cache under its key.
        """
        found: dict[int, T] = {}
        with progress(kind, len(keys), "requests") as advance:
            for batch in answers:
                found |= batch
                for number, answer in batch:
                    self.cache_hook.add_partial(kind, keys[number], answer)
                advance(len(batch))
        return [found[number] for number in range(len(keys))]

    def score(
        self, pairs: Sequence[tuple[list[int], list[int]]]
    ) -> Iterator[list[tuple[int, tuple[float, bool]]]]:
        """Likelihoods of continuations of contexts, those of a context after it was read once."""
        numbers: dict[tuple[int, ...], list[int]] = {}
        for number, (context, _) in enumerate(pairs):
            numbers.setdefault(self.marked(context), []).append(number)
        for contexts in in_batches(sorted(numbers, key=len, reverse=True), self.batch_size):
            read = zip(contexts, prefill_texts(self.backbone, contexts, self.chunk), strict=True)
            asked = [(n, pairs[n][1], prefix) for context, prefix in read for n in numbers[context]]
            asked.sort(key=lambda one: len(one[1]), reverse=True)
            for batch in in_batches(asked, self.batch_size):
                chosen, texts, prefixes = zip(*batch, strict=True)
                found = likelihoods(self.backbone, texts, prefixes, self.chunk)
                yield list(zip(chosen, found, strict=True))

    def marked(self, context: list[int]) -> tuple[int, ...]:
        """The context after the mark that begins every text."""
        return tuple(
            context if context[:1] == [self.prefix_token_id] else [self.marks[0], *context]
        )

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        return self.collect("loglikelihood", [texts for texts, *_ in requests], self.score(pairs))

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-likelihoods of whole documents, each after its first mark."""
        keys = [request.args for request in requests]
        batches = self.score([([], self.text.encode(text)) for (text,) in keys])
        answers = ([(number, nats) for number, (nats, _) in batch] for batch in batches)
        return self.collect("loglikelihood_rolling", keys, answers)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Continuations up to one of the stop strings, which is left out."""
        keys = [request.args for request in requests]
        alike: dict[Generation, list[tuple[int, tuple[int, ...]]]] = {}
        for number, (context, settings) in enumerate(keys):
            text = number, self.marked(self.text.encode(context))
            alike.setdefault(Generation.read(settings), []).append(text)
        batches = (batch for how, texts in alike.items() for batch in self.generate(texts, how))
        return self.collect("generate_until", keys, batches)

    def generate(
        self, texts: list[tuple[int, tuple[int, ...]]], how: Generation
    ) -> Iterator[list[tuple[int, str]]]:
        """Continuations of numbered texts, no further than a stop string or the document's end.

        What is drawn for a text does not depend on the batch that it is in.
        """
        seed = int(torch.randint(2**31, ()))  # the harness seeds torch
        texts.sort(key=lambda one: len(one[1]), reverse=True)
        for begin, batch in enumerate(in_batches(texts, self.batch_size)):
            numbers, contexts = zip(*batch, strict=True)
            prefixes = prefill_texts(self.backbone, contexts, self.chunk)
            choose = Chooser(how.temperature, how.top_k, how.top_p, seed + begin * self.batch_size)
            decoding = Texts(self.backbone, prefixes, choose, self.eot_token_id)
            streams = [StreamedText(self.text.decoder(), how.until) for _ in prefixes]
            found = [""] * len(batch)
            for row, piece, _ in decode_pieces(decoding, streams, how.count):
                found[row] += piece
            yield list(zip(numbers, found, strict=True))


def in_batches(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (things[begin : begin + size] for begin in range(0, len(things), size))


@dataclass(frozen=True)
class Generation:
    """How a task wants texts to be continued."""

    until: tuple[str, ...]
    count: int
    temperature: float
    top_k: int
    top_p: float

    @classmethod
    def read(cls, settings: dict[str, Any]) -> Generation:
        """The generation_kwargs of a task; ValueError for those that cannot be followed."""
        values = normalize_gen_kwargs(settings)
        if set(values) - GENERATION:
            raise ValueError(
                f"generation_kwargs {min(set(values) - GENERATION)!r} is none of "
                f"{', '.join(sorted(GENERATION))}"
            )
        if values.get("num_beams", 1) != 1:
            raise ValueError(
                f"generation_kwargs num_beams is {values['num_beams']}; only 1 is possible, since "
                "there is no beam search"
            )
        how = values.get("temperature", 0.0), values.get("top_k", 0), values.get("top_p", 1.0)
        Chooser(*how)  # it refuses values
        return cls(tuple(filter(None, values["until"])), values["max_gen_toks"], *how)
