"""`tttvideo COMMAND`: a thin dispatcher that imports nothing heavy."""

import logging
import sys
from importlib import import_module


COMMANDS = {
    "demo": ("demo", "draw a video, learn it, predict its end; --video FILE for your own"),
    "prepare": ("prepare", "turn text or video files into tokens; draw text to recall from"),
    "fit": ("fit", "train a model, or go on training it: --config NAME|FILE"),
    "validate": ("fit", "measure a model on its validation data"),
    "test": ("fit", "measure a model on its test data"),
    "generate": ("generate", "let a text go on"),
    "predict": ("predict", "let a video go on: mp4 in, mp4 out"),
    "evaluate": ("evaluate", "measure what models make of context: text, recall, scaling, harness"),
    "compare": ("compare", "train mixers on equal tokens, and draw what context gives each"),
    "bench": ("bench", "measure speed and memory: kernels, decode, layers, generation, bars"),
    "import": ("convert", "read the weights of the reference implementations, PyTorch's and JAX's"),
    "export": ("convert", "write weights for Hugging Face transformers and the reference"),
}


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return
    if arguments[0] not in COMMANDS:
        sys.exit(f"tttvideo: no command {arguments[0]!r}; there are {', '.join(COMMANDS)}")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tttvideo").setLevel(logging.INFO)  # which backend serves, and why
    module = import_module(f"tttvideo.apps.{COMMANDS[arguments[0]][0]}")
    try:
        module.main(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"tttvideo {arguments[0]}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def overview() -> str:
    lines = [f"  {name:<10}{help}" for name, (_, help) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: tttvideo COMMAND ...",
            "Layers that learn while they read: train, predict and measure on text and video.",
            "",
            *lines,
            "",
            "`tttvideo COMMAND --help` explains one.",
            "example: tttvideo demo",
        ]
    )


if __name__ == "__main__":
    main()
