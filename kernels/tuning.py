"""Launch options of a Triton kernel: the fastest of those in the compile table.

They are measured on the GPU at the first launch of a kind and kept in Triton's cache folder for the
next process. With TTTVIDEO_AUTOTUNE=0 the first option is used, without a measurement.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
import triton


known: dict[str, dict] = {}


def fastest(kind: str, options: list[dict], launch: Callable[[dict], object]) -> dict:
    """The option with the shortest median; `launch` may run any number of times.

    kind: names the launch and its sizes; launches of one kind share a measurement. While a CUDA
    graph is recorded nothing can be measured, and an unknown kind gets the first option.
    """
    if len(options) == 1 or not wanted():
        return options[0]
    key = f"{kind} {torch.cuda.get_device_name()} {triton.__version__} {sources()} {options}"
    if key not in known:
        path = cache_file(key)
        if not path.exists():
            if torch.cuda.is_current_stream_capturing():
                return options[0]
            times = [measure(functools.partial(launch, one)) for one in options]
            store(path, options[times.index(min(times))])
        known[key] = json.loads(path.read_text())
    return known[key]


def wanted() -> bool:
    return os.environ.get("TTTVIDEO_AUTOTUNE") != "0" and torch.cuda.is_available()


def measure(launch: Callable[[], object]) -> float:
    return triton.testing.do_bench(launch, return_mode="median")


@functools.cache
def sources() -> str:
    """A hash of the files in gpu/, since another version may have another fastest option."""
    files = sorted((Path(__file__).parent / "gpu").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def cache_file(key: str) -> Path:
    folder = Path(triton.knobs.cache.dir) / "tttvideo"
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def store(path: Path, option: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(option))
    part.replace(path)
