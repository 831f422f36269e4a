"""`tttvideo evaluate text`: does context help? Loss by token index and on fixed targets."""

import argparse
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttvideo.measures.names import mixer_name


if TYPE_CHECKING:
    from tttvideo.backbone import BackboneConfig
    from tttvideo.data.tokens import Tokens
    from tttvideo.measures.meter import Measured
    from tttvideo.measures.plan import Plan
    from tttvideo.weights.checkpoints import TokenCheckpoint


def add_parser(kinds: Any) -> None:
    parser = kinds.add_parser(
        "text",
        help="loss by token index and by context, with controls, of one model or several",
        description="Measure what models make of context: loss by token index, and on fixed "
        "targets after more and more context, each beside the same with the state reset and with "
        "shuffled context; and the inner loss by layer. Writes evaluation.json, evaluation.md and "
        "pictures; what was measured before is read from DIR/cache.",
        epilog="example: tttvideo evaluate text ttt=out/ttt/last.ckpt mamba=out/mamba/last.ckpt "
        "out/books/validation --out out/evaluation",
    )
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="[NAME=]CKPT",
        help="trained by `tttvideo fit`; those of one name, such as seeds, are one line with a "
        "band (default name: what the model is)",
    )
    parser.add_argument(
        "data", metavar="DATA", help="token file or folder, made by `tttvideo prepare text`"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    numbers = {
        "--length": "tokens read of each document (default: 4 training windows, or what 8 "
        "documents have)",
        "--reset": "tokens after which the control's state is fresh (default: 1024)",
        "--targets": "fixed targets in each document, at most (default: 4)",
        "--documents": "documents, at most, taken evenly from those long enough (default: 32)",
        "--batch": "tokens of a call of the model (default: 16384)",
    }
    defaults = {"--reset": 1024, "--targets": 4, "--documents": 32, "--batch": 16384}
    for name, text in numbers.items():
        parser.add_argument(name, type=int, metavar="N", default=defaults.get(name), help=text)
    parser.add_argument(
        "--contexts",
        nargs="+",
        type=int,
        metavar="N",
        help="tokens before the fixed targets (default: 0, powers of two from 256, all there is); "
        "say it after DATA",
    )
    parser.add_argument(
        "--join",
        action="store_true",
        help="read documents one after the other, where none is as long as --length",
    )


@dataclass(frozen=True)
class Subject:
    """A checkpoint that is measured, in words and numbers."""

    label: str
    path: str
    sha256: str
    mixer: str
    parameters: int
    window: int | None
    trained: dict[str, Any] | None
    cached: bool = False
    measured: dict[str, Any] = field(default_factory=dict)
    """date, device, commit and more of when it was measured"""


def run(options: argparse.Namespace) -> None:
    for name in ("length", "reset", "targets", "documents", "batch"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}; it must be 1 or more")
    from tttvideo.apps.show.text_plots import draw
    from tttvideo.apps.show.text_report import write
    from tttvideo.data.tokens import open_tokens
    from tttvideo.measures.plan import make_plan

    data = open_tokens(options.data)
    if data.header.kind != "text":
        raise ValueError(f"{data.path} holds {data.header.kind}; only text can be measured here")
    subjects = read_subjects(options.checkpoints, data)
    windows = [subject.window for subject in subjects if subject.window]
    plan = make_plan(options, data, max(windows, default=None))
    out = Path(options.out)
    found = [measure(subject, plan, data, out) for subject in subjects]
    subjects = [subject for subject, _ in found]
    results = [measured for _, measured in found]
    page = write(out, subjects, results, plan, data)
    draw(out, subjects, results, plan)
    print(page)
    print(*sorted(path for path in out.glob("*.*")), sep="\n")


def read_subjects(arguments: list[str], data: "Tokens") -> list[Subject]:
    """What the checkpoints are; ValueError for one that cannot read this data."""
    from tttvideo.data.tokens import file_hash

    subjects, kinds = [], {}
    for argument in dict.fromkeys(arguments):
        name, path = split_name(argument)
        checkpoint = load(path, data)
        config = checkpoint.backbone.config
        trained = checkpoint.trained
        subject = Subject(
            label=name or describe(config, trained and trained["window"]),
            path=path,
            sha256=file_hash(path),
            mixer=mixer_name(config),
            parameters=sum(p.numel() for p in checkpoint.backbone.parameters()),
            window=trained and trained["window"],
            trained=trained,
        )
        subjects.append(subject)
        if not name:  # only runs that differ in their seed share a name that nobody gave
            kinds.setdefault(subject.label, set()).add(repr((asdict(config), trained)))
    return [
        replace(s, label=f"{s.label} ({Path(s.path).parent.name})")
        if len(kinds.get(s.label, ())) > 1
        else s
        for s in subjects
    ]


def split_name(argument: str) -> tuple[str, str]:
    name, equals, path = argument.partition("=")
    return (name, path) if equals and not Path(argument).exists() else ("", argument)


def load(path: str, data: "Tokens") -> "TokenCheckpoint":
    from tttvideo.weights.checkpoints import load_tokens_model

    checkpoint, header = load_tokens_model(path), data.header
    if checkpoint.tokenizer != header.tokenizer:
        hint = "; import it with its --tokenizer" if checkpoint.tokenizer == "unknown" else ""
        raise ValueError(
            f"{path} reads tokens of {checkpoint.tokenizer}, and {data.path} holds tokens of "
            f"{header.tokenizer}{hint}"
        )
    vocab_size = checkpoint.backbone.config.vocab_size
    if vocab_size != header.vocab_size:
        raise ValueError(
            f"{path} has a vocabulary of {vocab_size}, and {data.path} one of {header.vocab_size}; "
            "measure it on data that was prepared as its training data was"
        )
    return checkpoint


def describe(config: "BackboneConfig", window: int | None) -> str:
    trained = f", trained on {window:,} tokens" if window else ""
    return f"{mixer_name(config)}, {config.width}x{config.depth}{trained}"


def measure(
    subject: Subject, plan: "Plan", data: "Tokens", out: Path
) -> tuple[Subject, "Measured"]:
    """Measure it, or read what an earlier run on the same data and settings found."""
    from tttvideo.apps.device import best_device
    from tttvideo.apps.report import run_conditions
    from tttvideo.measures.meter import Meter, read_cache, write_cache
    from tttvideo.progress import progress

    cache = out / "cache" / f"{plan.key(subject.sha256, data.fingerprint)}.json"
    if cache.is_file():
        print(f"{subject.path}: read from {cache}")
        measured, about = read_cache(cache)
        return replace(subject, cached=True, measured=about), measured
    checkpoint = load(subject.path, data)
    lengths = byte_lengths(checkpoint, data)
    device = best_device()
    backbone = checkpoint.backbone.to(device)
    ttt = backbone.config.mixer == "ttt"
    work = plan.work(backbone.blocks[0].mixer.config.mini_batch_size if ttt else None)
    with progress(f"{subject.label}", work, "tokens") as advance:
        measured = Meter(backbone, data, lengths, plan, advance).measure()
    about = run_conditions(device)
    write_cache(cache, measured, about)
    return replace(subject, measured=about), measured


def byte_lengths(checkpoint: "TokenCheckpoint", data: "Tokens") -> Any:
    """(V,) bytes of text that each token stands for."""
    from tttvideo.data.text.tokenizer import load_tokenizer, tokenizer_of

    name = checkpoint.tokenizer
    if checkpoint.tokenizer_json is None:
        return tokenizer_of(data.path, name).byte_lengths()
    return load_tokenizer(name, checkpoint.tokenizer_json).byte_lengths()


def groups(subjects: list[Subject], results: list["Measured"]) -> dict[str, list["Measured"]]:
    """The results of each label, in the order of the labels."""
    found = {label: [] for label in Counter(subject.label for subject in subjects)}
    for subject, measured in zip(subjects, results, strict=True):
        found[subject.label].append(measured)
    return found
