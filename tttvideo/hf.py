"""Our models in Hugging Face transformers: `import tttvideo.hf` registers them with Auto classes.

Two kinds of folder load, and `tttvideo export` writes both: "ttt", text models of TTT layers in the
reference implementation's layout, and "tttvideo", every other backbone under our own names. The
head is the embedding. Generation carries a state from token to token, not keys and values: its size
is constant (except for attention), and `forward` returns a new one and changes none.

B batch, T tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import ModelOutput

from tttvideo.weights.folders import own_config
from tttvideo.weights.reference import REFERENCE_DEFAULTS, reference_config
from tttvideo.weights.transformers_layout import register_reference_layout

from .backbone import Backbone, BackboneConfig, BackboneState
from .reading import CHUNK, read
from .states import tree_map


class ReferenceConfig(PreTrainedConfig):
    """The config of the reference implementation, with the keys of its config.json."""

    model_type = "ttt"
    keys_to_ignore_at_inference = ("cache",)
    use_cache: bool = True

    def to_backbone(self) -> BackboneConfig:
        return reference_config({k: getattr(self, k, v) for k, v in REFERENCE_DEFAULTS.items()})


class TTTVideoConfig(PreTrainedConfig):
    """The config of every other backbone; `model` is a BackboneConfig as a mapping."""

    model_type = "tttvideo"
    keys_to_ignore_at_inference = ("cache",)
    model: dict | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = True

    @property
    def vocab_size(self) -> int:
        return self.to_backbone().vocab_size

    def to_backbone(self) -> BackboneConfig:
        return own_config(self.model)


class StateCache:
    """The state after the tokens that a model has read, and their number."""

    is_linear = (False,)  # tokens of a prompt that it holds are cut off, not read twice
    is_compileable = False
    is_croppable = False

    def __init__(self, state: BackboneState, seen: int):
        self.state, self.seen = state, seen

    def get_seq_length(self) -> int:
        return self.seen


@dataclass
class CausalLMOutput(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: StateCache | None = None


class CausalLM(PreTrainedModel, GenerationMixin):
    """A Backbone that transformers can load, save and train, and that can generate."""

    base_model_prefix = "backbone"
    _is_stateful = True
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.weight$"]  # a copy of the embedding

    def __init__(self, config: ReferenceConfig | TTTVideoConfig):
        super().__init__(config)
        own = config.to_backbone()
        if own.grid:
            raise ValueError(f"a model of frames {own.grid} is not one of text")
        self.backbone = Backbone(own)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As in transformers, except that weights that do not fit raise ValueError."""
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        for verb, names in (("lack", info["missing_keys"]), ("add", info["unexpected_keys"])):
            if names:
                raise ValueError(
                    f"the weights {verb} {len(names)} of the model's keys, first {min(names)}; "
                    "does config.json belong to them?"
                )
        return (model, info) if output_loading_info else model

    def _init_weights(self, module: nn.Module) -> None:
        """Backbone initialises its weights itself."""

    def get_input_embeddings(self) -> nn.Embedding:
        return self.backbone.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        raise ValueError("the vocabulary of a trained model is fixed; train with a larger one")

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # forward makes the first cache

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: StateCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> CausalLMOutput | tuple:
        """Read input_ids (B, T) after the tokens of `cache`; logits (B, T, V), or the last few.

        labels (B, T) are shifted inside, and -100 is ignored. Raises ValueError for padding: a
        state learns from every token, so sequences of one batch must have one length.
        """
        padding = 0 if attention_mask is None else int((attention_mask != 1).sum())
        if padding:
            raise ValueError(
                f"attention_mask excludes {padding} tokens; a state learns from every token, so "
                "padding is not supported: batch sequences of one length"
            )
        state, seen = (cache.state, cache.seen) if cache else (None, 0)
        before = max(input_ids.shape[1] - logits_to_keep, 0) if logits_to_keep else 0
        for _, _, after in read(self.backbone, input_ids[:, :before], state, CHUNK):
            state = after
        logits, state = self.backbone(input_ids[:, before:], state)
        loss = None
        if labels is not None:
            size = self.backbone.config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=size)
        keep = use_cache if use_cache is not None else self.config.use_cache and not self.training
        cache = StateCache(state, seen + input_ids.shape[1]) if keep else None
        output = CausalLMOutput(loss, logits, cache)
        return output if return_dict is not False else output.to_tuple()

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        cache: StateCache | None = None,
        attention_mask: Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The tokens that `cache` has not read; only the prompt's mask can have zeros."""
        if next_sequence_length is not None:
            input_ids = input_ids[:, input_ids.shape[1] - next_sequence_length :]
        return {
            "input_ids": input_ids,
            "cache": cache,
            "attention_mask": attention_mask if is_first_iteration else None,
            "use_cache": kwargs.get("use_cache"),
            "logits_to_keep": kwargs.get("logits_to_keep", 0),
        }

    def _reorder_cache(self, cache: StateCache, beams: Tensor) -> StateCache:
        return StateCache(tree_map(lambda x: x.index_select(0, beams), cache.state), cache.seen)


class TTTForCausalLM(CausalLM):
    """Text models of TTT layers, in the reference implementation's layout on disk."""

    config_class = ReferenceConfig


class TTTVideoForCausalLM(CausalLM):
    """Every other text model."""

    config_class = TTTVideoConfig


register_reference_layout(TTTForCausalLM.__name__)
for config_class, model_class in (
    (ReferenceConfig, TTTForCausalLM),
    (TTTVideoConfig, TTTVideoForCausalLM),
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
