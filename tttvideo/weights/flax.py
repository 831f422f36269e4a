"""Weights of the JAX implementation of arXiv 2407.04620, under the names of the PyTorch one.

There are two kinds of file: the msgpack of flax, one nested mapping; and the stream that the
training writes, (path, array) pairs of the parameters or of a train state. Some keys contain a
slash, so a path is joined to one name before it is looked up. msgpack is data: no code is run.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import torch
from torch import Tensor


DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint32", "uint8")
}
ARRAY, SCALAR = 1, 3  # codes of the msgpack extensions of flax, both (shape, dtype, bytes)
CHUNKED = "__msgpack_chunked_array__"

# name in flax -> name in PyTorch, at the top, inside a block and inside its mixer
TOP_NAMES = {
    "wte/embedding": "model.embed_tokens.weight",
    "ln_f/kernel": "model.norm.weight",
    "lm_head/kernel": "lm_head.weight",
}
BLOCK_NAMES = {
    "seq_norm/kernel": "seq_norm.weight",
    "ffn_norm/kernel": "ffn_norm.weight",
    "feed_forward/w1/kernel": "mlp.gate_proj.weight",
    "feed_forward/w3/kernel": "mlp.up_proj.weight",
    "feed_forward/w2/kernel": "mlp.down_proj.weight",
    "conv/conv_norm/kernel": "conv.norm.weight",
    "conv/conv1/kernel": "conv.conv.weight",
    "conv/conv1/bias": "conv.conv.bias",
}
MIXER_NAMES = {
    "wq/kernel": "q_proj.weight",
    "wk/kernel": "k_proj.weight",
    "wv/kernel": "v_proj.weight",
    "wo/kernel": "o_proj.weight",
    "wg/kernel": "g_proj.weight",
    "conv_q/kernel": "conv_q.weight",
    "conv_q/bias": "conv_q.bias",
    "conv_k/kernel": "conv_k.weight",
    "conv_k/bias": "conv_k.bias",
    "learnable_ttt_lr/kernel": "learnable_ttt_lr_weight",
    "learnable_ttt_lr/bias": "learnable_ttt_lr_bias",
    "learnable_token_idx": "learnable_token_idx",
    "ttt_norm/scale": "ttt_norm_weight",
    "ttt_norm/bias": "ttt_norm_bias",
    "post_norm/scale": "post_norm.weight",
    "post_norm/bias": "post_norm.bias",
    "ttt_dense_0": "W1",
    "ttt_bias_0": "b1",
    "ttt_dense_1": "W2",
    "ttt_bias_1": "b2",
}
SIZES = {  # hidden_size, num_hidden_layers, num_attention_heads, intermediate_size
    "125m": (768, 12, 12, 2048),
    "350m": (1024, 24, 16, 2736),
    "760m": (1536, 24, 16, 4096),
    "1b": (2048, 24, 32, 5504),
}
SIZE_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def read_flax(
    path: str | Path,
    config: str | Path | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state_dict, config) for `load_reference`; the shapes give the keys that `config` lacks.

    config: a size of the paper, which is then checked, or a config.json of the JAX implementation
        or of the PyTorch one; the default base learning rate is the paper's.
    advance: called with the number of bytes that were read.
    Raises ValueError, in one line, for any other file.
    """
    named = parameters(dict(read_arrays(path, advance)), path)
    weights = {reference_name(name, path): to_torch_axes(name, x) for name, x in named.items()}
    values = config_from_shapes(weights, path)
    if config is None:
        return weights, values
    wanted, came = SIZES.get(str(config)), tuple(values[key] for key in SIZE_KEYS)
    if wanted is None:
        return weights, values | read_config(config)
    if came != wanted:
        raise ValueError(f"{path} has {', '.join(SIZE_KEYS)} {came}; size {config} is {wanted}")
    return weights, values


def read_arrays(path: str | Path, advance: Callable[[int], None]) -> Iterator[tuple[str, Tensor]]:
    """Every array of either kind of file with its path, joined with slashes."""

    class Watched:
        def __init__(self, file: BinaryIO):
            self.file = file

        def read(self, size: int) -> bytes:
            data = self.file.read(size)
            advance(len(data))
            return data

    bad = f"{path} is not msgpack of flax"
    try:
        with open(path, "rb") as file:
            # a buffer of 0 is msgpack's largest, 4 GiB
            unpacker = msgpack.Unpacker(Watched(file), max_buffer_size=0, ext_hook=array_of)
            for item in unpacker:
                yield from unpacked(item)
            whole = unpacker.tell() == file.tell() > 0
    except (ValueError, TypeError, RuntimeError, KeyError, msgpack.UnpackException) as error:
        raise ValueError(f"{bad}: {str(error) or type(error).__name__}") from error
    if not whole:
        raise ValueError(f"{bad}, or it was cut off: its last value has no end")


def unpacked(item: Any) -> Iterator[tuple[str, Tensor]]:
    """The arrays of one value of a file: the complete mapping, or one pair of a stream."""
    if isinstance(item, dict):
        yield from flat(item, ())
        return
    keys, packed = item if isinstance(item, list) and len(item) == 2 else (None, None)
    if not isinstance(keys, list) or not keys or not isinstance(packed, bytes):
        raise ValueError("a value is neither a mapping nor a pair of a path and an array")
    if keys[0] != "opt_state":  # twice the size of the parameters, and not used
        yield from flat(msgpack.unpackb(packed, ext_hook=array_of), tuple(keys))


