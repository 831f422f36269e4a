"""Parsers, options and checks that commands share; nothing here imports torch."""

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from zipfile import is_zipfile


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises ValueError, in one line, for wrong arguments."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word, known = unknown[0].partition("=")[0], re.findall(r"--[\w-]+", self.format_help())
            self.error(f"{word} does not exist{nearest(word, known)}")
        return options

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; `{self.prog} --help` explains")


def nearest(word: str, known: list[str]) -> str:
    """'; did you mean ...?' with the nearest known word, or nothing where none is near."""
    last = word.rpartition(".")[2]
    same = [key for key in known if key.rpartition(".")[2] == last]
    close = difflib.get_close_matches(word, same or known, n=1, cutoff=0.0 if same else 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def add_sampling(parser: argparse.ArgumentParser, temperature: float, top_p: float) -> None:
    """--temperature, --top-k and --top-p, with these defaults."""
    parser.add_argument(
        "--temperature",
        type=float,
        default=temperature,
        metavar="X",
        help="divide the logits by X before a token is drawn; 0 takes the most probable token "
        f"(default: {temperature:g})",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        default=0,
        metavar="K",
        help="draw from the K most probable tokens only; 0 means all (default: 0)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=top_p,
        metavar="P",
        help="draw from the fewest tokens that hold probability P, above 0 and at most 1 "
        f"(default: {top_p:g})",
    )


def check_sampling(options: argparse.Namespace) -> None:
    """Refuse values of `add_sampling` and of --seed that are outside their meaning."""
    temperature, top_p, seed = options.temperature, options.top_p, options.seed
    refuse_unless(temperature >= 0, "temperature", temperature, "0 or more")
    refuse_unless(options.top_k >= 0, "top-k", options.top_k, "0 or more")
    refuse_unless(0 < top_p <= 1, "top-p", top_p, "above 0 and at most 1")
    refuse_unless(seed is None or 0 <= seed < 2**62, "seed", seed, "0 or more, and below 2^62")


def add_marks(parser: argparse.ArgumentParser) -> None:
    """--bos and --eos, which name the marks of the tokenizer.json of --tokenizer."""
    for name, place in (("bos", "begins"), ("eos", "ends")):
        help = f"token of FILE that {place} each document, such as [CLS] (default: by usual names)"
        parser.add_argument(f"--{name}", metavar="TOKEN", help=help)


def refuse_unless(good: bool, name: str, value: Any, allowed: str) -> None:
    """Raise ValueError for an option --NAME whose value is not as allowed."""
    if not good:
        raise ValueError(f"--{name} {value} must be {allowed}")


def check_checkpoint(
    path: str, name: str = "checkpoint", source: str = "`tttvideo fit` or `import`"
) -> None:
    """Refuse a missing file, and one that torch cannot have written."""
    if not Path(path).is_file():
        raise ValueError(f"there is no {name} {path}")
    if not is_zipfile(path):
        raise ValueError(f"{path} is not a {name} of {source}")


def named_checkpoints(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """The name, or "", and the path of each argument [NAME=]CKPT, each once."""
    found = []
    for argument in dict.fromkeys(arguments):
        name, equals, path = argument.partition("=")
        found.append((name, path) if equals and not Path(argument).exists() else ("", argument))
    return found


def add_seeds(parser: argparse.ArgumentParser) -> None:
    """The argument `checkpoints`, for `checkpoint_seeds`."""
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="[NAME=]CKPT",
        help="trained by `tttvideo fit`; those of one name are seeds of one model, reported as "
        "their mean and its 95 %% interval (default name: the folder of the file)",
    )


def checkpoint_seeds(arguments: Sequence[str]) -> dict[str, list[str]]:
    """The checkpoints of each model, by its name, from arguments [NAME=]CKPT.

    A checkpoint without a name has that of its folder.
    Raises ValueError for a file that is missing or no checkpoint, for one that is given twice, and
    for two files that have the name of their folder, of which nobody said that they are seeds.
    """
    models: dict[str, list[str]] = {}
    seen: dict[Path, str] = {}
    for given, path in named_checkpoints(arguments):
        check_checkpoint(path)
        name, real = given or Path(path).resolve().parent.name, Path(path).resolve()
        if real in seen:
            raise ValueError(f"{path} is given twice, also as {seen[real]}; give each file once")
        if not given and name in models:
            raise ValueError(
                f"{path} and {models[name][0]} would both be named {name}, after their folders; "
                "name them: NAME=CKPT, and seeds of one model alike"
            )
        seen[real] = f"{name}={path}"
        models.setdefault(name, []).append(path)
    return models


def check_videos(data: str) -> None:
    """Refuse data without a video."""
    from tttvideo.data.video.sources import find_videos  # PyAV takes longer to import than --help

    find_videos([data])


Numbers = Mapping[str, tuple[int, int, str]]
"""Options with a number: their default, the least that is allowed, and help."""


def add_numbers(parser: argparse.ArgumentParser, numbers: Numbers) -> None:
    for name, (default, _, text) in numbers.items():
        text += f" (default: {default})"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)


def check_numbers(options: argparse.Namespace, numbers: Numbers) -> None:
    for name, (_, least, _) in numbers.items():
        value = getattr(options, name)
        refuse_unless(value >= least, name, value, f"{least} or more")


def add_names(parser: argparse.ArgumentParser, name: str, names: Sequence[str]) -> None:
    """The option --NAME: which of some names are trained; all by default."""
    parser.add_argument(
        f"--{name}",
        nargs="+",
        choices=names,
        default=list(names),
        metavar="NAME",
        help=f"what to train (default: all of {' '.join(names)})",
    )


def add_run_seeds(parser: argparse.ArgumentParser, runs: str) -> None:
    """--seeds, for `check_run_seeds`; runs: what has a run for each of them."""
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1, 2],
        metavar="N",
        help=f"of the runs of {runs} (default: 0 1 2)",
    )


def check_run_seeds(options: argparse.Namespace) -> None:
    refuse_unless(min(options.seeds) >= 0, "seeds", min(options.seeds), "0 or more")


def check_folder(path: str, option: str = "out") -> None:
    """Refuse a folder to write into whose name is a file's."""
    first = next((p for p in (Path(path), *Path(path).parents) if p.exists()), None)
    if first and not first.is_dir():
        raise ValueError(f"--{option} {path}: {first} is a file; name a folder")


def check_output(path: str, option: str = "out", suffix: str = "") -> None:
    """Refuse a file to write whose name is a folder's, or has another suffix."""
    if Path(path).is_dir():
        raise ValueError(f"--{option} {path} is a folder; name a file")
    if not path.endswith(suffix):
        raise ValueError(f"--{option} {path} must end in {suffix}")
    check_folder(str(Path(path).parent), option)


def check_rate(path: str | Path, fps: float | None = None) -> float:
    """Refuse what is not one video, or damaged in its first frame, or has an unusual rate.

    fps: frames per second of pictures and arrays.
    Returns its frames per second; 0.0 if it does not declare them.
    """
    from tttvideo.data.video import sources, writer  # PyAV takes longer to import than --help may

    found = sources.one_video(path, fps).info().fps
    writer.check_rate(path, found)
    return found


def check_conditions(options: argparse.Namespace) -> None:
    """Refuse a file of actions or poses that cannot be read."""
    from tttvideo.data.video.conditions import read_condition  # imports NumPy

    for name in ("actions", "poses"):
        if file := getattr(options, name):
            read_condition(Path(file), name)
