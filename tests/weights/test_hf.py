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

from helpers.exported import (
    EACH,
    EACH_BOTH,
    LINEAR,
    MODELS,
    export,
    load,
    new_backbone,
    some_tokens,
)
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
def test_the_cache_has_also_the_name_that_it_had_in_older_releases(both):
    _, model = both
    tokens = some_tokens(2, 9)
    output = model(tokens)
    assert output.past_key_values is output.cache is output["past_key_values"]
    rest = model(tokens, cache=output.cache).logits
    with pytest.warns(FutureWarning, match="`past_key_values` is deprecated"):
        assert torch.equal(model(tokens, past_key_values=output.cache).logits, rest)


@EACH_BOTH
def test_hidden_states_are_the_inputs_of_every_block_and_of_the_head(both):
    backbone, model = both
    tokens, mask = some_tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    inputs = []
    for block in backbone.blocks:
        block.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    last, _ = backbone.features(tokens)
    found = model(tokens, output_hidden_states=True, logits_to_keep=1).hidden_states
    torch.testing.assert_close(found, (*inputs, last), rtol=1e-5, atol=1e-5)
    mask[0, :4] = 0
    padded = model(tokens, attention_mask=mask, output_hidden_states=True).hidden_states
    alone = model(tokens[:1, 4:], output_hidden_states=True).hidden_states
    for one, other in zip(padded, alone, strict=True):
        torch.testing.assert_close(one[0, 4:], other[0], rtol=1e-4, atol=1e-5)
    model.config.output_hidden_states = True
    assert len(model(tokens).hidden_states) == 3
    assert len(model.generate(tokens, max_new_tokens=2, do_sample=False)[0]) == 11


@LINEAR
def test_logits_are_kept_by_number_and_by_index_and_the_loss_is_of_all_labels(both):
    _, model = both
    tokens = some_tokens(2, 9)
    whole = model(tokens, labels=tokens)
    chosen = torch.tensor([1, 5, 8])
    for keep, wanted in ((4, whole.logits[:, -4:]), (chosen, whole.logits[:, chosen])):
        torch.testing.assert_close(model(tokens, logits_to_keep=keep).logits, wanted)
        both_asked = model(tokens, labels=tokens, logits_to_keep=keep)
        torch.testing.assert_close(both_asked.logits, wanted)
        torch.testing.assert_close(both_asked.loss, whole.loss)
    with pytest.raises(ValueError, match=r"labels are \(2, 4\); there must be one for each token"):
        model(tokens, labels=tokens[:, -4:], logits_to_keep=4)


@EACH_BOTH
def test_embeddings_are_read_in_place_of_tokens(both):
    _, model = both
    tokens, mask = some_tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    embeddings = model.get_input_embeddings()(tokens)
    for options in ({}, {"attention_mask": mask}):
        wanted = model(tokens, **options).logits
        torch.testing.assert_close(model(inputs_embeds=embeddings, **options).logits, wanted)
    chosen = model.generate(inputs_embeds=embeddings, max_new_tokens=5, do_sample=False)
    assert torch.equal(chosen, model.generate(tokens, max_new_tokens=5, do_sample=False)[:, 9:])


@LINEAR
def test_inputs_that_a_state_has_no_place_for_are_refused(both):
    _, model = both
    tokens = some_tokens(2, 9)
    for options in ({}, {"input_ids": tokens, "inputs_embeds": torch.zeros(2, 9, 64)}):
        with pytest.raises(ValueError, match="give either input_ids or inputs_embeds"):
            model(**options)
    with pytest.raises(ValueError, match=r"tokens are \(2, 0\)"):
        model(tokens[:, :0])
    with pytest.raises(ValueError, match="a state has no attention weights"):
        model(tokens, output_attentions=True)


@LINEAR
def test_an_output_is_a_tuple_where_one_is_asked_for(both):
    _, model = both
    tokens = some_tokens(2, 9)
    named = model(tokens, labels=tokens, output_hidden_states=True)
    loss, logits, cache, hidden = model(
        tokens, labels=tokens, output_hidden_states=True, return_dict=False
    )
    assert torch.equal(loss, named.loss) and torch.equal(logits, named.logits)
    assert isinstance(cache, StateCache) and len(hidden) == 3
    model.config.return_dict = False
    assert torch.equal(model(tokens)[0], named.logits)


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


def export_text(kind, tmp_path):
    """The export of a small model of text, and its tokenizer."""
    own = ByteTokenizer() if kind == "bytes" else JsonTokenizer(train_bpe([TEXT], 270))
    folder = export(
        new_backbone("ttt-linear", own.vocab_size),
        tmp_path,
        own.name,
        tokenizer_json=own.to_json(),
        bos=own.bos,
        eos=own.eos,
    )
    return folder, own


