"""Golden models: weights of the reference implementation, its logits, loss and gradients."""

import json
from pathlib import Path

from safetensors import safe_open


GOLDEN = sorted(Path(__file__).parents[1].glob("golden/*.safetensors"))


def golden(path):
    """The reference implementation's weights and config, and every tensor of the file by name."""
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {n.removeprefix("weight."): t for n, t in tensors.items() if n.startswith("weight.")}
    return weights, config, tensors
