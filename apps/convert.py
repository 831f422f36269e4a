"""`tttvideo import | export`: weights of the reference implementations in, and of ours out."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttvideo.files import replacing, write_text


if TYPE_CHECKING:
    from tttvideo.backbone import Backbone
    from tttvideo.weights.checkpoints import TokenCheckpoint


def import_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tttvideo import",
        description="Make a checkpoint from weights of the reference implementations.",
        epilog="example: tttvideo import ttt-linear-125m/ out/ttt-linear-125m.ckpt",
    )
    top.add_argument(
        "source",
        metavar="FILE|DIR",
        help="PyTorch's: a .safetensors file with config.json beside it or in its metadata, or a "
        "folder of both; any other file is read as JAX's: msgpack of flax, whole or streamed",
    )
    top.add_argument("out", metavar="CKPT", help="checkpoint to write")
    top.add_argument(
        "--config",
        metavar="SIZE|FILE",
        help="of a flax file, for what its shapes do not say: a config.json, or 125m, 350m, 760m "
        "or 1b to check its size (default: the paper's constants)",
    )
    top.add_argument(
        "--tokenizer",
        metavar="unknown|bytes|FILE",
        default="unknown",
        help="what its tokens are: bytes, or a tokenizer.json, which the checkpoint then holds; "
        "either lets `tttvideo generate` use it (default: unknown)",
    )
    return top


def export_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tttvideo export",
        description="Write a text checkpoint as a folder for Hugging Face transformers, with "
        "`import tttvideo.hf`: model.safetensors, config.json and its tokenizer. Models of TTT "
        "layers are written as the reference implementation reads them.",
        epilog="example: tttvideo export out/text_tiny/last.ckpt out/text_tiny_hf",
    )
    top.add_argument("checkpoint", metavar="CKPT", help="of `tttvideo fit` or `tttvideo import`")
    top.add_argument("out", metavar="DIR", help="folder to write")
    return top


def main(arguments: list[str]) -> None:
    if arguments[0] == "import":
        options = import_parser().parse_args(arguments[1:])
        backbone = import_weights(options)
    else:
        options = export_parser().parse_args(arguments[1:])
        from tttvideo.weights.checkpoints import load_tokens_model

        checkpoint = load_tokens_model(options.checkpoint)
        export_weights(checkpoint, Path(options.out))
        backbone = checkpoint.backbone
    count = sum(parameter.numel() for parameter in backbone.parameters())
    print(f"{options.out}: {count:,} parameters")


def import_weights(options: argparse.Namespace) -> "Backbone":
    from tttvideo.data.text.tokenizer import read_tokenizer
    from tttvideo.weights.checkpoints import save_tokens_model

    named = options.tokenizer in ("unknown", "bytes")
    tokenizer = None if named else read_tokenizer(options.tokenizer)
    backbone = read_weights(Path(options.source), options.config)
    size = backbone.config.vocab_size
    if tokenizer:
        if tokenizer.vocab_size > size:
            raise ValueError(
                f"{options.tokenizer} has {tokenizer.vocab_size} tokens and the model {size}; it "
                "is not this model's tokenizer"
            )
        facts = (tokenizer.name, tokenizer.to_json(), tokenizer.bos, tokenizer.eos)
    else:
        if options.tokenizer == "bytes" and size not in (256, 258):
            raise ValueError(
                f"{options.source} has {size} tokens; a model of bytes has 256, or 258 with marks"
            )
        marks = options.tokenizer == "bytes" and size == 258
        facts = (options.tokenizer, None, *((256, 257) if marks else (None, None)))
    save_tokens_model(backbone, options.out, *facts)
    return backbone


def read_weights(source: Path, config: str | None) -> "Backbone":
    """The backbone in a file or folder, by what it is."""
    from tttvideo.progress import progress
    from tttvideo.weights.checkpoints import load_reference, read_reference
    from tttvideo.weights.flax import read_flax

    if not source.exists():
        raise ValueError(f"there is no file or folder {source}")
    if not source.is_dir() and source.suffix != ".safetensors":
        with progress(f"read {source.name}", source.stat().st_size, "B") as advance:
            return load_reference(*read_flax(source, config, advance))
    if config:
        raise ValueError(f"--config {config} is for flax files; {source} has a config.json")
    return read_ours(source) or read_reference(source)


def read_ours(folder: Path) -> "Backbone | None":
    """What `write_ours` wrote; None when the folder does not say that it did."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from tttvideo.backbone import Backbone
    from tttvideo.weights.checkpoints import backbone_config, fill

    try:
        config = json.loads((folder / "config.json").read_text())
        if config["model_type"] != "tttvideo":
            return None
        backbone = Backbone(backbone_config(config["model"]))
    except (OSError, KeyError, TypeError, json.JSONDecodeError):
        return None  # read_reference says what is wrong
    try:
        weights = load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{folder} has no weights that can be read: {error}") from error
    fill(backbone, weights, "backbone.", folder)
    return backbone


def export_weights(checkpoint: "TokenCheckpoint", folder: Path) -> None:
    """A folder that transformers loads: the weights, and what is known of the tokens."""
    from tttvideo.weights.checkpoints import has_reference_form, write_reference

    config = checkpoint.backbone.config
    if config.grid:
        raise ValueError(
            f"a model of frames {config.grid} has no form in the reference implementation, nor in "
            "transformers; only models of text are exported"
        )
    if has_reference_form(config):
        write_reference(checkpoint.backbone, folder)
    else:
        write_ours(checkpoint.backbone, folder)
    marks = {"bos": checkpoint.bos, "eos": checkpoint.eos}
    marks = {name: token for name, token in marks.items() if token is not None}
    write_json(folder / "generation_config.json", {f"{k}_token_id": v for k, v in marks.items()})
    text = checkpoint.tokenizer_json
    if checkpoint.tokenizer == "bytes":
        text = bytes_json(config.vocab_size)
    if text is not None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(text)
        write_text(folder / "tokenizer.json", text)
        strings = {f"{k}_token": tokenizer.id_to_token(v) for k, v in marks.items()}
        write_json(
            folder / "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast", **strings},
        )


def write_ours(backbone: "Backbone", folder: Path) -> None:
    """model.safetensors and config.json under our own names, for what the reference has no form."""
    from dataclasses import asdict

    from safetensors.torch import save_file

    weights = {f"backbone.{n}": w.contiguous() for n, w in backbone.state_dict().items()}
    with replacing(folder / "model.safetensors") as partial:
        save_file(weights, partial, {"format": "pt"})
    config = {
        "model_type": "tttvideo",
        "architectures": ["TTTVideoForCausalLM"],
        "model": asdict(backbone.config),
    }
    write_json(folder / "config.json", config)


def bytes_json(vocab_size: int) -> str:
    """The tokenizer.json whose tokens are bytes, with the marks if there is room for them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from tttvideo.data.text.tokenizer import BYTE_OF

    tokenizer = Tokenizer(models.BPE(vocab=dict(BYTE_OF), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if vocab_size > 256:
        tokenizer.add_special_tokens(["<bos>", "<eos>"])  # 256 and 257
    return tokenizer.to_str()


def write_json(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2) + "\n")
