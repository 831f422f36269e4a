"""Our own checkpoints: the model's description and its weights in one torch file.

The keys of the description are the file format; a file is loaded with weights only, so that no code
in it runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch
from torch import Tensor, nn

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.files import replacing
from tttvideo.mixers.registry import CONFIGS, find_mixer
from tttvideo.video.frame_codec import FrameCodec
from tttvideo.video.frame_tokenizer import FrameTokenizer, FrameTokenizerConfig
from tttvideo.video.palette import PaletteConfig, PaletteTokenizer


T = TypeVar("T")


def load_torch_file(
    path: str | Path, name: str, source: str, build: Callable[[dict[str, Any]], T]
) -> T:
    """`build` applied to the content of a torch file, on the CPU.

    name, source: the kind of file and the command that writes it, for messages.
    Raises ValueError, in one line, for a file that is missing or cannot be read.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no {name} {path}")
    try:
        check_archive(Path(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
        check_content(content, Path(path).stat().st_size)
    except PermissionError:
        raise
    except Exception as error:  # zipfile and torch raise nearly everything for damaged files
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ValueError(f"{path} is not a {name} of {source} ({reason[:200]})") from error
    try:
        return build(content)
    except (RuntimeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a {name} of {source}") from error


def check_archive(path: Path) -> None:
    """Raise ValueError for a torch file that was changed, by the checksums in it, and for one that
    would unpack to more than its size."""
    if not is_zipfile(path):
        raise ValueError("torch files are zip archives")
    with ZipFile(path) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        if damaged := archive.testzip():
            raise ValueError(f"it is damaged: the checksum of {damaged} differs")


def check_content(content: Any, size: int) -> None:
    """Raise ValueError for a mapping whose parts are larger than the file's bytes, `size`: tensors
    that repeat their numbers, and lists that hold each other many times over."""
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    waiting, seen = [content], 0
    while waiting:
        part = waiting.pop()
        seen += 1
        if seen > size or (isinstance(part, Tensor) and part.nbytes > size):
            raise ValueError("its parts are larger than the file")
        if isinstance(part, dict):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, (list, tuple)):
            waiting += part


def save_torch_file(content: dict[str, Any], path: str | Path) -> None:
    """Write a file that `load_torch_file` loads. Raises OSError where the disk has no room."""
    with replacing(Path(path)) as partial, open(partial, "wb") as file:
        writer = ErrorsKept(file)
        try:
            torch.save(content, cast(BinaryIO, writer))
        except RuntimeError as error:
            raise writer.error or error from None


class ErrorsKept:
    """A file that keeps the error of a write, in place of which torch raises one of its own."""

    error: OSError | None = None

    def __init__(self, file: BinaryIO):
        self.file, self.flush = file, file.flush

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise


@dataclass
class TokenCheckpoint:
    """A trained model of tokens, ready to run.

    tokenizer: "bytes", the hash of a tokenizer.json, the fingerprint of the frame tokenizer, or
        "unknown".
    bos, eos: tokens before and after each document; None where there are none.
    trained: tokens, flops, window and steps of all training so far; None if that is not known.
    """

    backbone: Backbone
    tokenizer: str
    tokenizer_json: str | None = None
    bos: int | None = None
    eos: int | None = None
    fps: float | None = None
    frame_tokenizer: FrameCodec | None = None
    trained: dict[str, Any] | None = None


FACTS = ("tokenizer", "tokenizer_json", "bos", "eos", "fps", "trained")
"""Fields of a TokenCheckpoint that its file holds as they are."""


def load_tokens_model(path: str | Path) -> TokenCheckpoint:
    """Load a checkpoint of `tttvideo fit` or `tttvideo import`.

    Raises ValueError, in one line, for any other file and for weights that are not finite.
    """
    about, weights = load_checkpoint(path, ("tokens",))
    try:
        config = backbone_config(about["backbone"])
        tokenizer = None
        if about["frame_tokenizer"]:
            tokenizer = frame_codec(about["frame_tokenizer"])
            load_weights(tokenizer, weights, "frame_tokenizer.", path)
        check_declared(config, weights, "backbone.", path)
        backbone = Backbone(config)
        facts = {name: about[name] for name in FACTS}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} was written by another version: {error}") from error
    load_weights(backbone, weights, "backbone.", path)
    check_finite(backbone, path)
    return TokenCheckpoint(backbone, frame_tokenizer=tokenizer, **facts)


def load_frame_tokenizer(path: str | Path) -> FrameCodec:
    """Load a checkpoint of `tttvideo fit` on frames, or a palette; ValueError for others."""
    about, weights = load_checkpoint(path, ("frame tokenizer",))
    try:
        tokenizer = frame_codec(about["frame_tokenizer"])
    except TypeError as error:
        raise ValueError(f"{path} was written by another version: {error}") from error
    load_weights(tokenizer, weights, "tokenizer.", path)
    return tokenizer


def frame_codec(values: Mapping[str, Any]) -> FrameCodec:
    """The codec of a config that `dataclasses.asdict` gave."""
    if "colours" in values:
        return PaletteTokenizer(PaletteConfig(**values))
    return FrameTokenizer(FrameTokenizerConfig(**values))


def frame_tokenizer_about(config: Any) -> dict[str, Any]:
    """The description of a frame tokenizer in its checkpoint."""
    return {"model": "frame tokenizer", "frame_tokenizer": asdict(config)}


def save_palette(tokenizer: PaletteTokenizer, path: str | Path) -> None:
    """Write a palette as a checkpoint that `load_frame_tokenizer` loads."""
    about = frame_tokenizer_about(tokenizer.config)
    save_torch_file({"tttvideo": about, "state_dict": {}}, path)


def save_tokens_model(model: TokenCheckpoint, path: str | Path) -> None:
    """Write a checkpoint of a text model that `load_tokens_model` loads."""
    weights = {f"backbone.{name}": w for name, w in model.backbone.state_dict().items()}
    save_torch_file({"tttvideo": description(model), "state_dict": weights}, path)


def description(model: TokenCheckpoint) -> dict[str, Any]:
    """The description of a model of tokens in its checkpoint."""
    frames = model.frame_tokenizer
    return {
        "model": "tokens",
        "backbone": asdict(model.backbone.config),
        "frame_tokenizer": frames and asdict(frames.config),
        **{name: getattr(model, name) for name in FACTS},
    }


def load_checkpoint(
    path: str | Path, models: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the weights in a checkpoint of one of these kinds of model."""
    about, weights = load_torch_file(
        path,
        "checkpoint",
        "`tttvideo fit` or `import`",
        lambda content: (content["tttvideo"], content["state_dict"]),
    )
    whole = isinstance(about, dict) and isinstance(weights, dict)
    if not whole or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise ValueError(f"{path} is not a checkpoint of `tttvideo fit` or `import`")
    if about.get("model") not in models:
        raise ValueError(f"{path} holds a model of {about.get('model')}, not of {models[0]}")
    return about, weights


def load_step_time(path: str | Path) -> float:
    """Seconds of a training step of a run of `tttvideo fit`, by training/step_clock.py.

    Raises ValueError for a checkpoint that does not record them.
    """
    timed = load_torch_file(path, "checkpoint", "`tttvideo fit`", lambda x: x.get("step_time"))
    if not timed or not timed["steps"]:
        raise ValueError(
            f"{path} does not record the time of its steps; an earlier version wrote it, or the "
            "run was too short: train it again"
        )
    return timed["seconds"] / timed["steps"]


def check_declared(
    config: Any, weights: Mapping[str, Tensor], prefix: str, path: str | Path
) -> None:
    """Raise ValueError where a config declares more than the weights below `prefix` have, before a
    model of that size is built."""
    names = [name.removeprefix(prefix).split(".") for name in weights if name.startswith(prefix)]
    found = {"depth": len({parts[1] for parts in names if parts[0] == "blocks"})}
    tables = {
        "embedding.weight": ("vocab_size", "width"),
        "blocks.0.mlp.gate.weight": ("mlp_width", "width"),
    }
    for name, axes in tables.items() if isinstance(config, BackboneConfig) else ():
        if (table := weights.get(prefix + name)) is not None and table.ndim == len(axes):
            found |= dict(zip(axes, table.shape, strict=True))
    for name, count in found.items():
        if getattr(config, name) != count:
            raise ValueError(
                f"{path} does not fit its own description: {name} is {getattr(config, name)}, and "
                f"its weights are of {count}"
            )


def backbone_config(values: Mapping[str, Any]) -> BackboneConfig:
    """The config from the mapping that `dataclasses.asdict` gives."""
    values = dict(values)
    values["grid"] = values["grid"] and tuple(values["grid"])
    own = find_mixer(values["mixer"]).field  # the file may be older than another mixer
    for name in CONFIGS.keys() & {*values, own}:
        values[name] = CONFIGS[name](**values[name])
    return BackboneConfig(**values)


def load_weights(
    module: nn.Module, weights: Mapping[str, Tensor], prefix: str, path: str | Path
) -> None:
    """Load the weights whose names begin with `prefix`, and switch to evaluation mode."""
    own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} does not fit its own description: {first}") from error
    module.eval()


def check_finite(module: nn.Module, path: str | Path) -> None:
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            count = int((~parameter.isfinite()).sum())
            raise ValueError(
                f"{path}: {count} of the {parameter.numel()} numbers in {name} are not finite; its "
                "training diverged: use an earlier checkpoint or a smaller learning rate"
            )
