"""`tttvideo import | export`: the reference implementation's weights in and out."""

import argparse


def import_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tttvideo import",
        description="Make a checkpoint from weights of the reference implementation.",
        epilog="example: tttvideo import ttt-linear-125m/ out/ttt-linear-125m.ckpt",
    )
    top.add_argument(
        "source",
        metavar="FILE|DIR",
        help=".safetensors file with config.json beside it or in its metadata, or a folder of both",
    )
    top.add_argument("out", metavar="CKPT", help="checkpoint to write")
    top.add_argument(
        "--tokenizer",
        choices=("unknown", "bytes"),
        default="unknown",
        help="what its tokens are; bytes lets `tttvideo generate` use it (default: unknown)",
    )
    return top


def export_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tttvideo export",
        description="Write a text checkpoint as model.safetensors and config.json of the "
        "reference implementation.",
        epilog="example: tttvideo export out/text_tiny/last.ckpt out/text_tiny_hf",
    )
    top.add_argument("checkpoint", metavar="CKPT", help="of `tttvideo fit` or `tttvideo import`")
    top.add_argument("out", metavar="DIR", help="folder to write")
    return top


def main(arguments: list[str]) -> None:
    if arguments[0] == "import":
        options = import_parser().parse_args(arguments[1:])
        from tttvideo.checkpoints import read_reference, save_tokens_model

        backbone = read_reference(options.source)
        size = backbone.config.vocab_size
        if options.tokenizer == "bytes" and size != 256:
            raise ValueError(f"{options.source} has {size} tokens; a model of bytes has 256")
        save_tokens_model(backbone, options.out, options.tokenizer)
    else:
        options = export_parser().parse_args(arguments[1:])
        from tttvideo.checkpoints import load_tokens_model, write_reference

        backbone = load_tokens_model(options.checkpoint).backbone
        write_reference(backbone, options.out)
    count = sum(parameter.numel() for parameter in backbone.parameters())
    print(f"{options.out}: {count:,} parameters")
