"""Laws of reading the JAX implementation's files: golden models, written as it writes them."""

import json

import msgpack
import pytest
import torch

from helpers.golden import GOLDEN, golden
from tttvideo.apps.commands import invoke
from tttvideo.weights.checkpoints import load_tokens_model
from tttvideo.weights.flax import BLOCK_NAMES, MIXER_NAMES, TOP_NAMES, read_flax
from tttvideo.weights.reference import load_reference


KINDS = pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
FORMS = pytest.mark.parametrize("form", ["plain", "stream", "train state"])


def flax_tree(weights):
    """The same weights under the paths, and with the axes, of the JAX implementation."""
    names = {}
    for table, prefix in ((BLOCK_NAMES, ""), (MIXER_NAMES, "seq_modeling_block.")):
        names |= {prefix + own: (prefix, flax) for flax, own in table.items()}
    tree = {}
    for name, tensor in weights.items():
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            prefix, flax = names[rest]
            # the multi-head parameters are one key with a slash in it
            whole = flax.startswith(("ttt_norm/", "learnable_ttt_lr/"))
            inside = (flax,) if whole else tuple(flax.split("/"))
            keys = ("model", "h", layer, *([prefix[:-1]] if prefix else []), *inside)
        else:
            flax = next(name_in_flax for name_in_flax, own in TOP_NAMES.items() if own == name)
            keys = ("model", *flax.split("/"))
        if keys[-1] == "learnable_ttt_lr/kernel":
            tensor = tensor.transpose(1, 2)  # (H, C, 1)
        elif keys[-1] == "kernel" and tensor.ndim == 3:
            tensor = tensor.permute(2, 1, 0)  # (taps, 1, C)
        elif keys[-1] == "kernel" and tensor.ndim == 2:
            tensor = tensor.T  # (in, out)
        tree[keys] = tensor.contiguous()
    return tree


def extension(tensor):
    """An array as flax packs it."""
    raw = bytes(tensor.reshape(-1).view(torch.uint8).tolist())
    dtype = str(tensor.dtype).removeprefix("torch.")
    return msgpack.ExtType(1, msgpack.packb((tuple(tensor.shape), dtype, raw)))


def nested(tree):
    top = {}
    for keys, tensor in tree.items():
        branch = top
        for key in keys[:-1]:
            branch = branch.setdefault(key, {})
        branch[keys[-1]] = extension(tensor)
    return top


def write(tree, form, path):
    if form == "plain":
        path.write_bytes(msgpack.packb(nested(tree)))
        return path
    if form == "train state":
        twice = {("opt_state", "1", "mu", *keys): torch.zeros(1) for keys in tree}
        tree = {("params", "params", *keys): tensor for keys, tensor in tree.items()}
        tree = {("step",): torch.tensor(7, dtype=torch.int32), **tree, **twice}
    pairs = ((keys, msgpack.packb(extension(tensor))) for keys, tensor in tree.items())
    path.write_bytes(b"".join(msgpack.packb(pair) for pair in pairs))
    return path


@KINDS
@FORMS
def test_both_kinds_of_file_give_the_weights_the_config_and_the_golden_logits(path, form, tmp_path):
    weights, config, tensors = golden(path)
    file = write(flax_tree(weights), form, tmp_path / "weights")
    came, values = read_flax(file)
    assert came.keys() == weights.keys()
    assert all(torch.equal(came[name], weights[name]) for name in weights)
    assert values.items() <= config.items()
    tokens, logits = tensors["input_ids"], tensors["logits"]
    wanted = load_reference(weights, config)(tokens)[0]
    given = load_reference(came, values)(tokens)[0]
    assert torch.equal(given, wanted)
    assert (given - logits).abs().max() <= 1e-5 * logits.abs().max()


@KINDS
def test_weights_in_bfloat16_keep_their_values(path, tmp_path):
    weights, *_ = golden(path)
    rounded = {name: tensor.bfloat16() for name, tensor in weights.items()}
    came, values = read_flax(write(flax_tree(rounded), "stream", tmp_path / "weights"))
    backbone = load_reference(came, values)
    assert backbone.embedding.weight.dtype == torch.float32
    wanted = rounded["model.embed_tokens.weight"].float()
    assert torch.equal(backbone.embedding.weight, wanted)


