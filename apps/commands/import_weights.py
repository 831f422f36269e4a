"""`tttvideo import SOURCE CKPT`: the options."""

import argparse
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .options import Parser, add_marks, check_output


PROGRAM = "tttvideo.apps.convert:import_weights"
SIZES = ("125m", "350m", "760m", "1b")  # of flax files


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo import",
        description="Make a checkpoint from weights of the reference implementations.",
        epilog="example: tttvideo import ttt-linear-125m/ out/ttt-linear-125m.ckpt",
    )
    add = top.add_argument
    help = "PyTorch's: a .safetensors file with config.json beside it or in its metadata, or a "
    help += (
        "folder of both, also in shards; any other file is read as JAX's: msgpack of flax, whole "
    )
    help += "or streamed"
    add("source", metavar="FILE|DIR", help=help)
    add("out", metavar="CKPT", help="checkpoint to write")
    help = "of a flax file, for the settings that its shapes do not determine: a config.json, or "
    help += "125m, 350m, 760m or 1b to check its size (default: the paper's constants)"
    add("--config", metavar="SIZE|FILE", help=help)
    help = "the model's tokenizer: bytes, or a tokenizer.json, which is copied into the "
    help += "checkpoint; `tttvideo generate` needs one of the two (default: unknown)"
    add("--tokenizer", metavar="unknown|bytes|FILE", default="unknown", help=help)
    add_marks(top)
    return top


def check(options: argparse.Namespace) -> None:
    check_output(options.out)
    check_source(Path(options.source), options.config)
    named = options.tokenizer in ("unknown", "bytes")
    if named and (options.bos or options.eos):
        raise ValueError(
            "--bos and --eos name tokens of a given tokenizer.json; give --tokenizer FILE"
        )
    if not named:
        from tttvideo.data.text.tokenizer import read_tokenizer  # takes long to import

        read_tokenizer(options.tokenizer, (options.bos, options.eos))


def check_source(source: Path, config: str | None) -> None:
    """Refuse a path without weights, and a config that is missing or of no use."""
    if not source.exists():
        raise ValueError(f"there is no file or folder {source}")
    if source.is_dir() or source.suffix == ".safetensors":
        one = source / "model.safetensors" if source.is_dir() else source
        shards = [] if one.is_file() else sorted(source.glob("model-*.safetensors"))
        for file in shards or [one]:
            check_safetensors(file)
        if config:
            raise ValueError(f"--config {config} is for flax files; {source} has a config.json")
    elif not source.stat().st_size:
        raise ValueError(f"{source} is empty (0 bytes); copy it again")
    elif config and config not in SIZES and not Path(config).is_file():
        raise ValueError(f"--config {config} is neither a file nor a size ({', '.join(SIZES)})")


def check_safetensors(file: Path) -> None:
    try:
        with safe_open(file, "numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
