"""What models are called: their mixer, and whatever sets it apart from the usual one.

Two models have one name only where nothing but their size differs, so that names serve to group.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from tttvideo.backbone import BackboneConfig


SIZES = ("vocab_size", "width", "depth", "heads", "mlp_width")
MIXERS = ("ttt", "attention", "linear_attention", "mamba", "mamba2")  # and their configs
BASES = {
    "attention": "Transformer",
    "linear_attention": "linear attention",
    "mamba": "Mamba",
    "mamba2": "Mamba-2",
}
WORDS = {
    "share_qk": ("separate q and k", "shared q and k"),  # of what is false, and of what is true
    "gate": ("no gate", "gated"),
    "pre_conv": ("no convolution before", "a convolution before"),
    "learn_start": ("W0 of zeros", "learned W0"),
    "norm": ("no norm", "norm"),
    "learn_step": ("no learned steps", "learned steps"),
    "normalise": ("no normaliser", "normaliser"),
    "swiglu": ("no SwiGLU", "SwiGLU"),
}
LABELS = {
    "mini_batch_size": "mini-batch",
    "base_lr": "base lr",
    "conv_kernel": "convolution",
    "rope_theta": "rope",
    "window": "sliding window",
    "d_state": "state",
    "head_dim": "head dim",
    "norm_eps": "norm eps",
    "window_frames": "window of frames",
}


def mixer_name(config: "BackboneConfig") -> str:
    """Such as "TTT-Linear", the paper's, or "TTT-MLP (T), mini-batch 2,048"."""
    from tttvideo.backbone import BackboneConfig
    from tttvideo.mixers.ttt import TTTConfig

    of_ttt = TTTConfig(inner=config.ttt.inner, backbone=config.ttt.backbone)
    grown = 0 if config.mixer in ("mamba", "mamba2") else 1  # their own models have no SwiGLU
    usual = BackboneConfig(mixer=config.mixer, mlp_width=grown, ttt=of_ttt, grid=config.grid)
    ours, theirs = traits(config), traits(usual)
    return ", ".join([base(config), *(say(n, x) for n, x in ours.items() if x != theirs[n])])


def base(config: "BackboneConfig") -> str:
    if config.mixer != "ttt":
        return BASES[config.mixer]
    name = {"linear": "TTT-Linear", "mlp": "TTT-MLP"}[config.ttt.inner]
    return name if config.ttt.backbone == "mamba" else f"{name} (T)"  # the paper's (M) and (T)


def traits(config: "BackboneConfig") -> dict[str, Any]:
    """All that makes up the model but its sizes; of what computes it nothing."""
    mixer, facts = config.mixer, asdict(config)
    own = {
        "ttt": lambda: asdict(config.ttt.resolved(config.grid)),
        "mamba": lambda: asdict(config.mamba.resolved(16)),
        "mamba2": lambda: asdict(config.mamba.resolved(128)),
    }.get(mixer, lambda: facts[mixer])()
    own.pop("backend", None)
    if mixer == "mamba":
        del own["head_dim"]  # is of Mamba-2
    shared = {name: x for name, x in facts.items() if name not in (*SIZES, *MIXERS, "mixer")}
    return {**own, **shared, "swiglu": config.mlp_width > 0}


def say(name: str, value: Any) -> str:
    if name in WORDS:
        return WORDS[name][value]
    return f"{LABELS.get(name, name.replace('_', ' '))} {number(value)}"


def number(x: Any) -> str:
    if isinstance(x, float) and x >= 1000 and x % 1000 == 0:
        return f"{x / 1000:,.0f}k"
    if isinstance(x, float):
        return f"{x:g}" if float(f"{x:g}") == x else repr(x)
    return f"{x:,}" if isinstance(x, int) else str(x)