@pytest.mark.parametrize("kind", ["bytes", "json"])
def test_the_tokenizer_is_exported(kind, tmp_path):
    folder, own = export_text(kind, tmp_path)
    loaded = AutoTokenizer.from_pretrained(folder)
    for text in (TEXT, "  Zürich\n\t\u2603 <s> <bos>", "\x00\x7f"):
        tokens = own.encode(text)
        assert loaded(text)["input_ids"] == [own.bos, *tokens]  # as `fit` and `generate` read it
        assert loaded.decode(tokens) == text
        assert loaded.decode([own.bos, *tokens, own.eos], skip_special_tokens=True) == text
    assert (loaded.bos_token_id, loaded.eos_token_id) == (own.bos, own.eos)
    assert loaded.pad_token_id == own.eos
    assert len(loaded) == own.vocab_size
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == own.eos
    model.backbone.embedding.weight.data[:] = 0  # equal logits: the first token is chosen
    chosen = model.generate(**loaded(TEXT, return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert chosen.shape == (1, 1 + len(own.encode(TEXT)) + 3)


@pytest.mark.parametrize("kind", ["bytes", "json"])
def test_greedy_text_is_that_of_our_own_command(kind, tmp_path, capsys):
    folder, own = export_text(kind, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [TEXT, "so it <bos> learns", "Zürich"]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    chosen = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    texts = tokenizer.batch_decode(chosen, skip_special_tokens=True)
    assert len(set(map(len, texts))) > 1
    for prompt, text in zip(prompts, texts, strict=True):
        capsys.readouterr()
        invoke(
            "generate",
            [str(tmp_path / "model.ckpt"), "--prompt", prompt]
            + ["--tokens", "40", "--temperature", "0"],
        )
        assert capsys.readouterr().out == text + "\n"


def test_a_padding_token_of_its_own_is_exported(tmp_path):
    own = JsonTokenizer(train_bpe([TEXT], 270, ("<s>", "</s>", "<pad>")))
    facts = dict(tokenizer_json=own.to_json(), bos=own.bos, eos=own.eos)
    folder = export(new_backbone("ttt-linear", 270), tmp_path, own.name, **facts)
    assert AutoTokenizer.from_pretrained(folder).pad_token == "<pad>"
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.pad_token_id == 2


@EACH
def test_import_reads_an_export(name, tmp_path):
    backbone = new_backbone(name)
    invoke("import", [str(export(backbone, tmp_path)), str(tmp_path / "back.ckpt")])
    came = load_tokens_model(tmp_path / "back.ckpt")
    wanted, given = backbone.state_dict(), came.backbone.state_dict()
    assert_same_weights(wanted, given)
    assert came.backbone.config.mixer == backbone.config.mixer
    assert came.tokenizer == "unknown"


@pytest.mark.parametrize("name", ["ttt-linear", "mamba"])
def test_import_reads_a_folder_in_shards(name, tmp_path):
    backbone = new_backbone(name)
    load(backbone, tmp_path).save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 2
    arguments = [str(tmp_path / "shards"), str(tmp_path / "back.ckpt")]
    invoke("import", arguments)
    came = load_tokens_model(tmp_path / "back.ckpt")
    assert_same_weights(backbone.state_dict(), came.backbone.state_dict())
    shards[1].unlink()
    with pytest.raises(ValueError, match=f"{shards[1].name} cannot be read as safetensors"):
        invoke("import", arguments)
    (tmp_path / "shards" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="has no weight_map of names to files"):
        invoke("import", arguments)


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


def test_import_takes_marks_of_unusual_names(tmp_path):
    folder = export(new_backbone("ttt-linear", 270), tmp_path)
    (tmp_path / "words.json").write_text(train_bpe([TEXT], 270, ("[SEP]", "[CLS]")))
    arguments = [
        str(folder),
        str(tmp_path / "back.ckpt"),
        "--tokenizer",
        str(tmp_path / "words.json"),
    ]
    with pytest.raises(ValueError, match="name a token of it as --bos or --eos"):
        invoke("import", arguments)
    with pytest.raises(ValueError, match="--eos SEP is no token of .*near names are: .SEP."):
        invoke("import", [*arguments, "--eos", "SEP"])
    invoke("import", [*arguments, "--bos", "[CLS]", "--eos", "[SEP]"])
    came = load_tokens_model(tmp_path / "back.ckpt")
    assert (came.bos, came.eos) == (1, 0)
    for name in ("unknown", "bytes"):
        with pytest.raises(ValueError, match="--bos and --eos name tokens of a given tokenizer"):
            invoke("import", [*arguments[:3], name, "--bos", "[CLS]"])


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
