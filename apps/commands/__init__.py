"""The commands of `tttvideo`: which there are, and one way to parse, check and run each.

Each file of this folder is one command, read before anything heavy is imported:

    parser()        its argparse parser
    check(options)  raises ValueError or OSError, in one line, for all that can be refused without
                    torch: missing, empty or wrong files, numbers and suffixes; writes nothing
    PROGRAM         the function that does the work with the options, as "module:function"
"""

from argparse import Namespace
from importlib import import_module
from pkgutil import resolve_name
from types import ModuleType


COMMANDS = {
    "demo": ("demo", "train on a drawn video, or on --video FILE, and predict its end"),
    "prepare": (None, "turn text or video into tokens; draw worlds, clips and recall texts"),
    "prepare text": ("prepare_text", "documents of .txt, .jsonl and .parquet files to tokens"),
    "prepare video": ("prepare_video", "every frame of video files to tokens"),
    "prepare pan": ("prepare_pan", "draw worlds seen through a moving window, as tokens"),
    "prepare drawn": ("prepare_drawn", "draw videos: glyphs, pan, flash, code or static"),
    "prepare maze": ("prepare_maze", "walk through mazes of Doom, with actions and poses"),
    "prepare recall": ("prepare_recall", "generate text with facts and questions about them"),
    "index": ("index", "read every frame of videos and write what each is: frames, times, faults"),
    "doctor": ("doctor", "explain a video: what is read, what is wrong, how to repair it"),
    "fit": ("fit", "train a model, or resume its training: --config NAME|FILE"),
    "validate": ("validate", "measure a model on its validation data"),
    "test": ("test", "measure a model on its test data"),
    "generate": ("generate", "continue texts"),
    "predict": ("predict", "continue a video: mp4 in, mp4 out"),
    "verify": ("verify", "prove that a model of video reads a stream: no leak, constant cost"),
    "compress": ("compress", "code frame tokens by a model's probabilities, without loss"),
    "decompress": ("decompress", "restore the tokens, or the frames, of compressed videos"),
    "evaluate": (
        None,
        "measure how models use context: text, video, recall, memory, and more",
    ),
    "evaluate text": ("evaluate_text", "loss by token index and by context, with controls"),
    "evaluate video": (
        "evaluate_video",
        "bits and continuations of unseen videos, with controls",
    ),
    "evaluate recall": ("evaluate_recall", "exact answers by length and difficulty"),
    "evaluate facts": ("evaluate_facts", "train text models of all mixers to recall, and compare"),
    "evaluate memory": ("evaluate_memory", "what models remember of videos, by state swap"),
    "evaluate capacity": ("evaluate_capacity", "how many cells memories of equal bytes recall"),
    "evaluate length": ("evaluate_length", "bits of video frames by the length of the stream"),
    "evaluate codec": ("evaluate_codec", "a model as a lossless codec, beside xz and a reset"),
    "evaluate rates": ("evaluate_rates", "dense frames against sparse ones, from 30 to 1 a second"),
    "evaluate scaling": ("evaluate_scaling", "fit how loss falls with size and data"),
    "evaluate harness": ("evaluate_harness", "tasks of lm-evaluation-harness"),
    "compare": (
        "compare",
        "train mixers on equal tokens and for equal time; their loss by context",
    ),
    "reproduce": ("reproduce", "make a figure of results: data, training, measurement"),
    "bench": ("bench", "measure speed and memory: kernels, decode, layers, generation, bars"),
    "import": ("import_weights", "read weights of the reference implementations (PyTorch, JAX)"),
    "export": ("export_weights", "write weights for Hugging Face transformers"),
}
"""Name: its file in this folder, None for a group of commands, and a line of help."""


def find(arguments: list[str]) -> tuple[str, list[str]]:
    """The command that the arguments begin with, and the rest of them.

    Raises ValueError for a command that does not exist; a group without one of its commands is
    returned as it stands.
    """
    name, *rest = arguments
    if name not in COMMANDS or " " in name:
        raise ValueError(f"there is no command {name!r}; choose from {', '.join(names())}")
    if COMMANDS[name][0] or not rest or rest[0] in ("-h", "--help"):
        return name, rest
    if f"{name} {rest[0]}" not in COMMANDS:
        raise ValueError(f"there is no {name} {rest[0]!r}; choose from {', '.join(names(name))}")
    return f"{name} {rest[0]}", rest[1:]


def names(group: str = "") -> list[str]:
    """The words that may follow `tttvideo`, or a group."""
    start = f"{group} " if group else ""
    rests = [name.removeprefix(start) for name in COMMANDS if name.startswith(start)]
    return [rest for rest in rests if rest and " " not in rest]


def parse(name: str, arguments: list[str]) -> Namespace:
    """The options of a command such as "generate" or "prepare text"."""
    return module(name).parser().parse_args(arguments)


def invoke(name: str, arguments: list[str]) -> None:
    """Parse, check, import the program and run it; ValueError and OSError for wrong input."""
    options = parse(name, arguments)
    command = module(name)
    command.check(options)
    resolve_name(command.PROGRAM)(options)


def module(name: str) -> ModuleType:
    return import_module(f".{COMMANDS[name][0]}", __package__)
