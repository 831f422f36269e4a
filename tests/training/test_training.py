"""Laws of the outer loop."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from helpers.gradients import kept_and_gradients
from helpers.states import assert_same_state, leaves
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.data.modules import TokenData
from tttvideo.data.order import Window
from tttvideo.data.text.documents import BYTES
from tttvideo.data.tokens import Header
from tttvideo.measures.video import psnr
from tttvideo.mixers import registry
from tttvideo.mixers.mamba import MambaConfig
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.training.frames import FrameTokenizerModel
from tttvideo.training.lanes import weigh
from tttvideo.training.outer_loop import OptimConfig
from tttvideo.training.tokens import TokenModel
from tttvideo.video.frame_tokenizer import FrameTokenizer, FrameTokenizerConfig
from tttvideo.weights.checkpoints import TokenCheckpoint, save_tokens_model


def model(
    inner="linear",
    mixer="ttt",
    header=BYTES,
    tokenizer=None,
    start_from=None,
    checkpointing=False,
    **optim,
):
    """A TokenModel, attached to a trainer of 100 steps."""
    torch.manual_seed(0)
    ttt = TTTConfig(inner=inner, mini_batch_size=4)
    sizes = {"width": 16, "depth": 2, "heads": 2, "mlp_width": 24, "window_frames": 1}
    mamba = MambaConfig(head_dim=8)
    config = BackboneConfig(**sizes, mixer=mixer, ttt=ttt, mamba=mamba)
    module = TokenModel(config, header, OptimConfig(**optim), tokenizer, start_from, checkpointing)
    data = SimpleNamespace(lanes=False, share_fresh=0.3, seed=0, tokenizer_json=None)
    module._trainer = SimpleNamespace(
        datamodule=data,
        estimated_stepping_batches=100,
        global_step=0,
        max_steps=100,
        world_size=1,
        global_rank=0,
        state=SimpleNamespace(fn="fit"),
    )
    return module


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine():
    module = model(lr=1e-2, final_lr=1e-4, warmup=0.1)
    setup = module.configure_optimizers()
    optimizer, schedule = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([1e-3 * n for n in range(1, 11)])
    assert rates[10] == pytest.approx(1e-2)
    assert rates[55] == pytest.approx((1e-2 + 1e-4) / 2)
    assert rates[100] == pytest.approx(1e-4)


def test_adamw_decays_every_parameter_as_in_the_paper():
    module = model()
    (group,) = module.configure_optimizers()["optimizer"].param_groups
    assert group["betas"] == (0.9, 0.95) and group["weight_decay"] == 0.1
    assert len(group["params"]) == len(list(module.backbone.parameters()))


@pytest.mark.parametrize(
    "inner, factors", [("mlp", [0.1, 0.55, 1.0, 1.0]), ("linear", [1.0, 1.0, 1.0, 1.0])]
)
def test_the_inner_learning_rate_of_an_mlp_is_warmed_up_and_full_when_measured(inner, factors):
    module = model(inner, warmup=0.2)
    module.configure_optimizers()
    layer, x = module.backbone.blocks[0].mixer, torch.randn(1, 3, 16)
    full = layer.eta(x)
    for step, factor in zip((0, 10, 20, 99), factors, strict=True):
        module._trainer.global_step = step
        module.on_train_batch_start(None, 0)
        torch.testing.assert_close(layer.eta(x), factor * full)
        module.on_validation_start()
        torch.testing.assert_close(layer.eta(x), full)


def test_the_loss_is_the_mean_cost_of_the_next_token_excluding_bos():
    module, batch = model(), torch.randint(256, (3, 9))
    batch[1, 4] = batch[2, 0] = BYTES.bos
    logits = module.backbone(batch[:, :-1])[0].log_softmax(-1)
    places = [(b, t) for b in range(3) for t in range(8) if (b, t + 1) != (1, 4)]
    costs = torch.stack([-logits[b, t, batch[b, t + 1]] for b, t in places])
    read, _ = module.read(batch[:, :-1], None, None)
    torch.testing.assert_close(module.loss(read, batch[:, 1:]), costs.mean())


MIXERS = pytest.mark.parametrize("mixer", registry.MIXERS)


@MIXERS
def test_checkpoints_of_activations_keep_less_and_change_no_gradient(mixer):
    """Also of documents in a window, and of rows whose states differ in structure."""
    tokens, begins = torch.randint(256, (2, 25)), torch.zeros(2, 24, dtype=torch.bool)
    begins[0, 5] = True
    found = []
    for checkpointing in (False, True):
        module = model(mixer=mixer, checkpointing=checkpointing).double()

        def step(module=module):
            whole, states = module.read(tokens[:, :-1], None, None)
            parts, _ = module.read(
                tokens[:, :-1], begins, [states[0], module.backbone.init_state(1)]
            )
            return module.loss(whole, tokens[:, 1:]) + module.loss(parts, tokens[:, 1:])

        found.append(kept_and_gradients(step, module))
    (plain, wanted), (kept, gradients) = found
    inputs = 2 * len(module.backbone.blocks) * tokens[:, 1:].numel() * 16 * 8  # of both readings
    assert kept + inputs < 0.7 * plain
    assert wanted.keys() == gradients.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-12, atol=1e-15, msg=name)


@MIXERS
@torch.no_grad()
def test_documents_in_a_window_give_the_bits_of_separate_calls(mixer):
    """No leak: the tokens before a document change no bit of its logits."""
    module = model(mixer=mixer)
    tokens, begins = torch.randint(256, (2, 23)), torch.zeros(2, 23, dtype=torch.bool)
    begins[0, [0, 5, 6]] = begins[1, 9] = True
    logits, states = module.read(tokens, begins, None)
    other = tokens.clone()
    other[0, :6] = 7
    other[1, :9] = 7
    changed, after = module.read(other, begins, None)
    assert torch.equal(logits[0, 6:], changed[0, 6:]) and torch.equal(logits[1, 9:], changed[1, 9:])
    assert not torch.equal(logits[1, :9], changed[1, :9])
    for state, changed_state in zip(states, after, strict=True):
        assert_same_state(state, changed_state, tolerance=0)
    alone = [tokens[:1, :5], tokens[:1, 5:6], tokens[:1, 6:], tokens[1:, :9], tokens[1:, 9:]]
    whole = torch.cat([module.backbone(part)[0] for part in alone], dim=1)
    torch.testing.assert_close(logits.view(1, -1, 258), whole, rtol=1e-5, atol=1e-6)


@MIXERS
def test_documents_of_equal_lengths_give_the_logits_and_gradients_of_separate_calls(mixer):
    """They are read as one batch."""
    module = model(mixer=mixer).double()
    tokens, begins = torch.randint(256, (2, 24)), torch.zeros(2, 24, dtype=torch.bool)
    begins[0, [7, 14]] = begins[1, [0, 7, 14, 19]] = True  # 7 five times, 10 and 5 once
    logits, states = module.read(tokens, begins, None)
    lengths = [(0, 7), (7, 14), (14, 24)], [(0, 7), (7, 14), (14, 19), (19, 24)]
    alone = [
        module.backbone(tokens[row : row + 1, begin:end])
        for row, ends in enumerate(lengths)
        for begin, end in ends
    ]
    whole = torch.cat([found for found, _ in alone], dim=1)
    torch.testing.assert_close(logits.view(1, -1, 258), whole)
    for state, (_, wanted) in zip(states, (alone[2], alone[-1]), strict=True):
        assert_same_state(state, wanted, tolerance=1e-9)
    weights = [p for p in module.backbone.parameters() if p.requires_grad]
    towards = torch.randn_like(whole)
    found, wanted = (
        torch.autograd.grad((y.view_as(towards) * towards).sum(), weights, allow_unused=True)
        for y in (logits, whole)
    )
    for one, other in zip(found, wanted, strict=True):
        if one is not None or other is not None:
            torch.testing.assert_close(one, other)


def lane_window(tokens, *fresh):
    return Window(tokens, None, torch.tensor(fresh))


@MIXERS
def test_lanes_carry_their_states_and_fresh_ones_do_not(mixer):
    module = model(mixer=mixer)
    module.log = lambda *_, **__: None
    module.record = lambda *_: None
    tokens = torch.randint(256, (2, 25))
    module.training_step(lane_window(tokens[:, :9], True, True), 0)
    module.training_step(lane_window(tokens[:, 8:17], False, True), 1)
    got = module.training_step(lane_window(tokens[:, 16:], False, False), 2)
    with torch.no_grad():
        long, short = module.backbone(tokens[:1, :-1])[0], module.backbone(tokens[1:, 8:-1])[0]
        wanted = torch.cat((long[:, 16:], short[:, 8:]))
        torch.testing.assert_close(got, module.loss(wanted, tokens[:, 17:]))


def test_a_checkpoint_saves_and_loads_the_lanes():
    module = model()
    module.log = lambda *_, **__: None
    module.record = lambda *_: None
    tokens = torch.randint(256, (2, 9))
    module.training_step(lane_window(tokens, True, True), 0)
    checkpoint = {"global_step": 1}
    module.on_save_checkpoint(checkpoint)
    other = model()
    other.on_load_checkpoint(checkpoint)
    for saved, loaded in zip(module.lanes.carried, other.lanes.carried, strict=True):
        assert_same_state(saved, loaded, tolerance=0)
    other._trainer.world_size = 2
    with pytest.raises(ValueError, match="has 1 processes, and there are 2; set trainer.devices"):
        other.on_load_checkpoint(checkpoint)
    other._trainer.state.fn = "validate"
    other.on_load_checkpoint(checkpoint)


def test_the_losses_of_processes_have_the_mean_of_all_rows():
    losses, batches = [], []
    for rows in (3, 2, 0):  # of three processes; the last has an idle row
        batch = torch.randn(max(1, rows), 2)
        batches.append(batch[:rows])
        weight, count = weigh(Window(batch, rows=torch.tensor((rows, 5))), 3)
        losses.append(batch.mean() * weight)
        assert count == 5
    torch.testing.assert_close(torch.stack(losses).mean(), torch.cat(batches).mean())
    assert weigh(Window(torch.zeros(4, 2)), 3) == (1.0, 12)


def test_training_starts_from_the_weights_of_start_from_once(tmp_path):
    first, path = model(), tmp_path / "first.ckpt"
    save_tokens_model(TokenCheckpoint(first.backbone, "bytes"), path)
    second = model(start_from=str(path))
    second.on_fit_start()
    for name, weight in second.backbone.state_dict().items():
        assert torch.equal(weight, first.backbone.state_dict()[name])
    checkpoint = {"global_step": 1}
    second.on_save_checkpoint(checkpoint)
    path.unlink()
    resumed = model(start_from=str(path))
    resumed.on_load_checkpoint(checkpoint)
    resumed.on_fit_start()  # has no need of the file


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mixer": "attention"}, "has mixer ttt, and this model attention"),
        ({"inner": "mlp"}, "has ttt.inner linear, and this model mlp"),
        ({"width": 32}, "has width 16, and this model 32"),
        ({"norm_eps": 1e-5}, "has norm_eps 1e-06, and this model 1e-05"),
    ],
    ids=str,
)
def test_start_from_refuses_the_weights_of_another_model(tmp_path, changes, message):
    save_tokens_model(TokenCheckpoint(model().backbone, "bytes"), tmp_path / "first.ckpt")
    inner, mixer = changes.pop("inner", "linear"), changes.pop("mixer", "ttt")
    module = model(inner, mixer=mixer, start_from=str(tmp_path / "first.ckpt"))
    module.backbone = Backbone(replace(module.backbone.config, **changes))
    with pytest.raises(ValueError, match=message):
        module.on_fit_start()


def test_runs_that_cannot_resume_are_refused():
    module, checkpoint = model(), {"global_step": 101}
    with pytest.raises(ValueError, match="has 101 steps behind it, and trainer.max_steps is 100"):
        module.on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="another version, which did not time its steps"):
        module.on_load_checkpoint({"global_step": 1})
    timed = {"seconds": 0.5, "steps": 1}
    with pytest.raises(ValueError, match="another model or version, without 'lane_states'"):
        module.on_load_checkpoint({"global_step": 1, "step_time": timed})
    attention = model(mixer="attention")
    attention._trainer.datamodule.lanes = True
    attention.on_fit_start()
    attention._trainer.datamodule.share_fresh = 0
    with pytest.raises(ValueError, match="remember the whole corpus; set attention.window"):
        attention.on_fit_start()


def test_carried_lanes_follow_the_model_to_its_device():
    module = model()
    module.log = lambda *_, **__: None
    module.record = lambda *_: None
    module.training_step(lane_window(torch.randint(256, (2, 9)), True, True), 0)
    module.to("meta")
    module.on_fit_start()
    assert all(x.device.type == "meta" for state in module.lanes.carried for x in leaves(state))


@pytest.fixture
def frame_tokenizer(tmp_path):
    """A frame tokenizer and its checkpoint."""
    torch.manual_seed(0)
    config = FrameTokenizerConfig(size=16, width=8, blocks=1)
    tokenizer, path = FrameTokenizer(config), str(tmp_path / "t.ckpt")
    about = {"model": "frame tokenizer", "frame_tokenizer": vars(config)}
    weights = {f"tokenizer.{name}": tensor for name, tensor in tokenizer.state_dict().items()}
    torch.save({"tttvideo": about, "state_dict": weights}, path)
    return tokenizer, path


def test_tokens_of_another_frame_tokenizer_are_refused(frame_tokenizer):
    tokenizer, path = frame_tokenizer
    right = Header("video", tokenizer.fingerprint(), 1000, grid=(2, 2))
    with pytest.raises(ValueError, match="set model.frame_tokenizer"):
        model(header=right)
    with pytest.raises(ValueError, match="made by frame tokenizer other"):
        model(header=Header("video", "other", 1000, grid=(2, 2)), tokenizer=path)
    module = model(header=right, tokenizer=path)
    assert module.backbone.config.grid == (2, 2)
    assert not any(p.requires_grad for p in module.frame_tokenizer.parameters())


def test_a_frame_tokenizer_refuses_tokens():
    module = FrameTokenizerModel(FrameTokenizerConfig(size=16, width=8, blocks=1))
    module._trainer = SimpleNamespace(datamodule=TokenData("tokens.bin"))
    with pytest.raises(ValueError, match="learns from frames: set data to a FrameData"):
        module.setup("fit")


def test_the_share_of_the_time_spent_waiting_for_data_is_logged(monkeypatch):
    module, logged, now = model(), {}, iter((0.0, 0.4, 1.0, 1.0, 3.0, 3.0))
    wait = SimpleNamespace(seconds=5.0)
    module._trainer.train_dataloader = SimpleNamespace(wait=wait)
    module.log = lambda name, value, **_: logged.update({name: value})
    monkeypatch.setattr("tttvideo.training.outer_loop.time.monotonic", lambda: next(now))
    module.on_train_start()
    module.log_rate(30, "tokens_per_s")  # too early
    assert not logged
    wait.seconds = 5.25
    module.log_rate(30, "tokens_per_s")
    assert logged == {"tokens_per_s": 60.0, "data_wait": 0.25}
    module.log_rate(30, "tokens_per_s")
    assert logged == {"tokens_per_s": 15.0, "data_wait": 0.0}


def test_psnr_is_measured_per_frame():
    truth = torch.zeros(2, 4, 4, 3)
    frames = truth.clone()
    frames[0] = 0.1
    assert psnr(frames, truth).tolist() == pytest.approx([20, 100])


def test_embeddings_of_near_codes_start_near_each_other(frame_tokenizer):
    tokenizer, path = frame_tokenizer
    header = Header("video", tokenizer.fingerprint(), 1000, grid=(2, 2))
    module = model(header=header, tokenizer=path)
    codes = tokenizer.fsq.to_codes(torch.arange(1000))
    for table in (module.backbone.embedding.weight, module.backbone.window.embedding.weight):
        apart = torch.cdist(table[:1000], table[:1000]).flatten()
        between = torch.cdist(codes, codes).flatten()
        assert torch.corrcoef(torch.stack((apart, between)))[0, 1] > 0.2  # 0 when drawn at random
