"""Folders of Hugging Face: weights, config and tokenizer, in either of two layouts.

Text models of TTT layers are in the reference implementation's layout, every other backbone is
under our own names, with "model_type": "tttvideo" in its config.json.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.files import replacing, write_json, write_text
from tttvideo.progress import progress

from .checkpoints import TokenCheckpoint, backbone_config, load_weights
from .flax import read_flax
from .reference import has_reference_form, load_reference, save_reference


def read_weights(source: Path, config: str | None = None) -> Backbone:
    """The backbone in a folder, a .safetensors file or a file of flax.

    config: for a flax file only, see `read_flax`.
    Raises ValueError, in one line, for a path without such weights.
    """
    if not source.exists():
        raise ValueError(f"there is no file or folder {source}")
    if not source.is_dir() and source.suffix != ".safetensors":
        with progress(f"read {source.name}", source.stat().st_size, "B") as advance:
            return load_reference(*read_flax(source, config, advance))
    if config:
        raise ValueError(f"--config {config} is for flax files; {source} has a config.json")
    weights, values = read_safetensors(source)
    if values.get("model_type") != "tttvideo":
        return load_reference(weights, values)
    backbone = Backbone(own_config(values.get("model")))
    load_weights(backbone, weights, "backbone.", source)
    return backbone


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and config of a folder or a .safetensors file, config.json beside or inside it."""
    file = path / "model.safetensors" if path.is_dir() else path
    config = file.with_name("config.json")
    try:
        with safe_open(file, "pt") as tensors:
            metadata = tensors.metadata() or {}
            weights = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    text = config.read_text() if config.is_file() else metadata.get("config")
    if text is None:
        raise ValueError(f"{file} has no config: put the model's config.json beside it")
    try:
        return weights, dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the config of {file} is not a JSON mapping: {error}") from error


def own_config(model: Mapping[str, Any] | None) -> BackboneConfig:
    """The config under `model` in a config.json of ours; ValueError where it is not complete."""
    if model is None:
        raise ValueError("config.json has no `model`; `tttvideo export` writes it")
    try:
        return backbone_config(model)
    except KeyError as error:
        raise ValueError(
            f"`model` in config.json lacks {error}; `tttvideo export` writes it whole"
        ) from error


def write_folder(checkpoint: TokenCheckpoint, folder: Path, tokenizer_json: str | None) -> None:
    """Write the weights, the config and the tokenizer of a text model for transformers.

    Raises ValueError for a model of frames.
    """
    config = checkpoint.backbone.config
    if config.grid:
        raise ValueError(
            f"a model of frames {config.grid} has no form in the reference implementation, nor in "
            "transformers; only models of text are exported"
        )
    form = save_reference if has_reference_form(config) else own_form
    weights, values = form(checkpoint.backbone)
    with replacing(folder / "model.safetensors") as partial:
        save_file({name: w.contiguous() for name, w in weights.items()}, partial, {"format": "pt"})
    write_json(folder / "config.json", values, indent=2)
    both = ("bos", checkpoint.bos), ("eos", checkpoint.eos)
    marks = {name: token for name, token in both if token is not None}
    write_json(folder / "generation_config.json", {f"{k}_token_id": v for k, v in marks.items()}, 2)
    if tokenizer_json is not None:
        tokenizer = Tokenizer.from_str(tokenizer_json)
        write_text(folder / "tokenizer.json", tokenizer_json)
        strings = {f"{k}_token": tokenizer.id_to_token(v) for k, v in marks.items()}
        values = {"tokenizer_class": "PreTrainedTokenizerFast", **strings}
        write_json(folder / "tokenizer_config.json", values, indent=2)


def own_form(backbone: Backbone) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights, config) under our own names."""
    weights = {f"backbone.{name}": weight for name, weight in backbone.state_dict().items()}
    model = asdict(backbone.config)
    config = {"model_type": "tttvideo", "architectures": ["TTTVideoForCausalLM"], "model": model}
    return weights, config
