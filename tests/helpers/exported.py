"""Small models of every mixer, inside transformers."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import tttvideo.hf  # noqa: F401  it registers the models
from tttvideo.apps.commands import invoke
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.data.text.tokenizer import ByteTokenizer
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.weights.checkpoints import TokenCheckpoint, save_tokens_model


MODELS = {
    "ttt-linear": dict(ttt=TTTConfig(mini_batch_size=4)),
    "ttt-mlp": dict(ttt=TTTConfig("mlp", mini_batch_size=4, backbone="transformer")),
    "ttt-forget": dict(ttt=TTTConfig(mini_batch_size=4, forget=True, carry=0.5)),
    "ttt-alone": dict(mlp_width=0, ttt=TTTConfig(mini_batch_size=4)),
    "ttt-ablated": dict(ttt=TTTConfig(mini_batch_size=4, learn_step=False, norm=False)),
    "attention": dict(mixer="attention"),
    "linear-attention": dict(mixer="linear_attention"),
    "gated-delta": dict(mixer="gated_delta"),
    "mamba": dict(mixer="mamba", mlp_width=0),
    "mamba2": dict(mixer="mamba2"),
    "lstm": dict(mixer="lstm"),
}
EACH = pytest.mark.parametrize("name", MODELS)


def new_backbone(name, vocab_size=31):
    torch.manual_seed(0)
    sizes = dict(vocab_size=vocab_size, width=64, depth=2, heads=1, mlp_width=24)
    backbone = Backbone(BackboneConfig(**sizes | MODELS[name]))
    for parameter in backbone.parameters():  # nothing at zero, or a law could hold for nothing
        parameter.data += torch.randn_like(parameter) * 0.1
    return backbone.eval()


def export(backbone, folder, tokenizer="unknown", **facts):
    save_tokens_model(TokenCheckpoint(backbone, tokenizer, **facts), folder / "model.ckpt")
    invoke("export", [str(folder / "model.ckpt"), str(folder / "hf")])
    return folder / "hf"


def export_bytes(name, folder):
    """The export of a small model of bytes, and its tokenizer."""
    own = ByteTokenizer()
    return export(new_backbone(name, 258), folder, own.name, bos=own.bos, eos=own.eos)


def load(backbone, folder):
    """The model that transformers loads from an export."""
    return AutoModelForCausalLM.from_pretrained(export(backbone, folder))


EACH_BOTH = pytest.mark.parametrize("both", MODELS, indirect=True)
LINEAR = pytest.mark.parametrize("both", ["ttt-linear"], indirect=True)


def some_tokens(*shape):
    return torch.randint(31, shape, generator=torch.Generator().manual_seed(1))
