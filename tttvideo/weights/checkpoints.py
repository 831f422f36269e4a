"""Weights in and out: our own checkpoints, and the reference implementation's.

The reference implementation is the PyTorch code of arXiv 2407.04620; its state_dict and config are
plain mappings here, and safetensors + config.json on disk.
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.files import replacing, write_text
from tttvideo.mixers.attention import AttentionConfig
from tttvideo.mixers.linear_attention import LinearAttentionConfig
from tttvideo.mixers.mamba import MambaConfig
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.video.frame_tokenizer import FrameTokenizer, FrameTokenizerConfig


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

# ours -> theirs, inside a block and inside its mixer
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


def reference_config(config: Mapping[str, Any]) -> BackboneConfig:
    """Ours for one of the reference implementation; ValueError when we have no such model."""
    values = {**REFERENCE_DEFAULTS, **config}
    for key in ("hidden_act", "tie_word_embeddings"):
        if values[key] != REFERENCE_DEFAULTS[key]:
            allowed = REFERENCE_DEFAULTS[key]
            raise ValueError(f"config {key} is {values[key]!r}; only {allowed!r} can be loaded")
    inner = values["ttt_layer_type"]
    if inner not in ("linear", "mlp"):
        raise ValueError(f"config ttt_layer_type is {inner!r}; it must be linear or mlp")
    return BackboneConfig(
        vocab_size=values["vocab_size"],
        width=values["hidden_size"],
        depth=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        mlp_width=values["intermediate_size"],
        norm_eps=values["rms_norm_eps"],
        ttt=TTTConfig(
            inner=inner,
            mini_batch_size=values["mini_batch_size"],
            base_lr=values["ttt_base_lr"],
            share_qk=values["share_qk"],
            gate=values["use_gate"],
            pre_conv=values["pre_conv"],
            conv_kernel=values["conv_kernel"],
            rope_theta=values["rope_theta"],
        ),
    )


def load_reference(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Backbone:
    """The backbone that computes what the reference implementation computes from these weights.

    Raises ValueError for a config that we have no model for and for keys or shapes that do not fit.
    """
    backbone = Backbone(reference_config(config))
    head = state_dict.get("lm_head.weight")
    if head is not None and not torch.equal(head, state_dict["model.embed_tokens.weight"]):
        raise ValueError("lm_head.weight is not the embedding; only models with a tied head load")
    ours = backbone.state_dict()
    names = {name: reference_name(name) for name in ours}
    check_keys(set(state_dict) - {"lm_head.weight"}, set(names.values()))
    for name, parameter in ours.items():
        came = state_dict[names[name]]
        if came.shape != reference_shape(names[name], parameter):
            raise ValueError(
                f"{names[name]} has shape {tuple(came.shape)}; this config needs "
                f"{tuple(reference_shape(names[name], parameter))}"
            )
        parameter.copy_(came.reshape(parameter.shape))
    return backbone


def has_reference_form(config: BackboneConfig) -> bool:
    """Is it a model of text whose every part the reference implementation has?"""
    whole = config.ttt.learn_start and config.ttt.norm and config.ttt.learn_step
    return config.mixer == "ttt" and whole and config.mlp_width > 0 and not config.grid


def save_reference(backbone: Backbone) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state_dict, config) as the reference implementation reads them; the tied head is left out.

    Raises ValueError for what the reference has no place for: frames, other mixers, parts left out.
    """
    config = backbone.config
    if config.grid:
        raise ValueError(
            f"a model of frames {config.grid} has no form in the reference implementation"
        )
    if not has_reference_form(config):
        raise ValueError(
            f"a model of {config.mixer} with mlp_width {config.mlp_width} and {config.ttt} has no "
            "form in the reference implementation, which has whole TTT layers and SwiGLUs"
        )
    ttt = backbone.blocks[0].mixer.config
    values = REFERENCE_DEFAULTS | {
        "model_type": "ttt",
        "architectures": ["TTTForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": ttt.rope_theta,
        "use_gate": ttt.gate,
        "share_qk": ttt.share_qk,
        "ttt_layer_type": ttt.inner,
        "ttt_base_lr": ttt.base_lr,
        "mini_batch_size": ttt.mini_batch_size,
        "pre_conv": ttt.pre_conv,
        "conv_kernel": ttt.conv_kernel,
    }
    names = {name: reference_name(name) for name in backbone.state_dict()}
    tensors = {
        names[name]: parameter.reshape(reference_shape(names[name], parameter))
        for name, parameter in backbone.state_dict().items()
    }
    return tensors, values


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


def reference_shape(name: str, ours: Tensor) -> torch.Size:
    """Theirs differs from ours by an axis of length one in the convolutions and the step size."""
    *_, module, kind = name.split(".")
    one_more = kind.startswith("learnable_ttt_lr") or (
        module.startswith("conv") and kind == "weight"
    )
    return ours[:, None].shape if one_more else ours.shape


def check_keys(came: set[str], wanted: set[str]) -> None:
    for what, names in (("lack", wanted - came), ("have no place for", came - wanted)):
        if names:
            raise ValueError(
                f"the weights {what} {len(names)} of the keys that this config names, first "
                f"{min(names)}; does the config belong to these weights?"
            )


@dataclass
class TokenCheckpoint:
    """A trained model of tokens, ready to run.

    tokenizer: "bytes", the hash of a tokenizer.json, the fingerprint of the frame tokenizer, or
        "unknown".
    bos, eos: tokens that stand before and after each document; None where there are none.
    trained: tokens, flops, window and steps of all training so far; None if that is not known.
    """

    backbone: Backbone
    tokenizer: str
    tokenizer_json: str | None = None
    bos: int | None = None
    eos: int | None = None
    fps: float | None = None
    frame_tokenizer: FrameTokenizer | None = None
    trained: dict[str, Any] | None = None


def load_tokens_model(path: str | Path) -> TokenCheckpoint:
    """Read a checkpoint of `tttvideo fit` or `tttvideo import`.

    Raises ValueError, in one line, for anything else, and for weights that are not finite.
    """
    about, weights = read_checkpoint(path, "tokens")
    try:
        config = backbone_config(about["backbone"])
        tokenizer = None
        if about["frame_tokenizer"]:
            tokenizer = FrameTokenizer(FrameTokenizerConfig(**about["frame_tokenizer"]))
            fill(tokenizer, weights, "frame_tokenizer.", path)
        backbone = Backbone(config)
        names = ("tokenizer", "tokenizer_json", "bos", "eos", "fps", "trained")
        facts = {name: about[name] for name in names}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} was written by another version: {error}") from error
    fill(backbone, weights, "backbone.", path)
    check_finite(backbone, path)
    return TokenCheckpoint(backbone, frame_tokenizer=tokenizer, **facts)


