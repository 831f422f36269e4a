"""Conversions between the reference implementation's layout and ours, for transformers.

The only file that uses modules of transformers without a documented interface: its conversions of
weights. A release that changes them fails tests/weights/test_hf.py.
"""

from typing import Any

from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming

from .reference import BLOCK_NAMES, MIXER_NAMES, join_shift, split_shift


class DropAxis(ConversionOps):
    """Remove the extra axis of length one of the reference, see `reference_shape`; or add it."""

    def __init__(self, drop: bool = True):
        self.drop = drop

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        **_: Any,
    ) -> dict[str, Any]:
        (tensor,) = input_dict.values()
        tensor = tensor[0] if isinstance(tensor, list) else tensor
        changed = tensor.squeeze(1) if self.drop else tensor.unsqueeze(1)
        return {target_patterns[0]: changed.contiguous()}

    @property
    def reverse_op(self) -> ConversionOps:
        return DropAxis(not self.drop)


class SplitShifts(ConversionOps):
    """The reference's shifts of all tokens of a mini-batch as ours, or joined again."""

    def __init__(self, split: bool = True):
        self.split = split

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        full_layer_name: str = "",
        **_: Any,
    ) -> dict[str, Any]:
        given = [input_dict[name] for name in source_patterns]
        tensors = [x[0] if isinstance(x, list) else x for x in given]
        changed = split_shift(full_layer_name, *tensors) if self.split else (join_shift(*tensors),)
        return dict(zip(target_patterns, changed, strict=True))

    @property
    def reverse_op(self) -> ConversionOps:
        return SplitShifts(not self.split)


def rename(source: str, target: str) -> WeightRenaming:
    return WeightRenaming("^" + source.replace(".", r"\."), "^" + target.replace(".", r"\."))


def register_reference_layout(name: str) -> None:
    r"""Let the model class of this name load and save the reference implementation's layout.

    The conversions, from the reference's names and shapes to ours, are applied in turn, and
    inverted to save. A group in the target stands for the \1 of the source.
    """
    block = "backbone.blocks.{}."
    source, target = block.format(r"\1"), block.format(r"(\d+)")
    changed = ("eta_weight", "eta_bias", "token_shift")
    shifts = ["mixer.token_shift", "mixer.carry_shift"]
    conversions: list[WeightRenaming | WeightConverter] = [
        rename("model.embed_tokens.", "backbone.embedding."),
        rename("model.norm.", "backbone.norm."),
        rename("model.layers.", "backbone.blocks."),
        rename(f"{source}seq_modeling_block.", f"{target}mixer."),
        *(rename(source + name, target + own) for own, name in BLOCK_NAMES.items()),
        *(
            rename(f"{source}mixer.{name}", f"{target}mixer.{own}")
            for own, name in MIXER_NAMES.items()
            if own not in changed
        ),
        *(
            WeightConverter(f"mixer.{MIXER_NAMES[eta]}", f"mixer.{eta}", [DropAxis()])
            for eta in changed[:2]
        ),
        WeightConverter(f"mixer.{MIXER_NAMES['token_shift']}", shifts, [SplitShifts()]),
        *(
            WeightConverter(f"{conv}.weight", f"{conv}.weight", [DropAxis()])
            for conv in ("conv", "conv_q", "conv_k")
        ),
    ]
    register_checkpoint_conversion_mapping(name, conversions, overwrite=True)
