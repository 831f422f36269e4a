"""The reference implementation's models: its names, shapes and config, and ours.

The reference implementation is the PyTorch code of arXiv 2407.04620; its state_dict and config are
plain mappings here.

It reads all M tokens of a mini-batch with a factor max(0, 1/place + shift). Ours are the same for
M - 1 of them; the last, which scales the step that is carried on, is exp(carry_shift) / M, so a
factor of 0 can only come from an import.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.mixers.ttt import TTTConfig


REFERENCE_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5504,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
    "use_gate": False,
    "share_qk": False,
    "ttt_layer_type": "linear",
    "ttt_base_lr": 1.0,
    "mini_batch_size": 16,
    "pre_conv": False,
    "conv_kernel": 4,
}

# our field -> the reference's key, of BackboneConfig and of TTTConfig
BACKBONE_KEYS = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "norm_eps": "rms_norm_eps",
}
TTT_KEYS = {
    "inner": "ttt_layer_type",
    "mini_batch_size": "mini_batch_size",
    "base_lr": "ttt_base_lr",
    "share_qk": "share_qk",
    "gate": "use_gate",
    "pre_conv": "pre_conv",
    "conv_kernel": "conv_kernel",
    "rope_theta": "rope_theta",
}

# our name -> the reference's, inside a block and inside its mixer
BLOCK_NAMES = {
    "conv_norm.weight": "conv.norm.weight",
    "conv.weight": "conv.conv.weight",
    "conv.bias": "conv.conv.bias",
    "mixer_norm.weight": "seq_norm.weight",
    "mlp_norm.weight": "ffn_norm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}
MIXER_NAMES = {
    "gate_proj.weight": "g_proj.weight",
    "eta_weight": "learnable_ttt_lr_weight",
    "eta_bias": "learnable_ttt_lr_bias",
    "token_shift": "learnable_token_idx",
    "norm_weight": "ttt_norm_weight",
    "norm_bias": "ttt_norm_bias",
    "inner_weights.0": "W1",
    "inner_weights.1": "b1",
    "inner_weights.2": "W2",
    "inner_weights.3": "b2",
}


NO_CARRY = -1000.0
"""A carry_shift whose exponential is 0 in every dtype."""


def reference_config(config: Mapping[str, Any]) -> BackboneConfig:
    """Our config for one of the reference implementation; ValueError for a model we do not have."""
    values = {**REFERENCE_DEFAULTS, **config}
    for key in ("hidden_act", "tie_word_embeddings"):
        if values[key] != REFERENCE_DEFAULTS[key]:
            allowed = REFERENCE_DEFAULTS[key]
            raise ValueError(f"config {key} is {values[key]!r}; only {allowed!r} can be loaded")
    if values["ttt_layer_type"] not in ("linear", "mlp"):
        raise ValueError(
            f"config ttt_layer_type is {values['ttt_layer_type']!r}; it must be linear or mlp"
        )
    ttt = TTTConfig(**{own: values[key] for own, key in TTT_KEYS.items()})
    return BackboneConfig(**{own: values[key] for own, key in BACKBONE_KEYS.items()}, ttt=ttt)


def load_reference(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Backbone:
    """The backbone with the reference implementation's weights; it gives the same logits.

    Raises ValueError for a config without a model of ours, and for keys or shapes that do not fit.
    """
    backbone = Backbone(reference_config(config))
    head = state_dict.get("lm_head.weight")
    if head is not None and not torch.equal(head, state_dict["model.embed_tokens.weight"]):
        raise ValueError("lm_head.weight is not the embedding; only models with a tied head load")
    own = join_shifts(backbone.state_dict())
    names = {name: reference_name(name) for name in own}
    check_keys(set(state_dict) - {"lm_head.weight"}, set(names.values()))
    for name, parameter in own.items():
        came, shape = state_dict[names[name]], reference_shape(names[name], parameter)
        if came.shape != shape:
            raise ValueError(
                f"{names[name]} has shape {tuple(came.shape)}; this config needs {tuple(shape)}"
            )
        own[name] = came.reshape(parameter.shape)
    backbone.load_state_dict(split_shifts(own))
    return backbone


def has_reference_form(config: BackboneConfig) -> bool:
    """Whether it is a text model and the reference implementation has every part of it."""
    ttt = config.ttt
    whole = ttt.learn_start and ttt.norm and ttt.learn_step and config.mlp_width > 0
    return config.mixer == "ttt" and whole and not (ttt.forget or ttt.carry or config.grid)


def save_reference(backbone: Backbone) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state_dict, config) for the reference implementation, without the tied head.

    Raises ValueError for a model that it does not have: frames, other mixers, missing parts.
    """
    config = backbone.config
    if not has_reference_form(config):
        raise ValueError(
            f"a model of {config.mixer} with grid {config.grid}, mlp_width {config.mlp_width} and "
            f"{config.ttt} has no form in the reference implementation, which has text, complete "
            "TTT layers and SwiGLUs"
        )
    values = REFERENCE_DEFAULTS | {"model_type": "ttt", "architectures": ["TTTForCausalLM"]}
    values |= {key: getattr(config, own) for own, key in BACKBONE_KEYS.items()}
    values |= {key: getattr(config.resolved, own) for own, key in TTT_KEYS.items()}
    own = join_shifts(backbone.state_dict())
    named = {reference_name(name): w for name, w in own.items()}
    return {name: w.reshape(reference_shape(name, w)) for name, w in named.items()}, values