def backbone_config(values: Mapping[str, Any]) -> BackboneConfig:
    """The config that `dataclasses.asdict` took apart."""
    values = dict(values)
    values["grid"] = values["grid"] and tuple(values["grid"])
    parts = {
        "ttt": TTTConfig,
        "attention": AttentionConfig,
        "linear_attention": LinearAttentionConfig,
        "mamba": MambaConfig,
    }
    return BackboneConfig(**values | {name: kind(**values[name]) for name, kind in parts.items()})


def check_finite(module: torch.nn.Module, path: str | Path) -> None:
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            count = int((~parameter.isfinite()).sum())
            raise ValueError(
                f"{path}: {count} of the {parameter.numel()} numbers in {name} are not finite; the "
                "run that made it diverged: use an earlier checkpoint or a smaller learning rate"
            )


def load_frame_tokenizer(path: str | Path) -> FrameTokenizer:
    """Read a checkpoint of `tttvideo fit` on frames; ValueError for anything else."""
    about, weights = read_checkpoint(path, "frame tokenizer")
    tokenizer = FrameTokenizer(FrameTokenizerConfig(**about["frame_tokenizer"]))
    fill(tokenizer, weights, "tokenizer.", path)
    return tokenizer


def save_tokens_model(
    backbone: Backbone,
    path: str | Path,
    tokenizer: str,
    tokenizer_json: str | None = None,
    bos: int | None = None,
    eos: int | None = None,
) -> None:
    """Write what `load_tokens_model` reads."""
    about = {
        "model": "tokens",
        "backbone": asdict(backbone.config),
        "tokenizer": tokenizer,
        "tokenizer_json": tokenizer_json,
        "bos": bos,
        "eos": eos,
        "fps": None,
        "frame_tokenizer": None,
        "trained": None,
    }
    weights = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    with replacing(Path(path)) as partial:
        torch.save({"tttvideo": about, "state_dict": weights}, partial)


def read_checkpoint(path: str | Path, model: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a checkpoint says of its model, and its weights; weights only, no code is run."""
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        if not is_zipfile(path):
            raise KeyError("torch files are zip archives")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        about, weights = checkpoint["tttvideo"], checkpoint["state_dict"]
    except (RuntimeError, pickle.UnpicklingError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a checkpoint of `tttvideo fit` or `import`") from error
    if about["model"] != model:
        raise ValueError(f"{path} holds a model of {about['model']}, not of {model}")
    return about, weights


def fill(
    module: torch.nn.Module, weights: dict[str, Tensor], prefix: str, path: str | Path
) -> None:
    """Put the weights that begin with `prefix` into the module."""
    mine = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    try:
        module.load_state_dict(mine)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} does not fit its own description: {first}") from error
    module.eval()


def read_reference(path: str | Path) -> Backbone:
    """The backbone in a folder or a .safetensors file, config.json beside or in its metadata."""
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    config = file.with_name("config.json")
    try:
        with safe_open(file, "pt") as tensors:
            metadata = tensors.metadata() or {}
            weights = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    if config.is_file():
        text = config.read_text()
    elif "config" in metadata:
        text = metadata["config"]
    else:
        raise ValueError(f"{file} has no config: put the model's config.json beside it")
    try:
        values = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the config of {file} is not a JSON mapping: {error}") from error
    return load_reference(weights, values)


def write_reference(backbone: Backbone, folder: str | Path) -> None:
    """model.safetensors and config.json in `folder`, as hubs have them."""
    weights, config = save_reference(backbone)
    folder = Path(folder)
    with replacing(folder / "model.safetensors") as partial:
        save_file({name: w.contiguous() for name, w in weights.items()}, partial, {"format": "pt"})
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
