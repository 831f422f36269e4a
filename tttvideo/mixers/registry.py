"""The list of mixers: one entry and one config field here, and one file, add a mixer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from . import attention, gated_delta, linear_attention, lstm, mamba, ttt_config
from .attention import Attention, AttentionConfig
from .gated_delta import GatedDelta, GatedDeltaConfig
from .linear_attention import LinearAttention, LinearAttentionConfig
from .lstm import LSTM, LSTMConfig
from .mamba import Mamba, Mamba2, MambaConfig
from .mixer import Mixer
from .ttt import TTTLayer
from .ttt_config import TTTConfig


@dataclass
class MixerConfigs:
    """The configs of all mixers; a model uses one of them."""

    ttt: TTTConfig = field(default_factory=TTTConfig)
    """The TTT layer."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """Softmax attention, the Transformer's."""
    linear_attention: LinearAttentionConfig = field(default_factory=LinearAttentionConfig)
    """Linear attention, the first step from a Transformer to TTT in the paper."""
    gated_delta: GatedDeltaConfig = field(default_factory=GatedDeltaConfig)
    """Gated DeltaNet."""
    mamba: MambaConfig = field(default_factory=MambaConfig)
    """Mamba and Mamba-2."""
    lstm: LSTMConfig = field(default_factory=LSTMConfig)
    """The LSTM."""


CONFIGS: dict[str, Any] = {one.name: one.default_factory for one in fields(MixerConfigs)}
"""Config classes by the names of their fields."""


@dataclass(frozen=True)
class MixerEntry:
    """A mixer, as the rest of the package knows it."""

    mixer: type[Mixer[Any]]
    field: str
    """Name of its config in MixerConfigs, in YAML and on the command line."""
    flops: Callable[[Any, int, int, int], float]
    """Forward operations per token, flops(resolved config, width, heads, T)."""
    label: Callable[[Any], str]
    """Its name for people, from its config."""
    labelled: tuple[str, ...] = ()
    """Config fields that are part of the label."""
    free: tuple[str, ...] = ("backend",)
    """Config fields that may change between runs with the same weights."""
    swiglu: bool = True
    """Whether the published models have a SwiGLU in each block."""


MIXERS = {
    "ttt": MixerEntry(
        TTTLayer,
        "ttt",
        ttt_config.flops,
        ttt_config.label,
        labelled=("inner", "backbone"),
        free=("backend", "first_decay"),
    ),
    "attention": MixerEntry(
        Attention,
        "attention",
        attention.flops,
        lambda _: "Transformer",
        free=("window", "rope_theta"),
    ),
    "linear_attention": MixerEntry(
        LinearAttention, "linear_attention", linear_attention.flops, lambda _: "linear attention"
    ),
    "gated_delta": MixerEntry(
        GatedDelta,
        "gated_delta",
        gated_delta.flops,
        lambda _: "Gated DeltaNet",
        free=("first_decay",),
    ),
    "mamba": MixerEntry(
        Mamba, "mamba", mamba.mamba_flops, lambda _: "Mamba", free=mamba.FREE, swiglu=False
    ),
    "mamba2": MixerEntry(
        Mamba2, "mamba", mamba.mamba2_flops, lambda _: "Mamba-2", free=mamba.FREE, swiglu=False
    ),
    "lstm": MixerEntry(LSTM, "lstm", lstm.flops, lambda _: "LSTM"),
}

MixerName: TypeAlias = Literal[tuple(MIXERS)]  # type: ignore[valid-type]


def find_mixer(name: str) -> MixerEntry:
    """The entry of a mixer; ValueError for an unknown name."""
    if name not in MIXERS:
        raise ValueError(f"backbone.mixer is {name!r}; it must be one of {', '.join(MIXERS)}")
    return MIXERS[name]
