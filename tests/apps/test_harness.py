"""Laws of the requests of lm-evaluation-harness, against the logits of a checkpoint; offline."""

import json
import math
import random

import pytest
import torch


lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from helpers.exported import export_bytes, new_backbone  # noqa: E402
from tttvideo.apps.commands import invoke  # noqa: E402
from tttvideo.apps.evaluate.harness_model import Generation, TTTVideoLM  # noqa: E402
from tttvideo.backbone import Backbone, BackboneConfig  # noqa: E402
from tttvideo.data.text.tokenizer import ByteTokenizer, JsonTokenizer, train_bpe  # noqa: E402
from tttvideo.mixers.ttt import TTTConfig  # noqa: E402
from tttvideo.weights.checkpoints import TokenCheckpoint, save_tokens_model  # noqa: E402


QUESTIONS = [
    {"question": "one and one", "choices": [" two", " three", " a fish"], "answer": 0},
    {"question": "Zürich is in", "choices": [" Peru", " der Schweiz", " x"], "answer": 1},
    {"question": "after three", "choices": [" two", " four", " three and"], "answer": 1},
]
DOCUMENTS = [{"text": "The state learns while it reads.\n" * 4}, {"text": "☃ and a\ttab"}]
CHOICE = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc}]
"""
ROLLING = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}, {metric: bits_per_byte}]
"""
UNTIL = """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{continuation}}"
generation_kwargs: {until: STOPS, max_gen_toks: 12, temperature: 0.0}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


@pytest.fixture(params=["bytes", "json"])
def checkpoint(request, tmp_path):
    texts = [q["question"] for q in QUESTIONS] + [d["text"] for d in DOCUMENTS]
    bpe = request.param == "json"
    return new_checkpoint(
        tmp_path / "model.ckpt", JsonTokenizer(train_bpe(texts, 275)) if bpe else ByteTokenizer()
    )


def new_checkpoint(path, tokenizer):
    torch.manual_seed(0)
    sizes = dict(vocab_size=tokenizer.vocab_size, width=32, depth=2, heads=2, mlp_width=24)
    backbone = Backbone(BackboneConfig(**sizes, ttt=TTTConfig(mini_batch_size=4)))
    for parameter in backbone.parameters():
        parameter.data += torch.randn_like(parameter) * 0.2
    marks = tokenizer.bos, tokenizer.eos
    save_tokens_model(TokenCheckpoint(backbone, tokenizer.name, tokenizer.to_json(), *marks), path)
    return path


def log_probabilities(model, context, continuation):
    """(nats, greedy) of a continuation's tokens, from the logits of one call."""
    tokens = torch.tensor([[model.text.bos, *context, *continuation]])
    with torch.no_grad():
        guesses = model.backbone(tokens)[0][0].log_softmax(-1)
    places = range(len(context), tokens.shape[1] - 1)
    nats = sum(guesses[place, tokens[0, place + 1]].item() for place in places)
    return nats, all(guesses[place].argmax() == tokens[0, place + 1] for place in places)