def test_an_array_that_flax_cut_into_chunks_is_joined(tmp_path):
    weights, *_ = golden(GOLDEN[0])
    tree = nested(flax_tree(weights))
    embedding = weights["model.embed_tokens.weight"]
    tree["model"]["wte"]["embedding"] = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": embedding.shape[0], "1": embedding.shape[1]},
        "chunks": {str(i): extension(x) for i, x in enumerate(embedding.flatten().split(900))},
    }
    (tmp_path / "weights").write_bytes(msgpack.packb(tree))
    came, _ = read_flax(tmp_path / "weights")
    assert torch.equal(came["model.embed_tokens.weight"], embedding)


def test_a_config_says_what_shapes_cannot(tmp_path):
    weights, *_ = golden(GOLDEN[0])
    file = write(flax_tree(weights), "plain", tmp_path / "weights")
    config = tmp_path / "config.json"
    names = {"seq_modeling_block": "ttt_linear_base", "conv_width": 4, "ttt_base_lr": 0.5}
    config.write_text(json.dumps({**names, "rope_theta": 500.0}))
    backbone = load_reference(*read_flax(file, config))
    assert backbone.config.ttt.base_lr == 0.5 and backbone.config.ttt.rope_theta == 500
    with pytest.raises(ValueError, match=r"\(32, 2, 2, 72\); size 125m is \(768, 12, 12, 2048\)"):
        read_flax(file, "125m")
    with pytest.raises(ValueError, match="config 2b is neither a size .125m.* nor a JSON mapping"):
        read_flax(file, "2b")


def test_the_command_makes_a_checkpoint_that_gives_the_golden_logits(tmp_path, capsys):
    weights, config, tensors = golden(GOLDEN[-1])
    file = write(flax_tree(weights), "stream", tmp_path / "streaming_params")
    out = tmp_path / "out" / "model.ckpt"
    invoke("import", [str(file), str(out)])
    assert "parameters" in capsys.readouterr().out
    tokens = tensors["input_ids"]
    came = load_tokens_model(out).backbone(tokens)[0]
    assert torch.equal(came, load_reference(weights, config)(tokens)[0])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop(("model", "wte", "embedding")), "has 0 arrays wte/embedding"),
        (
            lambda t: t.update({("model", "h", "0", "lora"): torch.zeros(1)}),
            "has 'h/0/lora',",
        ),
        (
            lambda t: t.pop(("model", "h", "0", "feed_forward", "w1", "kernel")),
            "lacks the array that the reference names model.layers.0.mlp.gate_proj.weight",
        ),
    ],
    ids=["no embedding", "a key too many", "an array missing"],
)
@FORMS
def test_wrong_keys_are_named_in_one_line(change, message, form, tmp_path):
    tree = flax_tree(golden(GOLDEN[0])[0])
    change(tree)
    with pytest.raises(ValueError, match=message) as error:
        read_flax(write(tree, form, tmp_path / "weights"))
    assert "\n" not in str(error.value)


def test_an_array_that_a_later_layer_lacks_is_named(tmp_path):
    tree = flax_tree(golden(GOLDEN[0])[0])
    del tree["model", "h", "1", "seq_modeling_block", "wo", "kernel"]
    with pytest.raises(ValueError, match="lack 1 of the keys .*layers.1.*o_proj.weight"):
        load_reference(*read_flax(write(tree, "plain", tmp_path / "weights")))


@FORMS
@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_file_that_was_cut_off_is_refused(form, kept, tmp_path):
    file = write(flax_tree(golden(GOLDEN[0])[0]), form, tmp_path / "weights")
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match="it was cut off"):
        read_flax(file)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "cut off"),
        (b"not msgpack", "neither a mapping nor a pair"),
        (b"\xc1", "not msgpack of flax"),
        (msgpack.packb([["a"], b"\xc1"]), "not msgpack of flax"),
        (msgpack.packb([[], b""]), "neither a mapping nor a pair"),
        (msgpack.packb({"a": msgpack.ExtType(2, b"")}), "extension 2 is not an array"),
        (
            msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(([2], "float32", b"abc")))}),
            r"shape \(2,\), float32, has 3 bytes",
        ),
        (
            msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(([1], "object", b"a")))}),
            "dtype 'object' is none of",
        ),
    ],
    ids=["empty", "text", "no code", "bad pair", "no path", "extension", "bytes", "dtype"],
)
def test_any_other_file_is_refused_in_one_line(data, message, tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read_flax(file)
    assert "\n" not in str(error.value)
