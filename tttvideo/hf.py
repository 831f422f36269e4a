"""Our models in Hugging Face transformers: `import tttvideo.hf` registers them with Auto classes.

Two kinds of folder load, and `tttvideo export` writes both: "ttt", text models of TTT layers in the
reference implementation's layout, and "tttvideo", every other backbone under our own names. The
head is the embedding. Generation carries a state from token to token, not keys and values: its size
is constant (except for attention), and `forward` returns a new one and changes none. No state reads
padding, so a row of a batch is as if it were alone.

B batch, T tokens, V vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import slice_logits_to_keep
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import ModelOutput
from transformers.utils.deprecation import deprecate_kwarg

from tttvideo.kernels import Packed
from tttvideo.weights.folders import own_config
from tttvideo.weights.reference import REFERENCE_DEFAULTS, load_reference, reference_config
from tttvideo.weights.transformers_layout import register_reference_layout

from .backbone import Backbone, BackboneConfig
from .padding import AnyState, check_positions, real_labels, real_tokens, spread
from .reading import CHUNK, read
from .states import tree_map


class ReferenceConfig(PreTrainedConfig):
    """The config of the reference implementation, with the keys of its config.json."""

    model_type = "ttt"
    keys_to_ignore_at_inference = ["cache"]  # noqa: RUF012
    use_cache: bool = True

    def to_backbone(self) -> BackboneConfig:
        return reference_config({k: getattr(self, k, v) for k, v in REFERENCE_DEFAULTS.items()})


class TTTVideoConfig(PreTrainedConfig):
    """The config of every other backbone; `model` is a BackboneConfig as a mapping."""

    model_type = "tttvideo"
    keys_to_ignore_at_inference = ["cache"]  # noqa: RUF012
    model: dict | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = True

    @property
    def vocab_size(self) -> int:
        return self.to_backbone().vocab_size

    def to_backbone(self) -> BackboneConfig:
        return own_config(self.model)


class StateCache:
    """The state after the tokens that a model has read.

    state: of a batch, or a Packed of one for each row, as padding makes them differ.
    seen: the tokens of a row, with padding. read: those of each row without, (B,).
    """

    is_linear = (False,)  # tokens of a prompt that it holds are cut off, not read twice
    is_compileable = False
    is_croppable = False

    def __init__(self, state: AnyState | None, seen: int, read: Tensor):
        self.state, self.seen, self.read = state, seen, read

    def get_seq_length(self) -> int:
        return self.seen

    def after(self, state: AnyState, real: Tensor) -> "StateCache":
        """The cache after more tokens, of which `real` (B, T) are no padding."""
        return StateCache(state, self.seen + real.shape[1], self.read + real.sum(1))

    def select(self, rows: Tensor) -> "StateCache":
        """A copy of these rows of the batch, in their order."""
        if isinstance(self.state, Packed):
            chosen = tuple(self.state.states[row] for row in rows.tolist())
            state: Any = Packed(chosen, (1,) * len(chosen))
        else:
            state = tree_map(lambda x: x.index_select(0, rows), self.state)
        return StateCache(state, self.seen, self.read[rows])


@dataclass
class CausalLMOutput(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: StateCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class CausalLM(PreTrainedModel, GenerationMixin):
    """A Backbone that transformers can load, save and train, and that can generate."""

    base_model_prefix = "backbone"
    _is_stateful = True
    supports_gradient_checkpointing = True
    gradient_checkpointing = False
    checkpoint_every = 1  # blocks
    accepts_loss_kwargs = True  # num_items_in_batch
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

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")  # as in transformers' models
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: StateCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutput | tuple:
        """Read input_ids (B, T) after the tokens of `cache`; logits (B, T, V), or those to keep.

        attention_mask: (B, T), or with the tokens of `cache` in front; 0 is padding, at either end
            of a row. It is not read, and its logits mean nothing.
        inputs_embeds: (B, T, C), in place of input_ids.
        labels: (B, T), shifted inside; -100 and padding are ignored, whichever logits are kept.
        hidden_states: (B, T, C), the input of each block and of the head.
        Raises: ValueError for padding inside a row, and for position_ids of another order.
        """
        tokens = one_input(input_ids, inputs_embeds)
        if output_attentions:
            raise ValueError("output_attentions is true, and a state has no attention weights")
        B, T = tokens.shape[:2]
        past = cache or StateCache(None, 0, torch.zeros(B, dtype=torch.long, device=tokens.device))
        real = real_tokens(attention_mask, B, T, past.seen)
        check_positions(position_ids, real, past.read, past.seen, T)
        every = self.choice("output_hidden_states", output_hidden_states)
        only = logits_to_keep if isinstance(logits_to_keep, int) and labels is None else 0
        hidden, layers, after = self.read(tokens, real, past, only or T, every)
        loss = None
        if labels is None:  # few logits are made
            hidden = slice_logits_to_keep(hidden, logits_to_keep)
        logits = self.backbone.head(hidden)
        if labels is not None:
            loss = self.loss(logits, labels, real, num_items_in_batch)
            logits = slice_logits_to_keep(logits, logits_to_keep)
        kept = use_cache if use_cache is not None else self.config.use_cache and not self.training
        output = CausalLMOutput(loss, logits, after if kept else None, layers)
        return output if self.choice("return_dict", return_dict) else output.to_tuple()

    def choice(self, name: str, given: bool | None) -> bool:
        """What is given, or else the config's."""
        return getattr(self.config, name) if given is None else given

    def read(
        self, tokens: Tensor, real: Tensor | None, past: StateCache, kept: int, every: bool
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, StateCache]:
        """The inputs (B, T, C) of the head, its last `kept` or more; if `every`, the blocks' too.

        And the cache after the tokens. Without gradients the tokens are read in parts.
        """
        all_real = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        if real is None and isinstance(past.state, Packed):
            real = all_real
        parts: list[Tensor] = []
        inputs: list[Tensor] = []
        size = tokens.shape[1] if every or torch.is_grad_enabled() else CHUNK
        blocks, state = self.blocks(inputs if every else None), past.state
        for _, part, after in read(self.backbone, tokens, state, size, real, blocks):
            parts.append(part if every or kept >= part.shape[1] else part[:, -kept:].clone())
            state = after
        hidden = torch.cat(parts, dim=1)
        assert state is not None
        cache = past.after(state, all_real if real is None else real)
        if not every:
            return hidden, None, cache
        layers = inputs if real is None else [spread(x, real) for x in inputs]
        return hidden, (*layers, hidden), cache

    def blocks(self, inputs: list[Tensor] | None) -> list[Callable[..., Any]]:
        """The blocks, with checkpoints if these are enabled; `inputs` gets the input of each."""
        blocks: list[Callable[..., Any]] = list(self.backbone.blocks)
        if self.gradient_checkpointing and self.training:
            for i in range(0, len(blocks), self.checkpoint_every):
                blocks[i] = partial(self._gradient_checkpointing_func, blocks[i])
        return blocks if inputs is None else [watched(block, inputs) for block in blocks]

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        """As in transformers, which counts only blocks of a class of its own."""
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, every_n_layers)
        self.checkpoint_every = every_n_layers

    def loss(
        self, logits: Tensor, labels: Tensor, real: Tensor | None, count: Tensor | int | None
    ) -> Tensor:
        """The mean loss of the labels, or their sum divided by `count`."""
        if labels.shape != logits.shape[:2]:
            raise ValueError(
                f"labels are {tuple(labels.shape)}; there must be one for each token, "
                f"{tuple(logits.shape[:2])}, -100 where there is no loss"
            )
        return self.loss_function(
            logits=logits,
            labels=real_labels(labels, real),
            vocab_size=self.backbone.config.vocab_size,
            num_items_in_batch=count,
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers; ValueError for prompts that end with padding."""
        if is_first_iteration and attention_mask is not None and not attention_mask[:, -1].all():
            raise ValueError(
                "a prompt ends with padding, after which nothing can be generated; pad prompts at "
                "their beginning (tokenizer.padding_side = 'left')"
            )
        own = {"attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        return super().prepare_inputs_for_generation(
            input_ids, **own, is_first_iteration=is_first_iteration, **kwargs
        )

    def _reorder_cache(self, cache: StateCache, beams: Tensor) -> StateCache:
        return cache.select(beams)


def one_input(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """Whichever is given; ValueError unless it is one of them, with tokens."""
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give either input_ids or inputs_embeds")
    tokens = inputs_embeds if input_ids is None else input_ids
    assert tokens is not None
    if not tokens.numel():
        raise ValueError(f"tokens are {tuple(tokens.shape)}; give each row one or more")
    return tokens


def watched(block: Callable[..., Any], inputs: list[Tensor]) -> Callable[..., Any]:
    """The block, which appends its input to `inputs`."""

    def call(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        inputs.append(x)
        return block(x, state)

    return call


class TTTForCausalLM(CausalLM):
    """Text models of TTT layers, in the reference implementation's layout on disk."""

    config_class = ReferenceConfig

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in torch, also of the layout on disk, which is what Trainer gives it."""
        if any(name.startswith("model.") for name in state_dict):
            own = load_reference(state_dict, self.config.to_dict()).state_dict()
            state_dict = {f"backbone.{name}": weight for name, weight in own.items()}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


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
    # by its name Trainer knows that labels are shifted, where it smooths them itself
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config_class.model_type] = model_class.__name__
