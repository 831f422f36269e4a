"""A checkpoint as a model of lm-evaluation-harness: likelihoods and continuations of texts.

No context is cut off: it is read in chunks into a state of constant size. Every text begins with
the mark that begins the documents of training. The prefix of a context is kept for the next
request, so that a question is read once for all its choices.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor

from tttvideo.apps.device import best_device
from tttvideo.apps.show.stream_text import StreamedText
from tttvideo.data.text.tokenizer import load_tokenizer
from tttvideo.progress import progress
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.decode import Prefix, decode, likelihood, prefill
from tttvideo.weights.checkpoints import load_tokens_model


T = TypeVar("T")
GENERATION = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"}


@register_model("tttvideo")
class TTTVideoLM(TemplateLM):
    """`lm_eval.simple_evaluate(model=TTTVideoLM("out/text_tiny/last.ckpt"), tasks=[...])`.

    device: where the model runs; a GPU if there is one.
    chunk: tokens of a call; only memory and speed depend on it.
    Raises ValueError for a checkpoint whose tokens are not text or have no marks.
    """

    def __init__(self, checkpoint: str, device: str | None = None, chunk: int = 1024):
        super().__init__()
        if chunk < 1:
            raise ValueError(f"chunk {chunk} must be 1 or more tokens")
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
        self.chunk = chunk
        self.last: tuple[list[int], Prefix] | None = None

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
        """Without marks in any case: `read` puts the first one before every text."""
        return self.text.encode(string)

    def read(self, context: list[int]) -> Prefix:
        """The prefix of a context, which begins with the first mark."""
        if not self.last or self.last[0] != context:
            rest = context[1:] if context[:1] == [self.prefix_token_id] else context
            tokens = self.row([self.prefix_token_id, *rest])
            self.last = context, prefill(self.backbone, tokens, self.chunk)
        return self.last[1]

    def row(self, tokens: list[int]) -> Tensor:
        return torch.tensor([tokens], dtype=torch.long, device=self._device)

    def score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        return likelihood(self.backbone, self.row(continuation), self.read(context), self.chunk)

    def collect(self, kind: str, keys: list[tuple[Any, ...]], answers: Iterable[T]) -> list[T]:
        """The answers, each also in the harness's cache under its key."""
        found = []
        with progress(kind, len(keys), "requests") as advance:
            for key, answer in zip(keys, answers, strict=True):
                found.append(answer)
                self.cache_hook.add_partial(kind, key, answer)
                advance(1)
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        answers = (self.score(context, continuation) for _, context, continuation in requests)
        return self.collect("loglikelihood", [texts for texts, *_ in requests], answers)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-likelihoods of whole documents, each after its first mark."""
        keys = [request.args for request in requests]
        answers = (self.score([], self.text.encode(text))[0] for (text,) in keys)
        return self.collect("loglikelihood_rolling", keys, answers)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Continuations up to one of the stop strings, which is left out."""
        keys = [request.args for request in requests]
        answers = (self.generate(context, **generation(settings)) for context, settings in keys)
        return self.collect("generate_until", keys, answers)

    @torch.inference_mode()
    def generate(self, context: str, until: list[str], count: int, **how: Any) -> str:
        """At most `count` tokens, no further than the document's end; `how` goes to `Chooser`."""
        seed = int(torch.randint(2**31, ()))  # the harness seeds torch
        choose = Chooser(**how, seed=seed)
        stream, text = StreamedText(self.text.decoder(), until), ""
        prefix = self.read(self.text.encode(context))
        for token in decode(self.backbone, prefix, count, choose):
            if token.item() == self.eot_token_id:
                break
            text += stream(token.tolist())
            if stream.ended:
                return text
        return text + stream([], final=True)


def generation(settings: dict[str, Any]) -> dict[str, Any]:
    """Generation settings of a task as arguments of `generate`; ValueError for an unknown one."""
    values = normalize_gen_kwargs(settings)
    if set(values) - GENERATION:
        raise ValueError(
            f"generation_kwargs {min(set(values) - GENERATION)!r} is none of "
            f"{', '.join(sorted(GENERATION))}"
        )
    return {
        "until": [stop for stop in values["until"] if stop],
        "count": values["max_gen_toks"],
        "temperature": values.get("temperature", 0.0),
        "top_k": values.get("top_k", 0),
        "top_p": values.get("top_p", 1.0),
    }
