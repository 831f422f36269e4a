"""Our models in Hugging Face transformers: after `import tttvideo.hf` its Auto classes know them.

Two kinds of folder load, both as `tttvideo export` writes them: "ttt", text models of TTT layers in
the reference implementation's layout, and "tttvideo", every other backbone under our own names. The
head is the embedding. What generation carries from token to token is a state, not keys and values:
it has a constant size (but for attention), and `forward` gives a new one and changes none.

B batch, T tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming
from transformers.utils import ModelOutput

from tttvideo.weights.folders import own_config
from tttvideo.weights.reference import (
    BLOCK_NAMES,
    MIXER_NAMES,
    REFERENCE_DEFAULTS,
    reference_config,
)

from .backbone import Backbone, BackboneConfig, BackboneState
from .reading import CHUNK, read
from .states import tree_map


class ReferenceConfig(PreTrainedConfig):
    """The config of the reference implementation, as its config.json has it."""

    model_type = "ttt"
    keys_to_ignore_at_inference = ("cache",)
    use_cache: bool = True

    def to_backbone(self) -> BackboneConfig:
        return reference_config({k: getattr(self, k, v) for k, v in REFERENCE_DEFAULTS.items()})


class TTTVideoConfig(PreTrainedConfig):
    """`model` is our BackboneConfig as a mapping."""

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
    """What a model has read: its state, and the number of tokens."""

    is_linear = (False,)  # a prompt given again with it is cut, not read twice
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
    """A Backbone that transformers can load, save, train and generate with."""

    base_model_prefix = "backbone"
    _is_stateful = True
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.weight$"]  # the embedding once more

    def __init__(self, config: ReferenceConfig | TTTVideoConfig):
        super().__init__(config)
        ours = config.to_backbone()
        if ours.grid:
            raise ValueError(f"a model of frames {ours.grid} is not one of text")
        self.backbone = Backbone(ours)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As everywhere in transformers; but weights that do not fit raise ValueError."""
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        for what, names in (("lack", info["missing_keys"]), ("add", info["unexpected_keys"])):
            if names:
                raise ValueError(
                    f"the weights {what} {len(names)} of the model's keys, first {min(names)}; "
                    "does config.json belong to them?"
                )
        return (model, info) if output_loading_info else model

    def _init_weights(self, module: nn.Module) -> None:
        """Backbone has drawn its own."""

    def get_input_embeddings(self) -> nn.Embedding:
        return self.backbone.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        raise ValueError("the vocabulary of a trained model is fixed; train with a larger one")

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # forward brings the first cache

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
        """input_ids (B, T) after what `cache` has read; logits (B, T, V), or of the last few.

        labels (B, T) are shifted inside, -100 is left out. Raises ValueError for padding: a state
        learns from every token, so sequences of one batch must have one length.
        """
        refuse_padding(attention_mask)
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
        """The tokens that `cache` has not read; the mask of later ones is known to be ones."""
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


def refuse_padding(attention_mask: Tensor | None) -> None:
    if attention_mask is not None and not bool((attention_mask == 1).all()):
        raise ValueError(
            f"attention_mask leaves out {int((attention_mask != 1).sum())} tokens; a state learns "
            "from every token, so padding is not supported: batch sequences of one length"
        )


class TTTForCausalLM(CausalLM):
    """Text models of TTT layers, in the reference implementation's layout on disk."""

    config_class = ReferenceConfig


class TTTVideoForCausalLM(CausalLM):
    """Every other text model."""

    config_class = TTTVideoConfig


class DropAxis(ConversionOps):
    """The axis of length one that the reference has more; as `reference_shape` says."""

    def __init__(self, drop: bool = True):
        self.drop = drop

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        **_,
    ) -> dict[str, Tensor]:
        (tensor,) = input_dict.values()
        tensor = tensor[0] if isinstance(tensor, list) else tensor
        changed = tensor.squeeze(1) if self.drop else tensor.unsqueeze(1)
        return {target_patterns[0]: changed.contiguous()}

    @property
    def reverse_op(self) -> ConversionOps:
        return DropAxis(not self.drop)


def reference_conversions() -> list[WeightRenaming | WeightConverter]:
    r"""The reference's names and shapes into ours; transformers turns them round when it saves.

    Each is applied in its turn. A group in the target stands for the \1 of the source.
    """

    def rename(theirs: str, ours: str) -> WeightRenaming:
        return WeightRenaming("^" + theirs.replace(".", r"\."), "^" + ours.replace(".", r"\."))

    block = "backbone.blocks.{}."
    theirs, ours = block.format(r"\1"), block.format(r"(\d+)")
    etas = ("eta_weight", "eta_bias")
    return [
        rename("model.embed_tokens.", "backbone.embedding."),
        rename("model.norm.", "backbone.norm."),
        rename("model.layers.", "backbone.blocks."),
        rename(f"{theirs}seq_modeling_block.", f"{ours}mixer."),
        *(rename(theirs + name, ours + mine) for mine, name in BLOCK_NAMES.items()),
        *(
            rename(f"{theirs}mixer.{name}", f"{ours}mixer.{mine}")
            for mine, name in MIXER_NAMES.items()
            if mine not in etas
        ),
        *(
            WeightConverter(f"mixer.{MIXER_NAMES[eta]}", f"mixer.{eta}", [DropAxis()])
            for eta in etas
        ),
        *(
            WeightConverter(f"{conv}.weight", f"{conv}.weight", [DropAxis()])
            for conv in ("conv", "conv_q", "conv_k")
        ),
    ]


register_checkpoint_conversion_mapping("TTTForCausalLM", reference_conversions(), overwrite=True)
for config_class, model_class in (
    (ReferenceConfig, TTTForCausalLM),
    (TTTVideoConfig, TTTVideoForCausalLM),
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
