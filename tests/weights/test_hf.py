"""Laws of the models inside transformers: the same logits, a carried state, clear refusals."""

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import is_kernels_available

from helpers.exported import EACH, EACH_BOTH, LINEAR, MODELS, export, new_backbone, some_tokens
from helpers.golden import GOLDEN, golden
from tttvideo.apps.commands import invoke
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.data.text.tokenizer import ByteTokenizer, JsonTokenizer, train_bpe
from tttvideo.hf import StateCache, TTTForCausalLM, TTTVideoForCausalLM
from tttvideo.states import tree_map
from tttvideo.weights.checkpoints import load_tokens_model


ROOT = Path(__file__).parents[2]
TEXT = "the state learns while it reads, and reads while it learns"


def assert_same_weights(a, b):
    """Equal bits, but for a carry, which the reference has in another form."""
    assert a.keys() == b.keys()
    for name in a:
        carry = name.endswith(("carry_shift", "learnable_token_idx"))
        options = dict(rtol=1e-5, atol=1e-7) if carry else dict(rtol=0, atol=0)
        torch.testing.assert_close(a[name], b[name], **options)


@EACH
def test_an_exported_model_gives_the_same_logits_and_is_saved_with_the_same_weights(name, tmp_path):
    backbone = new_backbone(name)
    folder = export(backbone, tmp_path)
    reference = name in ("ttt-linear", "ttt-mlp")
    assert AutoConfig.from_pretrained(folder).model_type == ("ttt" if reference else "tttvideo")
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    assert type(model) is (TTTForCausalLM if reference else TTTVideoForCausalLM)
    tokens = some_tokens(2, 29)
    wanted, own = backbone(tokens)[0], backbone.state_dict()
    loaded = model.backbone.state_dict()
    assert_same_weights(own, loaded)
    # not to the last bit: matmuls differ where a loaded tensor is not aligned
    close = dict(rtol=0, atol=2e-6 * wanted.abs().max().item())
    torch.testing.assert_close(model(tokens).logits, wanted, **close)
    assert torch.equal(model(tokens).logits, model.backbone(tokens)[0])
    model.save_pretrained(tmp_path / "again")
    first, again = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "again"))
    assert_same_weights(first, again)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(loaded(tokens).logits, wanted, **close)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_weights_of_the_reference_implementation_load_as_they_are(path, tmp_path):
    weights, values, tensors = golden(path)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()  # as it may have it
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "ttt", **values}))
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    logits = model(tensors["input_ids"]).logits
    assert (logits - tensors["logits"]).abs().max() <= 1e-5 * tensors["logits"].abs().max()