def evaluate(model, folder, name, task, rows):
    """The results and samples of one task, of data that lies in `folder`."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(folder / "rows.jsonl")},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
    }
    tasks = folder / "tasks"
    tasks.mkdir()
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in source.items())
    (tasks / f"{name}.yaml").write_text(yaml + task)
    if model is None:
        return None
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model=model, tasks=[name], task_manager=manager, bootstrap_iters=0
    )
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    return results["results"][name], samples


def test_the_model_is_registered_in_the_harness():
    assert get_model("tttvideo") is TTTVideoLM


def test_choices_get_the_likelihoods_of_the_logits(checkpoint, tmp_path):
    model = TTTVideoLM(str(checkpoint), device="cpu", chunk=5, batch_size=2)
    results, samples = evaluate(model, tmp_path, "choice", CHOICE, QUESTIONS)
    right = []
    for question, sample in zip(QUESTIONS, samples, strict=True):
        context = model.tok_encode(question["question"])
        nats = []
        for choice, (came, greedy) in zip(
            question["choices"], (r[0] for r in sample["resps"]), strict=True
        ):
            whole = model.tok_encode(question["question"] + choice)
            wanted = log_probabilities(model, context, whole[len(context) :])
            assert float(came) == pytest.approx(wanted[0], rel=1e-4)
            assert (greedy in (True, "True")) == wanted[1]
            nats.append(wanted[0])
        right.append(max(range(3), key=nats.__getitem__) == question["answer"])
    assert results["acc,none"] == pytest.approx(sum(right) / 3)


def test_a_greedy_continuation_is_reported_as_greedy(checkpoint):
    model = TTTVideoLM(str(checkpoint), device="cpu")
    context, continuation = model.tok_encode("after three"), []
    for _ in range(4):
        with torch.no_grad():
            logits = model.backbone(torch.tensor([[model.text.bos, *context, *continuation]]))[0]
        continuation.append(logits[0, -1].argmax().item())
    (nats, greedy), (_, other) = model._loglikelihood_tokens(
        [
            (("", ""), context, continuation),
            (("", ""), context, [continuation[0], (continuation[1] + 1) % 256]),
        ]
    )
    assert greedy and not other
    assert nats == pytest.approx(log_probabilities(model, context, continuation)[0], rel=1e-4)


def test_whole_documents_are_scored_from_their_first_mark(checkpoint, tmp_path):
    model = TTTVideoLM(str(checkpoint), device="cpu", chunk=7, batch_size=2)
    results, _ = evaluate(model, tmp_path, "rolling", ROLLING, DOCUMENTS)
    texts = [document["text"] for document in DOCUMENTS]
    nats = sum(log_probabilities(model, [], model.tok_encode(text))[0] for text in texts)
    size = sum(len(text.encode()) for text in texts)
    assert results["bits_per_byte,none"] == pytest.approx(-nats / size / math.log(2), rel=1e-4)
    assert results["byte_perplexity,none"] == pytest.approx(math.exp(-nats / size), rel=1e-4)


def greedy_text(model, text, count):
    """The greedy continuation, token by token, each from the logits of all tokens before it."""
    tokens = [model.text.bos, *model.tok_encode(text)]
    continuation = []
    for _ in range(count):
        with torch.no_grad():
            token = model.backbone(torch.tensor([tokens + continuation]))[0][0, -1].argmax().item()
        if token == model.text.eos:
            break
        continuation.append(token)
    return model.text.decoder()(continuation, final=True)


def test_texts_are_continued_greedily_until_a_stop_string(checkpoint, tmp_path):
    model = TTTVideoLM(str(checkpoint), device="cpu", batch_size=2)
    wanted = [greedy_text(model, q["question"], 12) for q in QUESTIONS]
    stop = wanted[0][2:4]
    rows = [
        {**question, "continuation": text.split(stop)[0]}
        for question, text in zip(QUESTIONS, wanted, strict=True)
    ]
    assert len(rows[0]["continuation"]) <= 2 < len(wanted[0])
    task = UNTIL.replace("STOPS", json.dumps([stop]))
    results, samples = evaluate(model, tmp_path, "until", task, rows)
    assert [sample["resps"][0][0] for sample in samples] == [row["continuation"] for row in rows]
    assert results["exact_match,none"] == 1


def continuations(model, texts, **settings):
    requests = [Instance("generate_until", {}, (text, settings), n) for n, text in enumerate(texts)]
    return model.generate_until(requests)


def test_a_text_ends_at_the_documents_end(checkpoint):
    """The mark of the end is the most probable token after three others."""
    model = TTTVideoLM(str(checkpoint), device="cpu")
    (whole,) = continuations(model, ["one"], max_gen_toks=9)
    tokens = model.text.encode(whole)
    with torch.no_grad():
        table = model.backbone.embedding.weight
        seen = torch.tensor([[model.text.bos, *model.text.encode("one"), *tokens[:3]]])
        table[model.eot_token_id] = 99 * model.backbone.features(seen)[0][0, -1]
    (text,) = continuations(model, ["one"], max_gen_toks=9)
    assert text == greedy_text(model, "one", 9) != whole


def test_a_question_is_read_once_for_all_its_choices(checkpoint):
    """And the last token of a choice, after which nothing is scored, never."""
    model = TTTVideoLM(str(checkpoint), device="cpu", batch_size=3)
    read = []
    block = model.backbone.blocks[0]
    block.register_forward_pre_hook(lambda _, inputs: read.append(inputs[1].lengths))
    asked = [([5] * 40, [6, 7, 8]), ([5] * 12, [6, 7]), ([5] * 40, [8]), ([5] * 40, [9] * 5)]
    model._loglikelihood_tokens([(("", ""), *pair) for pair in asked])
    assert read == [(41, 13), (4, 2, 1)]


@pytest.mark.parametrize("name", ["ttt-linear", "attention"])
def test_requests_in_batches_get_the_answers_of_single_ones(name, tmp_path):
    """Of any lengths, empty ones among them; in float64 to rounding."""
    own = ByteTokenizer()
    facts = TokenCheckpoint(new_backbone(name, 258), own.name, bos=own.bos, eos=own.eos)
    save_tokens_model(facts, tmp_path / "model.ckpt")
    one, many = (
        TTTVideoLM(str(tmp_path / "model.ckpt"), "cpu", chunk=7, batch_size=size)
        for size in (1, 32)
    )
    for model in (one, many):
        model.backbone.double()
    draw = random.Random(0)
    texts = [[draw.randrange(256) for _ in range(draw.randrange(1, 30))] for _ in range(12)]
    asked = [(("", ""), context, texts[-n][: n % 5]) for n, context in enumerate(texts)]
    single, batched = one._loglikelihood_tokens(asked), many._loglikelihood_tokens(asked)
    assert {bool(nats) for nats, _ in single} == {True, False}
    for (nats, greedy), (other, also) in zip(single, batched, strict=True):
        assert nats == pytest.approx(other, rel=1e-12) and greedy == also
    prompts = [bytes(b % 128 for b in text).decode() for text in texts]
    for how in ({}, {"do_sample": True, "temperature": 1.0}):
        both = []
        for model in (one, many):
            torch.manual_seed(3)
            both.append(continuations(model, prompts, max_gen_toks=6, until=["e"], **how))
        assert both[0] == both[1] and len(set(both[0])) > 6


@pytest.mark.parametrize("name", ["ttt-linear", "ttt-forget", "mamba2"])
def test_the_export_gives_the_harnesss_own_model_equal_likelihoods(name, tmp_path):
    folder = export_bytes(name, tmp_path)
    own = TTTVideoLM(str(tmp_path / "model.ckpt"), device="cpu")
    exported = HFLM(str(folder), device="cpu", batch_size=4)
    pairs = [(q["question"], choice) for q in QUESTIONS for choice in q["choices"]]
    choices = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)]
    for (nats, greedy), (other, also) in zip(
        own.loglikelihood(choices), exported.loglikelihood(choices), strict=True
    ):
        assert nats == pytest.approx(other, rel=1e-4) and greedy == also
    whole = [
        Instance("loglikelihood_rolling", {}, (document["text"],), n)
        for n, document in enumerate(DOCUMENTS)
    ]
    exported.add_bos_token = False  # else the harness scores one BOS after another
    assert own.loglikelihood_rolling(whole) == pytest.approx(
        exported.loglikelihood_rolling(whole), rel=1e-5
    )
    exported.add_bos_token = True
    prompts = [question["question"] for question in QUESTIONS]
    how = dict(until=["zz"], max_gen_toks=8)
    assert continuations(own, prompts, **how) == continuations(exported, prompts, **how)


def test_a_context_is_not_cut_off_and_the_chunk_does_not_matter(checkpoint):
    long = [3, 1, 4, 1, 5, 9, 2, 6] * 400
    asked = [(("", ""), long, [7, 8, 9]), (("", ""), [9, *long[1:]], [7, 8, 9])]
    whole = TTTVideoLM(str(checkpoint), device="cpu", chunk=9999)._loglikelihood_tokens(asked)
    cut = TTTVideoLM(str(checkpoint), device="cpu", chunk=64)._loglikelihood_tokens(asked)
    for one, other in zip(whole, cut, strict=True):
        assert one[0] == pytest.approx(other[0], rel=1e-3)
    short = whole[0][0] - log_probabilities(TTTVideoLM(str(checkpoint)), long[-8:], [7, 8, 9])[0]
    assert abs(short) > 1e-3  # the context does matter


def test_sampling_is_repeatable_under_the_harness_seed(checkpoint):
    model = TTTVideoLM(str(checkpoint), device="cpu")
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts += continuations(model, ["one"], temperature=1.0, max_gen_toks=20)
    assert texts[0] == texts[1] != texts[2]


def test_generation_settings_of_a_task_are_read_or_refused():
    given = {"until": "\n", "max_gen_toks": 7, "do_sample": True, "temperature": 0.5}
    assert Generation.read(given) == Generation(("\n",), 7, 0.5, 0, 1.0)
    assert Generation.read({"until": ["a", ""], "num_beams": 1}).temperature == 0
    with pytest.raises(ValueError, match="num_beams is 4; only 1 is possible"):
        Generation.read({"num_beams": 4})
    with pytest.raises(ValueError, match="'repetition_penalty' is none of do_sample, max_gen_toks"):
        Generation.read({"repetition_penalty": 1.2})
    with pytest.raises(ValueError, match="top-p 2"):
        Generation.read({"do_sample": True, "temperature": 1.0, "top_p": 2})


def test_a_model_without_text_or_marks_is_refused(tmp_path):
    backbone = Backbone(BackboneConfig(vocab_size=256, width=16, depth=1, heads=1))
    for tokenizer, message in (("unknown", "tokens of unknown"), ("bytes", "has no marks")):
        save_tokens_model(TokenCheckpoint(backbone, tokenizer), tmp_path / "model.ckpt")
        with pytest.raises(ValueError, match=message):
            TTTVideoLM(str(tmp_path / "model.ckpt"))


def run_command(*arguments):
    invoke("evaluate harness", [*arguments])


def test_the_command_writes_its_results_and_prints_them(tmp_path, capsys, monkeypatch):
    checkpoint = new_checkpoint(tmp_path / "model.ckpt", ByteTokenizer())
    evaluate(None, tmp_path, "my_choice", CHOICE, QUESTIONS)
    out = tmp_path / "out"
    where = ["--include-path", str(tmp_path / "tasks"), "--out", str(out), "--device", "cpu"]
    run_command(str(checkpoint), "--tasks", "my_choice", *where, "--limit", "2")
    assert "my_choice" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert 0 <= results["results"]["my_choice"]["acc,none"] <= 1
    assert results["n-samples"]["my_choice"]["effective"] == 2
    real = TaskManager
    monkeypatch.setattr(  # the list of the library's own takes half a minute
        "tttvideo.apps.evaluate.harness.TaskManager",
        lambda **how: real(**how | {"include_defaults": False}),
    )
    with pytest.raises(ValueError, match="'my_choise', which is no task"):
        run_command(str(checkpoint), "--tasks", "my_choice,my_choise", *where)
    with pytest.raises(ValueError, match="--batch-size 0 must be 1 or more"):
        run_command(str(checkpoint), "--tasks", "my_choice", *where, "--batch-size", "0")
    with pytest.raises(ValueError, match="--limit 0 must be 1 or more"):
        run_command(str(checkpoint), "--tasks", "my_choice", *where, "--limit", "0")


def test_a_task_of_four_beams_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    checkpoint = new_checkpoint(tmp_path / "model.ckpt", ByteTokenizer())
    beams = UNTIL.replace("STOPS", '["x"], num_beams: 4')
    evaluate(None, tmp_path, "my_beams", beams, [{"question": "a", "continuation": "b"}])
    monkeypatch.setattr("tttvideo.apps.evaluate.harness.TTTVideoLM", None)
    where = ["--include-path", str(tmp_path / "tasks"), "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="task my_beams: generation_kwargs num_beams is 4"):
        run_command(str(checkpoint), "--tasks", "my_beams", *where)


def test_the_harness_builds_the_model_by_its_name(tmp_path):
    checkpoint = new_checkpoint(tmp_path / "model.ckpt", ByteTokenizer())
    model = get_model("tttvideo").create_from_arg_string(
        f"checkpoint={checkpoint}", {"batch_size": "8", "max_batch_size": None, "device": "cpu"}
    )
    assert model.batch_size == 8
    with pytest.raises(ValueError, match="batch_size auto must be a number of requests"):
        TTTVideoLM(str(checkpoint), batch_size="auto")
