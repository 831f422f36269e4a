"""`tttvideo generate CKPT --prompt TEXT`: a text goes on, shown as it is decoded."""

import argparse
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from tttvideo.backbone import Backbone
    from tttvideo.sampling import Choose


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tttvideo generate",
        description="Let a text go on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog='example: tttvideo generate out/text_tiny/last.ckpt --prompt "It was " --tokens 500',
    )
    top.add_argument("checkpoint", metavar="CKPT", help="trained by `tttvideo fit` on text")
    source = top.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", metavar="TEXT", help="the beginning; - reads standard input")
    source.add_argument("--prompt-file", metavar="FILE", help="file that holds the beginning")
    top.add_argument("--tokens", type=int, default=500, metavar="N", help="tokens to add")
    top.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token")
    top.add_argument("--top-k", type=int, default=0, help="keep the k likeliest tokens; 0: all")
    top.add_argument("--top-p", type=float, default=1.0, help="keep this much probability")
    top.add_argument("--seed", type=int, help="gives the same text again")
    return top


def main(arguments: list[str]) -> None:
    options = parser().parse_args(arguments[1:])
    from tttvideo.checkpoints import load_tokens_model
    from tttvideo.sampling import chooser

    from .device import best_device

    prompt = read_prompt(options)
    choose = chooser(options.temperature, options.top_k, options.top_p, options.seed)
    if options.tokens < 1:
        raise ValueError(f"--tokens {options.tokens} must be 1 or more")
    model = load_tokens_model(options.checkpoint)
    if model.tokenizer != "bytes":
        raise ValueError(f"{options.checkpoint} reads tokens of {model.tokenizer}, not bytes")
    backbone = model.backbone.to(best_device())
    start = time.perf_counter()
    print(prompt.decode(errors="replace"), end="", flush=True)
    for piece in continue_text(backbone, prompt, options.tokens, choose):
        print(piece, end="", flush=True)
    print()
    seconds = time.perf_counter() - start
    print(f"{options.tokens / seconds:.0f} tokens per second", file=sys.stderr)


def read_prompt(options: argparse.Namespace) -> bytes:
    if options.prompt_file is not None:
        with open(options.prompt_file, "rb") as file:
            prompt = file.read()
    elif options.prompt == "-":
        prompt = sys.stdin.buffer.read()
    else:
        prompt = options.prompt.encode()
    if not prompt:
        raise ValueError("the prompt is empty; give at least one character")
    return prompt


def continue_text(
    backbone: "Backbone", prompt: bytes, tokens: int, choose: "Choose"
) -> Iterator[str]:
    """The text that follows the prompt, piece by piece."""
    import torch

    from tttvideo.data.text import ByteDecoder
    from tttvideo.sampling import decode, prefill

    device = next(backbone.parameters()).device
    decoder = ByteDecoder()
    ids = torch.tensor([list(prompt)], device=device)
    for token, _ in decode(backbone, prefill(backbone, ids), tokens, choose):
        yield decoder(token.tolist())
    yield decoder([], final=True)