def reference_name(name: str) -> str:
    """The reference implementation's name of one of our parameters."""
    if name == "embedding.weight":
        return "model.embed_tokens.weight"
    if name == "norm.weight":
        return "model.norm.weight"
    _, layer, rest = name.split(".", 2)
    part, _, inside = rest.partition(".")
    if part == "mixer":
        return f"model.layers.{layer}.seq_modeling_block.{MIXER_NAMES.get(inside, inside)}"
    return f"model.layers.{layer}.{BLOCK_NAMES[rest]}"


def reference_shape(name: str, parameter: Tensor) -> torch.Size:
    """The reference's shape: convolutions and step sizes have an extra axis of length one."""
    *_, module, kind = name.split(".")
    convolution = module.startswith("conv") and kind == "weight"
    extra_axis = convolution or kind.startswith("learnable_ttt_lr")
    return parameter[:, None].shape if extra_axis else parameter.shape


def join_shifts(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights, with the reference's shifts of all M tokens as each token_shift."""
    joined = {name: w for name, w in weights.items() if not name.endswith("carry_shift")}
    for name in joined:
        if name.endswith("token_shift"):
            joined[name] = join_shift(weights[name], weights[carry_of(name)])
    return joined


def split_shifts(joined: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `join_shifts`; logs where a mini-batch carries nothing on."""
    weights = dict(joined)
    for name, shifts in joined.items():
        if name.endswith("token_shift"):
            weights[name], weights[carry_of(name)] = split_shift(name, shifts)
    return weights


def carry_of(name: str) -> str:
    return name.removesuffix("token_shift") + "carry_shift"


def join_shift(token_shift: Tensor, carry_shift: Tensor) -> Tensor:
    """The reference's shifts (M,) from ours (M - 1,) and (1,)."""
    last = torch.expm1(carry_shift.double()) / (len(token_shift) + 1)
    return torch.cat((token_shift, last.to(token_shift)))


def split_shift(name: str, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `join_shift`, for the layer that `name` is of."""
    carry = 1 + len(shifts) * shifts[-1:].double()  # as a multiple of 1 / M
    if carry <= 0:
        logging.getLogger("tttvideo").warning(
            "%s: its last factor is 0, so the layer remembers nothing from one mini-batch to the "
            "next",
            name,
        )
    shift = carry.clamp_min(0).log().clamp_min(NO_CARRY)
    return shifts[:-1].clone(), shift.to(shifts)


def check_keys(came: set[str], wanted: set[str]) -> None:
    for verb, names in (("lack", wanted - came), ("have no place for", came - wanted)):
        if names:
            raise ValueError(
                f"the weights {verb} {len(names)} of the keys that this config names, first "
                f"{min(names)}; does the config belong to these weights?"
            )