def flat(tree: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, dict) and CHUNKED in tree:
        shape = in_order(tree["shape"])
        yield "/".join(keys), torch.cat(in_order(tree["chunks"])).reshape(shape)
    elif isinstance(tree, dict):
        for key, branch in tree.items():
            yield from flat(branch, (*keys, key))
    elif isinstance(tree, Tensor):
        yield "/".join(keys), tree


def in_order(numbered: dict[str, Any]) -> list[Any]:
    return [numbered[str(place)] for place in range(len(numbered))]


def array_of(code: int, data: bytes) -> Tensor:
    """The array in an extension of flax: (shape, name of the dtype, bytes in C order)."""
    if code not in (ARRAY, SCALAR):
        raise ValueError(f"msgpack extension {code} is not an array")
    shape, dtype, values = msgpack.unpackb(data)
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    if len(values) != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"an array of shape {tuple(shape)}, {dtype}, has {len(values)} bytes")
    if not values:
        return torch.empty(shape, dtype=DTYPES[dtype])
    return torch.frombuffer(bytearray(values), dtype=DTYPES[dtype]).reshape(shape)


def parameters(arrays: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """The arrays of the model, at any place in the file, by their names inside the model."""
    arrays = {n: a for n, a in arrays.items() if not n.startswith("opt_state/") and n != "step"}
    ends = [name for name in arrays if f"/{name}".endswith("/wte/embedding")]
    if len(ends) != 1:
        raise ValueError(
            f"{path} has {len(ends)} arrays wte/embedding; weights of the JAX implementation have 1"
        )
    model = ends[0].removesuffix("wte/embedding")  # often model/ or params/params/model/
    above = model.removesuffix("model/")  # the head is beside the model
    return {n.removeprefix(model).removeprefix(above): array for n, array in arrays.items()}


def reference_name(name: str, path: str | Path) -> str:
    """The PyTorch implementation's name of an array."""
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    h, layer, rest = (*name.split("/", 2), "", "")[:3]
    if h == "h" and layer.isdecimal():
        inside = rest.removeprefix("seq_modeling_block/")
        if rest in BLOCK_NAMES:
            return f"model.layers.{layer}.{BLOCK_NAMES[rest]}"
        if inside != rest and inside in MIXER_NAMES:
            return f"model.layers.{layer}.seq_modeling_block.{MIXER_NAMES[inside]}"
    raise ValueError(f"{path} has {name!r}, which no TTT model of the JAX implementation has")


def to_torch_axes(name: str, array: Tensor) -> Tensor:
    """An array with the axes in PyTorch's order; kernels of flax are (taps, in, out)."""
    if not name.endswith("/kernel") or array.ndim < 2:
        return array
    if name.endswith("learnable_ttt_lr/kernel"):
        return array.mT  # (H, C, 1): a column for each head
    return array.permute(*reversed(range(array.ndim)))


def config_from_shapes(weights: Mapping[str, Tensor], path: str | Path) -> dict[str, Any]:
    """The config of these weights, from their names and shapes."""

    def of(name: str) -> torch.Size:
        if name not in weights:
            raise ValueError(f"{path} lacks the array that the reference names {name}")
        return weights[name].shape

    block = "model.layers.0.seq_modeling_block."
    mlp = f"{block}W2" in weights
    shared = f"{block}conv_q.weight" in weights
    pre_conv = "model.layers.0.conv.conv.weight" in weights
    taps = f"{block}conv_q.weight" if shared else "model.layers.0.conv.conv.weight"
    return {
        "vocab_size": of("model.embed_tokens.weight")[0],
        "hidden_size": of("model.embed_tokens.weight")[-1],
        "intermediate_size": of("model.layers.0.mlp.gate_proj.weight")[0],
        "num_hidden_layers": len({n.split(".")[2] for n in weights if ".layers." in n}),
        "num_attention_heads": of(f"{block}ttt_norm_weight")[0],
        "mini_batch_size": of(f"{block}learnable_token_idx")[0],
        "ttt_layer_type": "mlp" if mlp else "linear",
        "ttt_base_lr": 0.1 if mlp else 1.0,
        "share_qk": shared,
        "use_gate": f"{block}g_proj.weight" in weights,
        "pre_conv": pre_conv,
        "conv_kernel": of(taps)[-1] if shared or pre_conv else 4,
    }


def read_config(path: str | Path) -> dict[str, Any]:
    """A config.json, with the JAX implementation's keys renamed to the PyTorch one's."""
    try:
        values = dict(json.loads(Path(path).read_text()))
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(
            f"config {path} is neither a size ({', '.join(SIZES)}) nor a JSON mapping: {error}"
        ) from error
    if "conv_width" in values:
        values["conv_kernel"] = values.pop("conv_width")
    if "seq_modeling_block" in values:  # ttt_linear, ttt_mlp, ttt_linear_base, ttt_mlp_base
        block = values.pop("seq_modeling_block")
        values["ttt_layer_type"] = block.removeprefix("ttt_").removesuffix("_base")
    return values
