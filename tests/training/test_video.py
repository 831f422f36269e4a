"""Laws of the training of frame models."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from helpers.gradients import kept_and_gradients
from helpers.states import assert_same_state
from tttvideo.data.order import Window
from tttvideo.data.tokens import Header
from tttvideo.mixers.mamba import MambaConfig
from tttvideo.mixers.registry import MIXERS
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.training.lanes import noisy
from tttvideo.training.outer_loop import OptimConfig
from tttvideo.training.video import VideoModel
from tttvideo.video.address import AddressConfig
from tttvideo.video.conditions import Conditions, ConditionsConfig
from tttvideo.video.frame_model import FrameModelConfig
from tttvideo.video.frame_tokenizer import FrameTokenizer, FrameTokenizerConfig
from tttvideo.video.palette import PaletteConfig, PaletteTokenizer
from tttvideo.weights.checkpoints import (
    frame_tokenizer_about,
    save_palette,
    save_torch_file,
)
from tttvideo.weights.video_checkpoints import load_video_model


PALETTE = PaletteTokenizer(PaletteConfig(size=16, colours=5))
FACTS = {"vocab_size": 5, "grid": (2, 2), "action_kinds": 3, "pose_periods": (4, 4)}
HEADER = Header("video", PALETTE.fingerprint(), **FACTS, conditions=("actions", "poses"))


@pytest.fixture
def model(tmp_path):
    """A function that builds a VideoModel, attached to a trainer of 100 steps."""
    save_palette(PALETTE, tmp_path / "palette.ckpt")

    def build(mixer="ttt", poses="shift", header=HEADER, known=None, **changes):
        torch.manual_seed(0)
        sizes = {"width": 16, "depth": 2, "heads": 2, "mlp_width": 24}
        ttt = TTTConfig(address="content" if poses == "none" else "place")
        parts = {"address": AddressConfig(poses), "mamba": MambaConfig(head_dim=8), "ttt": ttt}
        parts["conditions"] = ConditionsConfig(**(known or {}))
        config = FrameModelConfig(mixer=mixer, **sizes, **parts)
        module = VideoModel(
            config, header, str(tmp_path / "palette.ckpt"), OptimConfig(), **changes
        )
        module.log = lambda *_, **__: None
        module.log_rate = lambda *_: None
        data = SimpleNamespace(lanes=True, seed=0)
        module._trainer = SimpleNamespace(
            datamodule=data, global_step=0, max_steps=9, world_size=1, global_rank=0
        )
        return module

    return build


def window(frames, poses, begin, end, fresh):
    """Frames `begin` to `end` are read, and each but the first is predicted."""
    tokens = frames[:, begin : end + 1].flatten(1)
    known = Conditions(poses=poses[:, begin : end + 1])
    return Window(tokens, None, torch.tensor(fresh), known)


@pytest.mark.parametrize("poses", ["none", "shift"])
def test_checkpoints_of_activations_keep_less_and_change_no_gradient(poses, model):
    frames, places = torch.randint(5, (2, 10, 4)), torch.randint(4, (2, 10, 2))
    known, found = Conditions(poses=places), []
    for checkpointing in (False, True):
        module = model(poses=poses, activation_checkpointing=checkpointing).double()

        def step(module=module):
            vectors, _ = module.read(frames[:, :-1], known, None)
            return module.loss(vectors, frames[:, 1:], frames[:, :-1])

        found.append(kept_and_gradients(step, module))
    (plain, wanted), (kept, gradients) = found
    inputs = len(module.frame_model.blocks) * frames[:, 1:].numel() * 16 * 8
    assert kept + inputs < 0.7 * plain
    assert wanted.keys() == gradients.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-12, atol=1e-15, msg=name)


@pytest.mark.parametrize("mixer", [*MIXERS, None])
def test_lanes_carry_their_states_and_fresh_ones_do_not(mixer, model):
    module = model(mixer)
    frames, poses = torch.randint(5, (2, 9, 4)), torch.randint(4, (2, 9, 2))
    module.training_step(window(frames, poses, 0, 3, [True, True]), 0)
    module.training_step(window(frames, poses, 3, 5, [False, True]), 1)
    got = module.training_step(window(frames, poses, 5, 8, [False, False]), 2)
    with torch.no_grad():
        wanted = []
        for lane, begin in ((0, 0), (1, 3)):
            one = slice(lane, lane + 1)
            last, known = frames[one, begin:8], Conditions(poses=poses[one, begin:])
            vectors, _ = module.read(last, known, None)
            shown = frames[one, 6:9], frames[one, 5:8]
            wanted.append(module.loss(vectors[:, -3:], *shown))
    torch.testing.assert_close(got, torch.stack(wanted).mean())


def test_the_facts_of_the_data_shape_the_model(model):
    config = model().frame_model.config
    assert (config.vocab_size, config.grid) == (5, (2, 2))
    assert (config.conditions.actions, config.address.periods) == (3, (4, 4))
    assert model(poses="none").frame_model.address is None

    assert model(known={"actions": 0}).frame_model.config.conditions.actions == 0


@pytest.mark.parametrize(
    "known, message",
    [
        ({"poses": "shift"}, "address.poses is shift, and the token file has no poses: set it to"),
        ({"known": {"actions": 3}}, "conditions.actions is 3, and the token file has no actions"),
        ({"known": {"action_size": 2}}, "conditions.action_size is 2, and the token file has no"),
        ({"known": {"classes": 2}}, "conditions.classes is 2, and the token file has no classes"),
        ({"known": {"seconds": True}}, "seconds is true, and the token file has no seconds: set"),
    ],
)
def test_what_the_token_file_does_not_hold_is_refused(known, message, model):
    bare = replace(HEADER, conditions=(), action_kinds=None, pose_periods=None)
    with pytest.raises(ValueError, match=message):
        model(header=bare, **{"poses": "none", **known})


def test_a_checkpoint_keeps_the_model_and_the_lanes(model, tmp_path):
    module = model()
    frames, poses = torch.randint(5, (2, 4, 4)), torch.randint(4, (2, 4, 2))
    module.training_step(window(frames, poses, 0, 3, [True, True]), 0)
    checkpoint = {"global_step": 1, "state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    other = model()
    other._trainer.state = SimpleNamespace(fn="fit")
    with pytest.raises(ValueError, match="another model or version, without 'lane_states'"):
        other.on_load_checkpoint({"global_step": 1, "step_time": checkpoint["step_time"]})
    other.on_load_checkpoint(checkpoint)
    for saved, loaded in zip(module.lanes.carried, other.lanes.carried, strict=True):
        assert_same_state(saved, loaded, tolerance=0)
    save_torch_file(checkpoint, tmp_path / "last.ckpt")
    loaded = load_video_model(tmp_path / "last.ckpt")
    known = Conditions(poses=poses)
    wanted, _ = module.eval().frame_model(frames[:, :3], None, known)
    assert torch.equal(loaded.network(frames[:, :3], None, known)[0], wanted)
    assert loaded.trained == {"frames": 6, "window": 3, "steps": 1}
    assert loaded.frame_tokenizer.fingerprint() == HEADER.tokenizer


def test_tables_that_share_digits_are_plain_in_a_loaded_model(tmp_path):
    codec = FrameTokenizer(FrameTokenizerConfig(size=16, width=8, blocks=1, hidden=8))
    weights = {f"tokenizer.{name}": w for name, w in codec.state_dict().items()}
    about = frame_tokenizer_about(codec.config)
    save_torch_file({"tttvideo": about, "state_dict": weights}, tmp_path / "codec.ckpt")
    header = Header("video", codec.fingerprint(), vocab_size=1000, grid=(2, 2))
    config = FrameModelConfig(width=16, depth=2, heads=2, mlp_width=24, first_mixer=1)
    module = VideoModel(config, header, str(tmp_path / "codec.ckpt"))
    checkpoint = {"global_step": 1, "state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    save_torch_file(checkpoint, tmp_path / "last.ckpt")
    loaded = load_video_model(tmp_path / "last.ckpt").network
    assert not any("shared" in name for name, _ in loaded.named_parameters())
    assert any("shared" in name for name, _ in module.frame_model.named_parameters())
    frames = torch.randint(1000, (2, 3, 4))
    wanted, _ = module.frame_model(frames)
    assert torch.equal(loaded(frames)[0], wanted)
    heads = (x.head(wanted[0], frames[0], frames[0]) for x in (loaded, module.frame_model))
    assert torch.equal(*heads)
    del checkpoint["tttvideo"]["frame_model"]["first_mixer"]
    save_torch_file(checkpoint, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match="written by another version: 'first_mixer'"):
        load_video_model(tmp_path / "old.ckpt")
    module._trainer = SimpleNamespace(
        max_steps=9, state=SimpleNamespace(fn="fit"), world_size=1, global_rank=0
    )
    with pytest.raises(ValueError, match="a frame model with other norms"):
        module.on_load_checkpoint(checkpoint)


def test_noise_replaces_at_most_its_share_of_each_window():
    tokens = torch.zeros(64, 50, 20, dtype=torch.long)
    changed = noisy(tokens, 0.2, torch.ones_like)
    share = changed.float().mean((1, 2))
    assert share.max() < 0.23 and 0.08 < share.mean() < 0.12 and share.std() > 0.03
    assert noisy(tokens, 0.0, torch.ones_like) is tokens


def test_mistakes_are_random_or_a_frame_late_and_never_show_the_next_frame(model):
    frames = torch.arange(50)[None, :, None].expand(1, 50, 400)
    made = model().mistakes(frames)
    late = made == (frames - 1).clamp_min(0)
    assert ((made < 5) | late).all()
    assert 0.48 < late[:, 6:].float().mean() < 0.52


def test_a_step_that_is_done_again_makes_the_same_mistakes(model):
    module, frames = model(), torch.zeros(2, 9, 40, dtype=torch.long)
    made = []
    for step, batch, rank in ((3, 6, 0), (3, 6, 0), (4, 6, 0), (3, 7, 0), (3, 6, 1)):
        module._trainer.global_step, module._trainer.global_rank = step, rank
        module.warmup_steps = 1
        module.on_train_batch_start(None, batch)
        made.append(module.mistakes(frames))
    assert torch.equal(made[0], made[1])
    assert not any(torch.equal(made[0], other) for other in made[2:])


def test_a_noise_that_leaves_nothing_is_refused(model):
    with pytest.raises(ValueError, match=r"model.noise is 1.0; it must be from 0 to below 1"):
        model(noise=1.0)
