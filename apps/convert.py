"""`tttvideo import | export`: weights of the reference implementations in, and of ours out."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from tttvideo.backbone import Backbone


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
        backbone = export_weights(options)
    count = sum(parameter.numel() for parameter in backbone.parameters())
    print(f"{options.out}: {count:,} parameters")


def export_weights(options: argparse.Namespace) -> "Backbone":
    from tttvideo.data.text.tokenizer import bytes_json
    from tttvideo.weights.checkpoints import load_tokens_model
    from tttvideo.weights.folders import write_folder

    checkpoint = load_tokens_model(options.checkpoint)
    text = checkpoint.tokenizer_json
    if checkpoint.tokenizer == "bytes":
        text = bytes_json(checkpoint.backbone.config.vocab_size)
    write_folder(checkpoint, Path(options.out), text)
    return checkpoint.backbone


def import_weights(options: argparse.Namespace) -> "Backbone":
    from tttvideo.data.text.tokenizer import read_tokenizer
    from tttvideo.weights.checkpoints import save_tokens_model
    from tttvideo.weights.folders import read_weights

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
