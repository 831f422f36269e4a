"""A checkpoint as a model of lm-evaluation-harness: likelihoods and continuations of texts.

No context is cut off: it is read in chunks into a state of constant size. Every text begins with
the mark that begins the documents of training. The prefix of a context is kept for the next
request, so that a question is read once for all its choices.
"""

from typing import Any

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
        self.text = load_tokenizer(model.tokenizer, model.tokenizer_json)
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

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        answers = []
        with progress("answers", len(requests), "answers") as advance:
            for texts, context, continuation in requests:
                tokens = self.row(continuation)
                answers.append(likelihood(self.backbone, tokens, self.read(context), self.chunk))
                self.cache_hook.add_partial("loglikelihood", texts, answers[-1])
                advance(1)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-likelihoods of whole documents, each after its first mark."""
        sums = []
        with progress("documents", len(requests), "documents") as advance:
            for (text,) in (request.args for request in requests):
                tokens = self.row(self.text.encode(text))
                nats, _ = likelihood(self.backbone, tokens, self.read([]), self.chunk)
                self.cache_hook.add_partial("loglikelihood_rolling", (text,), nats)
                sums.append(nats)
                advance(1)
        return sums

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Continuations up to one of the stop strings, which is left out."""
        found = []
        with progress("texts", len(requests), "texts") as advance:
            for context, settings in (request.args for request in requests):
                found.append(self.generate(context, **generation(settings)))
                self.cache_hook.add_partial("generate_until", (context, settings), found[-1])
                advance(1)
        return found

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