@EACH_BOTH
def test_greedy_generation_equals_the_backbones_and_reads_one_token_at_a_time(both):
    backbone, model = both
    tokens = some_tokens(2, 9)
    lengths = []
    block = model.backbone.blocks[0]
    block.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    chosen = model.generate(tokens, max_new_tokens=12, do_sample=False)
    assert lengths == [9] + [1] * 11
    wanted = tokens
    with torch.no_grad():
        for _ in range(12):
            last = backbone(wanted)[0][:, -1]
            wanted = torch.cat((wanted, last.argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(chosen, wanted)


@LINEAR
def test_a_long_prompt_is_read_in_parts(both, monkeypatch):
    monkeypatch.setattr("tttvideo.hf.CHUNK", 16)
    backbone, model = both
    lengths = []
    block = model.backbone.blocks[0]
    block.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    tokens = some_tokens(1, 41)
    with torch.no_grad():
        logits = model(tokens, logits_to_keep=12).logits
    assert lengths == [16, 16, 9]
    torch.testing.assert_close(logits, backbone(tokens)[0][:, -12:], rtol=1e-4, atol=1e-4)
    assert torch.equal(model(tokens, logits_to_keep=99).logits, model(tokens).logits)


@LINEAR
def test_sampling_draws_from_the_models_probabilities(both):
    backbone, model = both
    tokens = some_tokens(1, 9)
    torch.manual_seed(3)
    draws = dict(max_new_tokens=1, do_sample=True, top_k=0, num_return_sequences=4000)
    drawn = model.generate(tokens, **draws)[:, -1].bincount(minlength=31) / 4000
    wanted = backbone(tokens)[0][0, -1].softmax(-1)
    assert (drawn - wanted).abs().max() <= 5 * (0.25 / 4000) ** 0.5
    greedy = model.generate(tokens, max_new_tokens=8, do_sample=False)
    top_one = model.generate(tokens, max_new_tokens=8, do_sample=True, top_k=1)
    assert torch.equal(top_one, greedy)


@EACH_BOTH
def test_a_cache_holds_the_tokens_read_and_use_does_not_change_it(both):
    _, model = both
    tokens = some_tokens(2, 29)
    whole = model(tokens).logits
    cache = model(tokens[:, :13], use_cache=True).cache
    assert isinstance(cache, StateCache) and cache.get_seq_length() == 13
    kept = tree_map(torch.Tensor.clone, cache.state)
    for _ in range(2):
        rest = model(tokens[:, 13:], cache=cache)
        torch.testing.assert_close(rest.logits, whole[:, 13:], rtol=1e-4, atol=1e-4)
    assert rest.cache.get_seq_length() == 29
    tree_map(lambda one, other: torch.testing.assert_close(one, other), kept, cache.state)
    assert model(tokens, use_cache=False).cache is None


@EACH_BOTH
def test_generation_resumes_from_a_cache(both):
    _, model = both
    tokens = some_tokens(2, 9)
    options = dict(do_sample=False, return_dict_in_generate=True)
    whole = model.generate(tokens, max_new_tokens=12, **options).sequences
    first = model.generate(tokens, max_new_tokens=5, **options)
    assert first.cache.get_seq_length() == 13  # the last token was chosen, and not read
    then = model.generate(first.sequences, cache=first.cache, max_new_tokens=7, **options)
    assert torch.equal(then.sequences, whole)


@EACH_BOTH
def test_beams_carry_their_own_states(both):
    _, model = both
    options = dict(max_new_tokens=6, num_beams=3, do_sample=False)
    tokens = some_tokens(2, 9)
    carried = model.generate(tokens, **options)
    assert torch.equal(carried, model.generate(tokens, use_cache=False, **options))


@LINEAR
def test_the_loss_is_of_the_next_token_and_reaches_every_weight(both):
    backbone, model = both
    tokens = some_tokens(2, 9)
    labels = tokens.clone()
    labels[:, :4] = -100
    model.train()
    output = model(tokens, labels=labels)
    assert output.cache is None
    wanted = F.cross_entropy(backbone(tokens)[0][:, 3:-1].flatten(0, 1), tokens[:, 4:].flatten())
    torch.testing.assert_close(output.loss, wanted)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@EACH
@pytest.mark.parametrize("change, verb", [("lost", "lack"), ("found", "add")])
def test_weights_that_do_not_fit_are_refused(name, change, verb, tmp_path):
    folder = export(new_backbone(name), tmp_path)
    weights = load_file(folder / "model.safetensors")
    if change == "lost":
        del weights[max(weights)]
    else:
        weights["surprise"] = torch.zeros(1)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"the weights {verb} 1 of the model's keys"):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("key", ["grid", "mixer", "attention"])
def test_a_config_that_lacks_a_key_is_refused(key, tmp_path):
    folder = export(new_backbone("attention"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["model"][key]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"`model` in config.json lacks '{key}'"):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("name", ["ttt-linear", "attention"])
def test_a_model_of_frames_is_not_exported(name, tmp_path):
    config = BackboneConfig(vocab_size=31, width=64, heads=1, grid=(2, 2), **MODELS[name])
    with pytest.raises(ValueError, match=r"a model of frames \(2, 2\)"):
        export(Backbone(config), tmp_path, "some fingerprint")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("kind", ["bytes", "json"])
def test_the_tokenizer_is_exported(kind, tmp_path):
    own = ByteTokenizer() if kind == "bytes" else JsonTokenizer(train_bpe([TEXT], 270))
    folder = export(
        new_backbone("ttt-linear", own.vocab_size),
        tmp_path,
        own.name,
        tokenizer_json=own.to_json(),
        bos=own.bos,
        eos=own.eos,
    )
    loaded = AutoTokenizer.from_pretrained(folder)
    for text in (TEXT, "  Zürich\n\t\u2603 <s>".replace("<s>", "s"), "\x00\x7f"):
        tokens = own.encode(text)
        assert loaded(text)["input_ids"] == tokens
        assert loaded.decode(tokens) == text
    assert (loaded.bos_token_id, loaded.eos_token_id) == (own.bos, own.eos)
    assert len(loaded) == own.vocab_size
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == own.eos
    model.backbone.embedding.weight.data[:] = 0  # equal logits: the first token is chosen
    chosen = model.generate(**loaded(TEXT, return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert chosen.shape == (1, len(own.encode(TEXT)) + (1 if own.eos == 0 else 3))


@EACH
def test_import_reads_an_export(name, tmp_path):
    backbone = new_backbone(name)
    invoke("import", [str(export(backbone, tmp_path)), str(tmp_path / "back.ckpt")])
    came = load_tokens_model(tmp_path / "back.ckpt")
    wanted, given = backbone.state_dict(), came.backbone.state_dict()
    assert_same_weights(wanted, given)
    assert came.backbone.config.mixer == backbone.config.mixer
    assert came.tokenizer == "unknown"


def test_import_stores_a_tokenizer_that_fits(tmp_path):
    folder = export(new_backbone("ttt-linear", 270), tmp_path)
    text = train_bpe([TEXT], 270)
    (tmp_path / "tokenizer.json").write_text(text)
    arguments = [str(folder), str(tmp_path / "back.ckpt"), "--tokenizer"]
    invoke("import", [*arguments, str(tmp_path / "tokenizer.json")])
    came = load_tokens_model(tmp_path / "back.ckpt")
    tokenizer = JsonTokenizer(text)
    assert (came.tokenizer, came.tokenizer_json) == (tokenizer.name, text)
    assert (came.bos, came.eos) == (tokenizer.bos, tokenizer.eos)
    (tmp_path / "tokenizer.json").write_text(train_bpe([TEXT + " once more"], 272))
    with pytest.raises(ValueError, match="has 272 tokens and the model 270"):
        invoke("import", [*arguments, str(tmp_path / "tokenizer.json")])
    with pytest.raises(ValueError, match="there is no tokenizer nowhere"):
        invoke("import", [*arguments, "nowhere"])
    with pytest.raises(ValueError, match="has 270 tokens; a model of bytes has 256, or 258"):
        invoke("import", [*arguments, "bytes"])


@pytest.mark.parametrize("size, marks", [(256, (None, None)), (258, (256, 257))])
def test_a_model_of_bytes_may_have_marks(size, marks, tmp_path):
    folder = export(new_backbone("ttt-linear", size), tmp_path)
    invoke("import", [str(folder), str(tmp_path / "back.ckpt"), "--tokenizer", "bytes"])
    came = load_tokens_model(tmp_path / "back.ckpt")
    assert came.tokenizer == "bytes" and (came.bos, came.eos) == marks


def test_transformers_is_imported_in_two_files_and_its_undocumented_modules_in_one():
    files = [path for room in ("apps", "data", "kernels", "tttvideo") for path in sources(room)]
    users = {
        path.name: {n for n in imported(path) if n.startswith("transformers")} for path in files
    }
    users = {name: modules for name, modules in users.items() if modules}
    assert users.keys() == {"hf.py", "transformers_layout.py"}
    undocumented = {"transformers.conversion_mapping", "transformers.core_model_loading"}
    assert users["transformers_layout.py"] == undocumented
    assert not users["hf.py"] & undocumented


def sources(room):
    return (path for path in (ROOT / room).rglob("*.py") if path.is_file())


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def test_transformers_does_not_take_our_kernels_for_its_package(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    is_kernels_available.cache_clear()
    assert not is_kernels_available()
    assert not hasattr(sys.modules["kernels"], "State")  # imported, and not run a second time
    monkeypatch.delitem(sys.modules, "kernels")
