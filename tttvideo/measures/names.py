"""Names of models: their mixer, and every setting that differs from the mixer's usual model.

Models of one name differ in their size only, so that runs are grouped by name.
"""

from dataclasses import asdict
from typing import Any

from tttvideo.backbone import BackboneConfig
from tttvideo.mixers.registry import CONFIGS
from tttvideo.video.frame_model import FrameModelConfig


SIZES = ("vocab_size", "width", "depth", "heads", "mlp_width")
WORDS = {
    "share_qk": ("separate q and k", "shared q and k"),  # of False, and of True
    "gate": ("no gate", "gated"),
    "pre_conv": ("no convolution before", "a convolution before"),
    "learn_start": ("W0 of zeros", "learned W0"),
    "norm": ("no norm", "norm"),
    "forget": ("no forgetting", "forgetting"),
    "causal": ("whole-frame reads", "causal reads"),
    "learn_step": ("no learned steps", "learned steps"),
    "normalise": ("no normaliser", "normaliser"),
    "swiglu": ("no SwiGLU", "SwiGLU"),
}
LABELS = {
    "mini_batch_size": "mini-batch",
    "address": "addressed by",
    "base_lr": "base lr",
    "conv_kernel": "convolution",
    "rope_theta": "rope",
    "window": "sliding window",
    "d_state": "state",
    "head_dim": "head dim",
    "norm_eps": "norm eps",
    "window_frames": "window of frames",
}


def mixer_name(config: BackboneConfig) -> str:
    """Such as "TTT-Linear", as in the paper, or "TTT-MLP (T), mini-batch 2,048"."""
    entry = config.entry
    labelled = {name: getattr(config.own, name) for name in entry.labelled}
    own = {entry.field: type(config.own)(**labelled)}
    usual = type(config)(mixer=config.mixer, mlp_width=int(entry.swiglu), grid=config.grid, **own)
    traits_of_usual = traits(usual)
    different = [phrase(n, x) for n, x in traits(config).items() if x != traits_of_usual[n]]
    return ", ".join([entry.label(config.own), *different])


def video_name(config: BackboneConfig | FrameModelConfig) -> str:
    """Such as "frame model, TTT-Linear", or "token model, TTT-Linear" of tokens in raster order."""
    if isinstance(config, BackboneConfig):
        return f"token model, {mixer_name(config)}"
    return f"frame model, {config.entry.label(config.own) if config.entry else 'no memory'}"


def traits(config: BackboneConfig) -> dict[str, Any]:
    """The settings that fix the computed function, without sizes and backends."""
    own = asdict(config.resolved)
    own.pop("backend", None)
    others = (*SIZES, *CONFIGS, "mixer")
    shared = {name: x for name, x in asdict(config).items() if name not in others}
    return {**own, **shared, "swiglu": config.mlp_width > 0}


def phrase(name: str, value: Any) -> str:
    if name in WORDS:
        return WORDS[name][value]
    return f"{LABELS.get(name, name.replace('_', ' '))} {format_value(value)}"


def format_value(x: Any) -> str:
    if isinstance(x, float) and x >= 1000 and x % 1000 == 0:
        return f"{x / 1000:,.0f}k"
    if isinstance(x, float):
        return f"{x:g}" if float(f"{x:g}") == x else repr(x)
    return f"{x:,}" if isinstance(x, int) else str(x)
