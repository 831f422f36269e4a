"""Laws of training inside transformers: Trainer, checkpoints of activations, adapters of PEFT."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

from helpers.exported import EACH_BOTH, LINEAR, export_bytes, some_tokens
from tttvideo.apps.commands import invoke
from tttvideo.weights.checkpoints import load_tokens_model


TWO = pytest.mark.parametrize("name", ["ttt-linear", "mamba"])  # a layout on disk each
PEFTS_OWN = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
CLOSE = dict(rtol=1e-4, atol=1e-5)


def training(model, folder, tokenizer, **options):
    """A Trainer for rows of different lengths, which evaluates and saves at every step."""
    rows = [{"input_ids": tokenizer("ab" * count)["input_ids"]} for count in range(2, 10)]
    rows = [{**row, "labels": row["input_ids"]} for row in rows]
    every = dict(eval_strategy="steps", eval_steps=1, save_steps=1, load_best_model_at_end=True)
    quiet = dict(report_to="none", disable_tqdm=True, use_cpu=True)
    options = TrainingArguments(folder / "trained", max_steps=4, **every, **quiet, **options)
    collate = DataCollatorForSeq2Seq(tokenizer)
    return Trainer(model, options, collate, train_dataset=rows, eval_dataset=rows[:3])


@TWO
def test_trainer_evaluates_predicts_and_ends_with_the_best_model(name, tmp_path):
    folder = export_bytes(name, tmp_path)
    model, tokenizer = (x.from_pretrained(folder) for x in (AutoModelForCausalLM, AutoTokenizer))
    trainer = training(model, tmp_path, tokenizer, learning_rate=1.0, warmup_steps=2)
    trainer.train()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert len(losses) == 4 and min(losses) < losses[-1] - 1
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-5)
    assert trainer.predict(trainer.eval_dataset).predictions.shape == (3, 9, 258)


@TWO
def test_trainer_resumes_from_its_own_checkpoint(name, tmp_path):
    folder = export_bytes(name, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole, again = (AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
    training(whole, tmp_path, tokenizer).train()
    training(again, tmp_path, tokenizer).train(str(tmp_path / "trained" / "checkpoint-2"))
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@TWO
def test_labels_that_trainer_smooths_are_those_of_the_next_token(name, tmp_path):
    folder = export_bytes(name, tmp_path)
    model, tokenizer = (x.from_pretrained(folder) for x in (AutoModelForCausalLM, AutoTokenizer))
    smoothed = training(model, tmp_path, tokenizer, label_smoothing_factor=1e-7).evaluate()
    plain = training(model, tmp_path, tokenizer).evaluate()
    assert smoothed["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-4)


@LINEAR
def test_a_loss_over_several_batches_is_divided_by_their_tokens(both):
    _, model = both
    tokens = some_tokens(2, 9)
    labels = tokens.clone()
    labels[1, 4:] = -100
    whole = model(tokens, labels=labels).loss
    parts = [
        model(tokens[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=11) for i in (0, 1)
    ]
    torch.testing.assert_close(parts[0].loss + parts[1].loss, whole)


@EACH_BOTH
def test_checkpoints_of_activations_change_no_gradient(both):
    _, model = both
    tokens, mask = some_tokens(3, 9), torch.ones(3, 9, dtype=torch.long)
    mask[0, 5:] = 0
    calls = []
    model.backbone.blocks[0].register_forward_pre_hook(lambda *_: calls.append(None))

    def gradients():
        model.train().zero_grad()
        calls.clear()
        model(tokens, attention_mask=mask, labels=tokens).loss.backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters()}

    wanted, before = gradients(), len(calls)
    with pytest.warns(FutureWarning, match="`gradient_checkpointing_enable` is deprecated"):
        model.gradient_checkpointing_enable()
    found = gradients()
    assert len(calls) == 2 * before  # once more in the backward pass
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, **CLOSE, msg=name)
    model.activation_checkpointing_disable()
    gradients()
    assert len(calls) == before
    model.backbone.blocks[1].register_forward_pre_hook(lambda *_: calls.append(None))
    model.activation_checkpointing_enable(every_n_layers=2)  # the first of two blocks
    found = gradients()
    assert len(calls) == 3 * before
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, **CLOSE, msg=name)


@pytest.mark.filterwarnings(PEFTS_OWN)
@TWO
def test_an_adapter_is_trained_saved_loaded_and_merged(name, tmp_path):
    folder = export_bytes(name, tmp_path)
    base, tokenizer = (x.from_pretrained(folder) for x in (AutoModelForCausalLM, AutoTokenizer))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    trainer = training(
        model, tmp_path, tokenizer, learning_rate=1e-2, activation_checkpointing=True
    )
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < first
    model.save_pretrained(tmp_path / "adapter")
    inputs = tokenizer(["abab", "ab", "ababab"], return_tensors="pt", padding=True)
    wanted = model.eval()(**inputs).logits
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert not torch.allclose(plain(**inputs).logits, wanted, rtol=1e-2)
    loaded = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    torch.testing.assert_close(loaded(**inputs).logits, wanted, **CLOSE)
    loaded.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(**inputs).logits, wanted, **CLOSE)
    invoke("import", [str(tmp_path / "merged"), str(tmp_path / "back.ckpt")])
    back = load_tokens_model(tmp_path / "back.ckpt").backbone
    torch.testing.assert_close(back(inputs["input_ids"][2:])[0], wanted[2:], **CLOSE)
