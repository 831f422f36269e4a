"""`tttvideo generate CKPT [--prompt TEXT]`: the options."""

import argparse
from pathlib import Path

from .options import Parser, add_sampling, check_checkpoint, check_output, check_sampling


PROGRAM = "tttvideo.apps.generate:run"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo generate",
        description="Continue texts, or begin one. They may have any lengths, also beyond the "
        "training window, and different ones; each text is the same as if it were generated alone. "
        "Prompts are read as they are: there are no chat templates.",
        epilog='example: tttvideo generate out/text_tiny/last.ckpt --prompt "It was " --tokens 500',
    )
    add = top.add_argument
    add("checkpoint", metavar="CKPT", help="trained by `tttvideo fit` on text")
    help = "text to continue; - reads standard input; without a prompt, or with an empty one, a "
    help += "document is begun"
    add_several(top, "prompt", "TEXT", help)
    add_several(top, "prompt-file", "FILE", "file to continue; only what follows is printed")
    help = "file with a prompt in each line that is not blank"
    add("--prompts-file", metavar="FILE", help=help)
    help = "tokens to generate, at most; 0 with --save-state only reads (default: 500)"
    add("--tokens", type=int, default=500, metavar="N", help=help)
    add_several(top, "stop", "STRING", "end a text before this string, which is not printed")
    help = "save the model's state after the text, for --load-state"
    add("--save-state", metavar="FILE", help=help)
    help = "begin with a saved state; prompts, if there are any, come after it"
    add("--load-state", metavar="FILE", help=help)
    add_sampling(top, temperature=0.8, top_p=1.0)
    help = "repeat a run: the first text is drawn with N, the next with N + 1, and so on "
    help += "(default: random; for one text after --load-state, the saved generator)"
    add("--seed", type=int, metavar="N", help=help)
    return top


def add_several(top: argparse.ArgumentParser, name: str, metavar: str, help: str) -> None:
    help += "; may be repeated"
    top.add_argument(f"--{name}", metavar=metavar, help=help, action="append", default=[])


def check(options: argparse.Namespace) -> None:
    check_sampling(options)
    if options.tokens < (0 if options.save_state else 1):
        raise ValueError(
            f"--tokens {options.tokens} must be 1 or more; to read only, 0 with --save-state FILE"
        )
    if "" in options.stop:
        raise ValueError("--stop is empty; give at least one character")
    check_prompts(options)
    check_checkpoint(options.checkpoint)
    if options.load_state:
        source = "`--save-state`, or not a whole one; save it again"
        check_checkpoint(options.load_state, "saved state", source)
    if options.save_state:
        check_output(options.save_state, "save-state")


def check_prompts(options: argparse.Namespace) -> None:
    """Refuse missing and empty files; `-`, standard input, is read later."""
    count = len(options.prompt) + len(options.prompt_file)
    for path in options.prompt_file:
        if path != "-" and not Path(path).is_file():
            raise ValueError(f"there is no prompt file {path}; give --prompt-file an existing file")
        if path != "-" and not Path(path).stat().st_size:
            raise ValueError(
                f"the prompt {path} is empty; give at least one character, or leave the prompt out "
                "to begin a document"
            )
    if options.prompts_file is not None:
        lines = Path(options.prompts_file).read_bytes().splitlines()
        count += (found := sum(bool(line.strip()) for line in lines))
        if not found:
            raise ValueError(f"{options.prompts_file} is empty; write a prompt into each line")
    if count > 1 and options.save_state:
        raise ValueError(f"--save-state saves one text, and there are {count}; give one")
