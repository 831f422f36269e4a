"""`tttvideo import` and `export`: weights of the reference implementations in and out."""

import argparse
from pathlib import Path

from torch import nn

from tttvideo.data.text.tokenizer import bytes_json, read_tokenizer
from tttvideo.weights.checkpoints import TokenCheckpoint, load_tokens_model, save_tokens_model
from tttvideo.weights.folders import read_weights, write_folder


def export_weights(options: argparse.Namespace) -> None:
    checkpoint = load_tokens_model(options.checkpoint)
    text = checkpoint.tokenizer_json
    if checkpoint.tokenizer == "bytes":
        text = bytes_json(checkpoint.backbone.config.vocab_size)
    write_folder(checkpoint, Path(options.out), text)
    print_size(options.out, checkpoint.backbone)


def import_weights(options: argparse.Namespace) -> None:
    named = options.tokenizer in ("unknown", "bytes")
    marks = options.bos, options.eos
    tokenizer = None if named else read_tokenizer(options.tokenizer, marks)
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
                f"{options.source} has {size} tokens; a model of bytes has 256, or 258 with BOS "
                "and EOS"
            )
        marked = options.tokenizer == "bytes" and size == 258
        facts = (options.tokenizer, None, *((256, 257) if marked else (None, None)))
    save_tokens_model(TokenCheckpoint(backbone, *facts), options.out)
    print_size(options.out, backbone)


def print_size(out: str, backbone: nn.Module) -> None:
    print(f"{out}: {sum(weight.numel() for weight in backbone.parameters()):,} parameters")
