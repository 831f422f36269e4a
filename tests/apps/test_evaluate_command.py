"""`tttvideo evaluate text`: end to end on tiny models, its cache, its controls, and bad input."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tttvideo.apps.cli import main
from tttvideo.apps.evaluate import text as program
from tttvideo.apps.report import run_conditions, wanted_runs
from tttvideo.apps.show import text_report
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.data.text.tokenizer import JsonTokenizer, train_bpe
from tttvideo.data.tokens import Header, open_tokens, token_writer
from tttvideo.measures import meter as measure
from tttvideo.measures.names import mixer_name, traits
from tttvideo.measures.plan import PlanSettings, make_plan
from tttvideo.measures.subjects import byte_lengths, load_for, read_subjects
from tttvideo.mixers.attention import AttentionConfig
from tttvideo.mixers.linear_attention import LinearAttentionConfig
from tttvideo.mixers.mamba import MambaConfig
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.weights.checkpoints import TokenCheckpoint, save_tokens_model


BYTES = Header("text", "bytes", 258, bos=256, eos=257)
WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "saw", "me")
SMALL = ["--length", "200", "--reset", "40", "--contexts", "100", "--documents", "3"]


def write_documents(path, sizes, header=BYTES, tokenizer=None):
    random = np.random.default_rng(0)
    with token_writer(path, header) as out:
        for size in sizes:
            words = " ".join(random.choice(WORDS, size))
            tokens = tokenizer.encode(words) if tokenizer else list(words.encode())
            out.start_document()
            out.write(np.array([header.bos, *tokens, header.eos]))


def write_model(
    path,
    seed=0,
    mixer="ttt",
    vocab_size=258,
    tokenizer="bytes",
    json=None,
    width=8,
    window=None,
):
    torch.manual_seed(seed)
    sizes = {"vocab_size": vocab_size, "width": width, "depth": 2, "heads": 2, "mlp_width": 12}
    backbone = Backbone(BackboneConfig(**sizes, mixer=mixer, ttt=TTTConfig(base_lr=4.0)))
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for block in backbone.blocks if mixer == "ttt" else ():
        torch.nn.init.zeros_(block.mixer.token_shift)  # or steps could have length 0
    trained = window and {"tokens": 9, "flops": 9, "window": window, "steps": 1}
    save_tokens_model(TokenCheckpoint(backbone, tokenizer, json, trained=trained), path)
    return backbone


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with data.bin, and a.ckpt and b.ckpt that are seeds, and attention.ckpt."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_documents(folder / "data.bin", [60, 20, 70, 120, 100])
    write_model(folder / "a.ckpt", seed=0)
    write_model(folder / "b.ckpt", seed=1)
    write_model(folder / "attention.ckpt", mixer="attention")
    return folder


@pytest.fixture(autouse=True)
def inside(work, monkeypatch):
    monkeypatch.chdir(work)


def evaluate(*arguments, out="out"):
    main(["evaluate", "text", *arguments, "--out", str(out)])
    return json.loads(Path(out, "evaluation.json").read_text())


def meter(checkpoint, **options):
    defaults = {"length": 200, "reset": 40, "contexts": [100, 175], "targets": 2, "documents": 3}
    defaults |= {"batch": 64}
    data = open_tokens("data.bin")
    plan = make_plan(PlanSettings(**defaults | options), data, [])
    loaded = load_for(checkpoint, data)
    lengths = byte_lengths(loaded, data)
    read = []
    return measure.Meter(loaded.backbone, data, lengths, plan, read.append), read


def test_models_are_shown_as_tables_and_pictures(tmp_path, capsys):
    record = evaluate("a.ckpt", "b.ckpt", "soft=attention.ckpt", "data.bin", *SMALL, out=tmp_path)
    names = {"by_index.png", "fixed_targets.png", "inner_loss.png"}
    names |= {"evaluation.json", "evaluation.md", "cache"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all((tmp_path / n).read_bytes().startswith(b"\x89PNG") for n in names if "png" in n)
    assert [m["label"] for m in record["models"]] == ["TTT-Linear, base lr 4, 8x2"] * 2 + ["soft"]
    assert [bool(m["inner_loss"]) for m in record["models"]] == [True, True, False]
    page = (tmp_path / "evaluation.md").read_text()
    assert page in capsys.readouterr().out
    for words in ("Truncation: the first 201 tokens of 3", "Counting: BOS is never", "mean of 2"):
        assert words in page
    for m in record["models"]:
        assert list(m["fixed_targets"]) == ["0", "40", "100"]
        assert list(m["fixed_targets_shuffled"]) == ["40", "100"]
        assert m["whole"]["carried"]["tokens"] == m["whole"]["carried"]["bytes"] == 600
        bins = m["by_index"]["carried"]
        assert [b["first"] for b in bins[1:]] == [b["last"] + 1 for b in bins[:-1]]
        assert sum(b["tokens"] for b in bins) == 600 and bins[-1]["last"] == 200
        assert m["whole"]["carried"]["nats_per_token"]["interval"][0] > 0


@pytest.mark.parametrize(
    "windows, options, reset",
    [
        ([48], ["--length", "200"], 48),
        ([80, None, 48], ["--length", "200"], 48),
        ([48], ["--length", "200", "--reset", "60"], 60),
        ([48], [], 48),
        ([5000], ["--length", "1300", "--join"], 1024),  # no room for the window
        ([None], ["--length", "1300", "--join"], 1024),
    ],
    ids=str,
)
def test_the_control_is_reset_after_the_shortest_training_window(windows, options, reset, tmp_path):
    paths = [str(tmp_path / f"{n}.ckpt") for n in range(len(windows))]
    for path, window in zip(paths, windows, strict=True):
        write_model(path, mixer="attention", window=window)
    record = evaluate(*paths, "data.bin", *options, out=tmp_path / "out")
    assert record["reset"] == reset
    words = f"in the reset control it is fresh every {reset:,} tokens"
    page = (tmp_path / "out" / "evaluation.md").read_text()
    told = f"{words}, the shortest training window of the models." in page
    assert words in page and told == (reset in windows)


def test_a_default_reset_that_does_not_fit_the_length_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="--reset 1024 must be 175 or less, where --length is 200"):
        evaluate("a.ckpt", "data.bin", "--length", "200", out=tmp_path)


def test_a_second_run_reads_its_cache_and_another_setting_does_not(tmp_path, capsys, monkeypatch):
    first = evaluate("a.ckpt", "data.bin", *SMALL, out=tmp_path)
    capsys.readouterr()
    now = run_conditions("cpu")
    with monkeypatch.context() as patch:
        later = {**now, "date": "another day", "commit": "fff", "device": "another device"}
        for module in (program, text_report):
            patch.setattr(module, "run_conditions", lambda device: later)
        patch.setattr(measure, "token_costs", None)
        patch.setattr(measure, "reset_costs", None)
        second = evaluate("a.ckpt", "data.bin", *SMALL, out=tmp_path)
        assert "a.ckpt: read from" in capsys.readouterr().out
        with pytest.raises(TypeError):
            evaluate("b.ckpt", "data.bin", *SMALL, out=tmp_path)
    before, after = first["models"][0], second["models"][0]
    assert (before.pop("cached"), after.pop("cached")) == (False, True)
    assert before == after and after["measured"]["commit"] == now["commit"] != "fff"
    assert second["date"] == "another day"
    page = (tmp_path / "evaluation.md").read_text()
    assert f"| {now['date'][:10]}" in page and f"commit {now['commit']}, {now['device']} |" in page
    assert "another device" not in page
    evaluate("a.ckpt", "data.bin", *SMALL, "--reset", "30", out=tmp_path)
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("checkpoint", ["a.ckpt", "attention.ckpt"])
def test_costs_of_fixed_targets_equal_those_of_the_same_tokens_by_index(checkpoint):
    """Where the context is all of the document, and, of the control, everywhere."""
    found, _ = meter(checkpoint, targets=1)
    plan = found.plan
    assert (plan.places, plan.span, plan.contexts) == (pytest.approx(175), 25, (0, 40, 100, 175))
    rows = np.stack([found.data.tokens[b : b + 201].astype(np.int64) for b in plan.begins])
    here = slice(174, 199)  # column 0 is the cost of token 1
    whole = found.costs(rows)[:, here].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.fixed(175).nats, whole, rtol=1e-6)
    pieces = found.costs_of_pieces(rows)[:, here].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.fixed_reset().nats, pieces, rtol=1e-6)
    assert (abs(whole / pieces - 1) > 1e-5).all()


def test_only_targets_are_scored_and_the_plan_counts_all_work(tmp_path):
    found, read = meter("a.ckpt")
    measured = found.measure()
    assert sum(read) == found.plan.work(mini_batch=16)
    scored = [t.tokens for t in (*measured.fixed.values(), *measured.shuffled.values())]
    assert all((tokens == measured.fixed_reset.tokens).all() for tokens in scored)
    assert measured.fixed[0].tokens.sum() == len(found.plan.places) * found.plan.span
    measure.write_cache(tmp_path / "cache.json", measured, {"date": "today"})
    again, about = measure.read_cache(tmp_path / "cache.json")
    assert about == {"date": "today"}
    np.testing.assert_equal(asdict(again), asdict(measured))
    assert not measured.not_finite


def test_shuffled_context_costs_differ_but_read_as_much():
    found, _ = meter("attention.ckpt")
    true, other = found.fixed(100), found.fixed(100, other=True)
    assert (true.bytes == other.bytes).all() and (true.nats != other.nats).all()


def test_bytes_of_a_bpe_are_those_of_the_text(tmp_path):
    tokenizer = JsonTokenizer(train_bpe([" ".join(WORDS) * 20], 270))
    header = Header("text", tokenizer.name, 270, bos=tokenizer.bos, eos=tokenizer.eos)
    write_documents(tmp_path / "bpe.bin", [150, 170], header, tokenizer)
    write_model(tmp_path / "bpe.ckpt", 0, "ttt", 270, tokenizer.name, tokenizer.to_json())
    short = ["--length", "120", "--reset", "16"]
    record = evaluate(str(tmp_path / "bpe.ckpt"), str(tmp_path / "bpe.bin"), *short, out=tmp_path)
    data = open_tokens(tmp_path / "bpe.bin")
    read = [tokenizer.decode(data.tokens[int(s) : int(s) + 121].tolist()) for s in data.starts]
    whole = record["models"][0]["whole"]["carried"]
    assert whole["tokens"] == 240 and whole["bytes"] == sum(len(t.encode()) for t in read) > 240
    nats = whole["nats_per_token"]["value"] * 240
    bits = nats / np.log(2) / whole["bytes"]
    assert whole["bits_per_byte"]["value"] == pytest.approx(bits)


def test_only_seeds_of_one_model_share_a_default_name(tmp_path):
    for name, width in (("one", 8), ("two", 8)):
        write_model(tmp_path / name / "last.ckpt", width=width)
    backbone = Backbone(BackboneConfig(258, 8, 2, 2, mlp_width=16, ttt=TTTConfig(base_lr=4.0)))
    save_tokens_model(TokenCheckpoint(backbone, "bytes"), tmp_path / "three" / "last.ckpt")
    paths = [str(tmp_path / name / "last.ckpt") for name in ("one", "two", "three")]
    data, unnamed = open_tokens("data.bin"), [("", path) for path in paths]
    assert {s.label for s in read_subjects(unnamed[:2], data)} == {"TTT-Linear, base lr 4, 8x2"}
    labels = [s.label for s in read_subjects(unnamed, data)]
    assert labels == [f"TTT-Linear, base lr 4, 8x2 ({name})" for name in ("one", "two", "three")]
    named = read_subjects([("x", paths[0]), ("x", paths[2])], data)
    assert [s.label for s in named] == ["x", "x"]


PLAIN = TTTConfig(mini_batch_size=2048, backbone="transformer", learn_start=False, norm=False)
PLAIN = replace(PLAIN, learn_step=False)
NAMES = {
    "TTT-Linear": {},
    "TTT-Linear (T)": {"ttt": TTTConfig(backbone="transformer")},
    "TTT-Linear, mini-batch 2,048": {"ttt": TTTConfig(mini_batch_size=2048)},
    "TTT-MLP, base lr 1": {"ttt": TTTConfig(inner="mlp", base_lr=1.0)},
    "TTT-Linear (T), mini-batch 2,048, W0 of zeros, no norm, no learned steps": {"ttt": PLAIN},
    "TTT-Linear, no gate, rope 500k": {"ttt": TTTConfig(gate=False, rope_theta=500000.0)},
    "TTT-Linear, carry 2, forgetting": {"ttt": TTTConfig(carry=2.0, forget=True)},
    "TTT-Linear, no SwiGLU": {"mlp_width": 0},
    "Transformer": {"mixer": "attention"},
    "Transformer, rope 500k, sliding window 1,024": {
        "mixer": "attention",
        "attention": AttentionConfig(500000.0, 1024),
    },
    "linear attention": {"mixer": "linear_attention"},
    "linear attention, no normaliser": {
        "mixer": "linear_attention",
        "linear_attention": LinearAttentionConfig(normalise=False),
    },
    "Gated DeltaNet": {"mixer": "gated_delta"},
    "Mamba": {"mixer": "mamba", "mlp_width": 0},
    "Mamba, SwiGLU": {"mixer": "mamba"},
    "Mamba-2, state 16": {"mixer": "mamba2", "mlp_width": 0, "mamba": MambaConfig(d_state=16)},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_named_by_its_mixer_and_its_unusual_settings(name):
    config = BackboneConfig(**NAMES[name])
    assert mixer_name(config) == name
    assert "backend" not in traits(config)  # who computes it is no trait
    other_size = replace(config, vocab_size=99, width=48, depth=1, heads=3)
    assert mixer_name(other_size) == name


OTHER = {"inner": "mlp", "mini_batch_size": 7, "base_lr": 7.0, "backbone": "transformer"}
OTHER |= {"conv_kernel": 5, "rope_theta": 10000.5, "window": 7}
OTHER |= {
    "carry": 7.0,
    "forget": True,
    "address": "place",
    "d_state": 7,
    "expand": 3,
    "head_dim": 32,
    "hidden": 7,
    "first_step": 7.0,
    "first_decay": 7.0,
}
OTHER |= dict.fromkeys(("share_qk", "gate", "pre_conv", "learn_start", "norm"), False)
OTHER |= dict.fromkeys(("learn_step", "normalise", "causal"), False)


@pytest.mark.parametrize(
    "mixer", ["ttt", "attention", "linear_attention", "gated_delta", "mamba", "mamba2", "lstm"]
)
def test_no_two_models_that_differ_in_more_than_size_have_one_name(mixer):
    config = BackboneConfig(mixer=mixer)
    within = {"mamba2": "mamba"}.get(mixer, mixer)
    own, others = getattr(config, within), [replace(config, norm_eps=1e-5)]
    for field in fields(own):
        text = field.name not in ("backend", "blocks")  # who computes it; what frames alone have
        if text and (mixer, field.name) != ("mamba", "head_dim"):
            other = replace(own, **{field.name: OTHER[field.name]})
            others.append(replace(config, **{within: other}))
    assert len({mixer_name(one) for one in (config, *others)}) == 1 + len(others)


@pytest.mark.parametrize("place", ["some", "all"])
def test_a_model_that_diverges_is_named_and_the_rest_is_written(tmp_path, monkeypatch, place):
    """From token index 151 on, or everywhere: null in JSON, a word in the table."""
    first = 151 if place == "some" else 1

    def broken(backbone, tokens, *rest):
        found = token_costs(backbone, tokens, *rest).clone()
        if backbone.config.mixer == "attention":
            index = torch.arange(tokens.shape[1])[-found.shape[1] :]
            found[:, index >= first] = torch.inf
        return found

    token_costs = measure.token_costs
    monkeypatch.setattr(measure, "token_costs", broken)
    record = evaluate("a.ckpt", "soft=attention.ckpt", "data.bin", *SMALL, out=tmp_path)
    good, bad = record["models"]
    assert not good["not_finite"] and bad["not_finite"]["carried"] == first
    assert bad["whole"]["carried"]["nats_per_token"]["value"] is None
    assert bad["whole"]["carried"]["perplexity"] is None
    assert good["whole"]["carried"]["nats_per_token"]["error"] > 0
    values = [b["bits_per_byte"]["value"] for b in bad["by_index"]["carried"]]
    assert (values[0] is None) == (place == "all") and values[-1] is None
    page = (tmp_path / "evaluation.md").read_text()
    assert "soft, attention.ckpt, diverged. Its loss is not finite in some" in page
    assert f"carried from token index {first} on" in page and "nan" not in page
    assert "| diverged " in page
    monkeypatch.setattr(program, "draw_text_figures", lambda *_: None)  # drawn above
    evaluate("soft=attention.ckpt", "data.bin", *SMALL, out=tmp_path)  # from the cache too
    assert f"carried from token index {first} on" in (tmp_path / "evaluation.md").read_text()


def test_documents_that_are_too_short_can_be_joined(tmp_path):
    join = ["--length", "600", "--reset", "64", "--join"]
    record = evaluate("a.ckpt", "data.bin", *join, out=tmp_path)
    whole = record["models"][0]["whole"]["carried"]
    stream = open_tokens("data.bin").tokens[:601].tolist()
    marks = stream[1:].count(256), stream[1:].count(257)
    assert record["documents"] == 1 and min(marks) > 0
    assert (whole["tokens"], whole["bytes"]) == (600 - marks[0], 600 - sum(marks))
    assert whole["nats_per_token"]["interval"] is None
    assert "No shuffled context: one document" in record["rules"][4]
    assert "stretches of consecutive documents" in record["rules"][0]


@pytest.fixture(scope="module")
def bad(work):
    """Checkpoints and data that cannot be measured."""
    broken = write_model(work / "nan.ckpt")
    with torch.no_grad():
        broken.blocks[1].mixer.o_proj.weight[0, 0] = torch.nan
    save_tokens_model(TokenCheckpoint(broken, "bytes"), work / "nan.ckpt")
    write_model(work / "large.ckpt", vocab_size=300)
    write_model(work / "words.ckpt", tokenizer="abc")
    write_model(work / "imported.ckpt", tokenizer="unknown")
    (work / "cut.bin").write_bytes((work / "data.bin").read_bytes()[:-100])
    with token_writer(work / "clip.bin", Header("video", "x", 258, (2, 2))) as out:
        out.start_document()
        out.write(np.zeros(400, int))
    return work


WRONG = {
    "nan.ckpt data.bin": "1 of the 64 numbers in blocks.1.mixer.o_proj.weight are not finite",
    "large.ckpt data.bin": "large.ckpt has a vocabulary of 300, and data.bin one of 258",
    "words.ckpt data.bin": "words.ckpt reads tokens of abc, and data.bin holds tokens of bytes",
    "imported.ckpt data.bin": "holds tokens of bytes; import it with its --tokenizer",
    "a.ckpt cut.bin": "it was cut off or changed: prepare it again",
    "a.ckpt clip.bin": "clip.bin holds video; only text can be measured here",
    "a.ckpt none.bin": "there is no token file none.bin",
    "none.ckpt data.bin": "there is no checkpoint none.ckpt",
    "a.ckpt data.bin --length 5000": "no document has 5,001 tokens, the longest has",
    "a.ckpt data.bin --length 200 --reset 176": "--reset 176 must be 175 or less, where --length",
    "a.ckpt data.bin --length 200 --reset 9 --contexts 176": "--contexts must be from 0 to 175",
    "a.ckpt data.bin --targets 0": "--targets 0 must be 1 or more",
}


@pytest.mark.parametrize("line", WRONG)
def test_bad_input_gets_one_clear_line(bad, line, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "text", *line.split(), "--out", str(tmp_path / "out")])
    assert WRONG[line] in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_checkpoint_argument_is_named():
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "text", "data.bin", "--out", "x"])
    assert "the following arguments are required: DATA" in str(stopped.value)


def test_a_page_shows_only_the_runs_that_were_asked_for(tmp_path):
    runs = [{"memory": name, "seed": seed} for name in ("a", "b") for seed in (0, 1)]
    path = tmp_path / "capacity.json"
    path.write_text(json.dumps({"date": "then", "runs": runs}))
    found = wanted_runs(path, {("a", 1), ("b", 0)}, "memory", "seed")
    assert found == {"date": "then", "runs": [runs[1], runs[2]]}
