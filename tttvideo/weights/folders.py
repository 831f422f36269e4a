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
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.files import no_room, replacing, write_json, write_text
from tttvideo.progress import progress

from .checkpoints import TokenCheckpoint, backbone_config, check_declared, load_weights
from .flax import read_flax
from .reference import has_reference_form, load_reference, save_reference


PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>")


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
    own = own_config(values.get("model"))
    check_declared(own, weights, "backbone.", source)
    backbone = Backbone(own)
    load_weights(backbone, weights, "backbone.", source)
    return backbone


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and config of a folder or a .safetensors file, config.json beside or inside it."""
    file, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if index.is_file() and not file.is_file():  # transformers prefers the one file too
        files = [path / name for name in read_shard_names(index)]
    else:
        files = [file if path.is_dir() else path]
    weights: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                metadata |= tensors.metadata() or {}
                weights |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    config = files[0].with_name("config.json")
    text = config.read_text() if config.is_file() else metadata.get("config")
    if text is None:
        raise ValueError(f"{files[0]} has no config: put the model's config.json beside it")
    try:
        return weights, dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the config of {files[0]} is not a JSON mapping: {error}") from error


def read_shard_names(index: Path) -> list[str]:
    """The names of the files that hold the weights of a folder, by its index."""
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} has no weight_map of names to files: {error!r}") from error


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
    save_safetensors(weights, folder / "model.safetensors")
    write_json(folder / "config.json", values, indent=2)
    tokenizer = None if tokenizer_json is None else Tokenizer.from_str(tokenizer_json)
    marks = find_marks(checkpoint, tokenizer)
    write_json(folder / "generation_config.json", {f"{k}_token_id": v for k, v in marks.items()}, 2)
    if tokenizer:
        write_tokenizer(folder, tokenizer, marks)


def save_safetensors(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to a file. Raises OSError where the disk has no room."""
    with replacing(path) as partial:
        try:
            save_file({n: w.contiguous() for n, w in weights.items()}, partial, {"format": "pt"})
        except SafetensorError as error:
            raise no_room(path, str(error)) from error


def find_marks(checkpoint: TokenCheckpoint, tokenizer: Tokenizer | None) -> dict[str, int]:
    """The tokens bos, eos and pad that there are; without one of its own, eos is the padding."""
    names = [tokenizer.token_to_id(name) for name in PAD_NAMES] if tokenizer else []
    pad = next((token for token in names if token is not None), checkpoint.eos)
    marks = {"bos": checkpoint.bos, "eos": checkpoint.eos, "pad": pad}
    return {name: token for name, token in marks.items() if token is not None}


def write_tokenizer(folder: Path, tokenizer: Tokenizer, marks: Mapping[str, int]) -> None:
    """The tokenizer as the model was trained: BOS before a text, and marks in a text are text."""
    strings = {f"{name}_token": tokenizer.id_to_token(mark) for name, mark in marks.items()}
    if "bos" in marks:
        bos = strings["bos_token"]
        tokenizer.post_processor = TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", "$B:1"], special_tokens=[(bos, marks["bos"])]
        )
    write_text(folder / "tokenizer.json", tokenizer.to_str())
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "split_special_tokens": True, **strings}
    write_json(folder / "tokenizer_config.json", values, indent=2)


def own_form(backbone: Backbone) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights, config) under our own names."""
    weights = {f"backbone.{name}": weight for name, weight in backbone.state_dict().items()}
    model = asdict(backbone.config)
    config = {"model_type": "tttvideo", "architectures": ["TTTVideoForCausalLM"], "model": model}
    return weights, config
